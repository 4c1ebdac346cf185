"""Methods that are not given alike: found, refused unless declared, and shown"""

from pathlib import Path
from typing import Any

import pytest

from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.dimensions import corners
from remix_study.study.fairness import unequal_keys
from remix_study.study.ledger import Ledger, TrialRecord
from remix_study.study.question import question_of
from remix_study.study.results import result_of
from remix_study.study.search_space import configure, space_of
from remix_study.study.study_file import check_study, read_study
from tests.unit.study.test_results import replicate, trial

ROOT = Path(__file__).parents[3]
RATE = {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}


def method(config: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    changes = changes or {}
    return {**changes, "set": {"method": config, **changes.get("set", {})}}


def study(joint: dict[str, Any] | None = None, remix: dict[str, Any] | None = None, **changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s", "question": "q?", "base": {"corpus": "corpus", "epochs": 10}, "reference": "remix",
        "trials": 2, "replicates": 2,
        "methods": {
            "joint": method({"name": "joint"}, joint),
            "remix": method({"name": "remix", "warmup": 3}, remix),
        },
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def found(made: StudyConfig) -> dict[str, str]:
    return unequal_keys(
        {name: configure(made, name, next(corners(space_of(made, m))), 0, {})
         for name, m in made.methods.items()},
        {name: space_of(made, m) for name, m in made.methods.items()},
    )  # fmt: skip


def test_methods_that_differ_in_their_method_only_are_equal() -> None:
    assert found(study()) == {}
    shared = study(space={"optimizer.learning_rate": RATE}, remix={"space": {"method.weight": RATE}})
    assert found(shared) == {}
    assert check_study(shared, {})


@pytest.mark.parametrize(
    ("joint", "remix", "key", "difference"),
    [
        ({}, {"set": {"epochs": 20}}, "epochs", "10 for `joint`; 20 for `remix`"),
        ({"set": {"global_batch": 32}}, {}, "global_batch", "32 for `joint`; 64 for `remix`"),
        ({"set": {"control_fraction": 0.1}}, {"set": {"control_fraction": 0}}, "control_fraction",
         "0.1 for `joint`; 0 for `remix`"),
        ({}, {"set": {"model": {"encoder": {"name": "resnet18"}}}}, "model.encoder.name",
         "tiny for `joint`; resnet18 for `remix`"),
        ({}, {"set": {"model.encoders": {"audio": {"name": "resnet18"}}}}, "model.encoders",
         "{} for `joint`; {audio: {name: resnet18, width: 64}} for `remix`"),
        ({}, {"set": {"augment.crop": True}}, "augment.crop", "false for `joint`; true for `remix`"),
        ({}, {"set": {"evaluation": {"select_by": "macro_f1"}}}, "evaluation.select_by",
         "accuracy for `joint`; macro_f1 for `remix`"),
        ({}, {"set": {"loss": {"label_smoothing": 0.1}}}, "loss.label_smoothing", "0 for `joint`; 0.1 for `remix`"),
        ({}, {"space": {"optimizer.learning_rate": RATE}}, "optimizer.learning_rate",
         "5e-05 for `joint`; searched (0.0001 to 0.01, log) for `remix`"),
        ({"space": {"optimizer.learning_rate": RATE | {"high": 1e-3}}}, {"space": {"optimizer.learning_rate": RATE}},
         "optimizer.learning_rate",
         "searched (0.0001 to 0.001, log) for `joint`; searched (0.0001 to 0.01, log) for `remix`"),
    ],
)  # fmt: skip
def test_any_other_difference_is_found_and_refused(
    joint: dict[str, Any], remix: dict[str, Any], key: str, difference: str
) -> None:
    base = {"corpus": "corpus", "epochs": 10, "optimizer": {"name": "adam", "learning_rate": 5e-5}}
    made = study(joint, remix, base=base)
    assert found(made)[key] == difference
    with pytest.raises(ConfigError, match="methods must be given the same") as refused:
        check_study(made, {})
    assert f"`{key}`, but differ: {difference}" in str(refused.value)


def test_a_searched_group_of_keys_is_one_difference() -> None:
    pictures = {"kind": "choice", "of": {"plain": {}, "moved": {"crop": True, "flip": True}}}
    made = study(remix={"space": {"augment": pictures}})
    with pytest.raises(
        ConfigError, match=r"`augment`, but differ: .* for `joint`; searched \(plain, moved\) for `remix`"
    ):
        check_study(made, {})
    assert check_study(study(space={"augment": pictures}), {})


def test_a_search_is_the_same_if_its_values_are() -> None:
    def augment(name: str, shift: float) -> dict[str, Any]:
        return {"augment": {"kind": "choice", "of": {"plain": {}, name: {"shift": shift}}}}

    with pytest.raises(ConfigError, match="must be given the same `augment`"):  # equal labels, other values
        check_study(study({"space": augment("some", 0.1)}, {"space": augment("some", 0.4)}), {})
    sizes = {"kind": "choice", "of": [32, 64]}
    reversed_sizes = {"kind": "choice", "of": [64, 32]}
    assert check_study(study({"space": {"global_batch": sizes}}, {"space": {"global_batch": reversed_sizes}}), {})
    steps = {"kind": "int", "low": 10, "high": 30}
    with pytest.raises(ConfigError, match=r"searched \(10 to 30\) for `joint`; searched \(10 to 30, step 10\) for"):
        check_study(study({"space": {"epochs": steps}}, {"space": {"epochs": steps | {"step": 10}}}), {})


def test_a_declared_difference_is_accepted_and_changes_no_identity() -> None:
    remix: dict[str, Any] = {"set": {"epochs": 20}}
    declared = study(remix=remix, unequal=[{"key": "epochs", "reason": "it trains each modality half as often"}])
    assert check_study(declared, {})
    assert question_of(declared, "corpus") == question_of(study(remix=remix), "corpus")
    group = study(remix={"set": {"augment": {"crop": True}}}, unequal=[{"key": "augment", "reason": "r"}])
    assert check_study(group, {})


def test_a_declared_difference_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a key in which methods differ, but all have the same `epochs`"):
        check_study(study(unequal=[{"key": "epochs", "reason": "r"}]), {})


def test_a_problem_of_another_key_does_not_hide_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nquestion: q\nbase: {corpus: c, epochs: 10}\nmethods:\n  joint: {set: {method: {name: joint}}}\n"
        "  remix:\n    set:\n      method: {name: remix, warmup: 3}\n      epochs: 20\nreference: remix\ntrials: 2\n"
        "replicates: 2\npruner: {name: asha, grace: 2}\n"
    )
    with pytest.raises(ConfigError) as refused:
        read_study(path, {})
    assert "s.yaml:9: `methods.remix.set.epochs`: methods must be given the same `epochs`" in str(refused.value)
    assert "must be above every warm-up" in str(refused.value)


def result_for(made: StudyConfig, trials: dict[str, list[TrialRecord]], folder: Path) -> str:
    folder.mkdir()
    (folder / "result.json").write_text('{"test/accuracy": 0.5}')
    replicates = {name: tuple(replicate(n, folder, method=name) for n in range(2)) for name in trials}
    found = result_of(Ledger(made, folder, {name: tuple(each) for name, each in trials.items()}, replicates))
    assert found is not None
    return found.sentence


def test_the_sentence_says_what_methods_were_not_given_alike(tmp_path: Path) -> None:
    remix: dict[str, Any] = {"set": {"epochs": 20}}
    unequal = study(remix=remix, unequal=[{"key": "epochs", "reason": "on purpose"}])
    two = {name: [trial(n, 0.9, method=name) for n in range(2)] for name in unequal.methods}
    said = result_for(unequal, two, tmp_path / "a")
    assert "The settings of the methods differ: epochs is 10 for joint; 20 for remix (on purpose)." in said
    fewer = {"joint": [trial(0, 0.9, method="joint")], "remix": [trial(n, 0.9) for n in range(2)]}
    assert "settings of the methods differ: trials: 1 for joint, 2 for remix." in result_for(
        study(), fewer, tmp_path / "b"
    )
    assert "settings of the methods differ" not in result_for(study(), {**two}, tmp_path / "c")


def test_settings_that_are_not_valid_any_more_are_not_called_equal(tmp_path: Path) -> None:
    remix: dict[str, Any] = {"set": {"epochs": "many"}}
    trials = {name: [trial(0, 0.9, method=name)] for name in ("joint", "remix")}
    said = result_for(study(remix=remix), trials, tmp_path / "a")
    assert "The settings of remix are not valid in this version, so that they cannot be compared" in said
    assert "settings of the methods differ" not in said


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_say_where_methods_are_not_given_alike(path: Path) -> None:
    assert [each.key for each in load_study(path).unequal] == {
        "fusions": ["model.fusion"], "backbones": ["model.fusion"], "sensitivity": ["rate"],
        "cremad_ogm": ["optimizer.learning_rate"], "abstain": ["targets"],
    }.get(path.stem, [])  # fmt: skip
