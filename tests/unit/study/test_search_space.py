import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from remix_study.config.run import MarginConfig, RemixConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.search_space import (
    SpaceRow,
    check_study,
    configure,
    effective_space,
    grid,
    grid_size,
    read_study,
    space_of,
    suggest,
)

BASE = {"corpus": "corpus", "epochs": 5, "optimizer": {"name": "adam"}}
SPACE = {
    "optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "epochs": {"kind": "int", "low": 4, "high": 6},
}
REMIX = {
    "set": {"method": {"name": "remix", "warmup": 1}},
    "space": {
        "method.order": {"kind": "choice", "of": ["blocks", "mixed"]},
        "method.filter": {
            "kind": "choice",
            "of": {"plain": {"rule": "argmin"}, "close": {"rule": "margin", "threshold": 0.5}},
        },
    },
}


def study(**changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s", "question": "q?", "base": BASE, "space": SPACE, "reference": "remix", "trials": 2, "replicates": 2,
        "methods": {"joint": {"set": {"method": {"name": "joint"}}}, "remix": REMIX},
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def test_a_method_searches_what_all_search_and_its_own() -> None:
    s = study()
    assert list(space_of(s, s.methods["joint"])) == ["optimizer.learning_rate", "epochs"]
    assert list(space_of(s, s.methods["remix"])) == [
        "optimizer.learning_rate",
        "epochs",
        "method.order",
        "method.filter",
    ]


def test_points_lie_in_the_space_and_choices_are_told_by_their_labels() -> None:
    s = study()
    space = space_of(s, s.methods["remix"])
    searcher = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(searcher.ask(), space) for _ in range(20)]
    for point in points:
        assert 1e-4 <= float(str(point["optimizer.learning_rate"])) <= 1e-2
        assert point["epochs"] in (4, 5, 6)
    assert {point["method.filter"] for point in points} == {"plain", "close"}
    assert {point["method.order"] for point in points} == {"blocks", "mixed"}


def test_a_point_becomes_a_run_base_then_method_then_point_then_settings() -> None:
    s = study()
    point = {"optimizer.learning_rate": 0.005, "epochs": 4, "method.order": "mixed", "method.filter": "close"}
    run = configure(s, "remix", point, seed=7, settings={"corpus": "elsewhere", "evaluation.test": True})
    assert isinstance(run.method, RemixConfig)
    assert (run.method.order, run.method.filter) == ("mixed", MarginConfig(rule="margin", threshold=0.5))
    assert (run.optimizer.learning_rate, run.epochs, run.seed) == (0.005, 4, 7)
    assert (run.corpus, run.evaluation.test, run.method.warmup) == ("elsewhere", True, 1)


def test_points_do_not_leak_into_each_other() -> None:
    """A whole part that is chosen must not be shared: a later `a.b` would change the study itself."""
    s = study()
    before = s.model_dump()
    for number in range(2):
        configure(s, "remix", {"method.filter": "close"}, seed=0, settings={"method.filter.threshold": 0.1 + number})
    assert s.model_dump() == before


def test_a_label_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="a choice must be one of plain, close, but is far"):
        configure(study(), "remix", {"method.filter": "far"}, seed=0, settings={})


def test_a_study_is_checked_at_its_corners_and_its_first_points() -> None:
    remix = REMIX | {"first": [{"optimizer.learning_rate": 0.001}]}
    runs = check_study(study(methods={"joint": {"set": {"method": {"name": "joint"}}}, "remix": remix}), {})
    first, *corners = [run for run in runs if run.method.name == "remix"]
    assert [run.epochs for run in runs if run.method.name == "joint"] == [4, 6]
    assert (first.epochs, first.optimizer.learning_rate) == (5, 0.001)
    assert [run.epochs for run in corners] == [4, 6, 4, 4]
    assert {run.method.order for run in corners if isinstance(run.method, RemixConfig)} == {"blocks", "mixed"}


def test_every_label_of_a_choice_is_checked_also_one_in_the_middle_and_under_a_condition() -> None:
    space = {
        "method.filter.rule": {"kind": "choice", "of": ["argmin", "margin", "random"]},
        "method.filter.threshold": {
            "kind": "choice", "of": [0.1, 0.5, -1.0, 0.9], "when": {"method.filter.rule": "margin"},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"`methods\.remix\.space\.method\.filter\.threshold`: .*\(is -1\.0\)"):
        check_study(conditional(space=space), {})


def test_all_methods_mistakes_are_told_at_once() -> None:
    methods = {
        "joint": {
            "set": {"method": {"name": "joint"}},
            "space": {"optimizer.learnin_rate": {"kind": "float", "low": 0, "high": 1}},
        },
        "late": {"set": {"method": {"name": "remix", "warmup": 5}}},
        "remix": REMIX | {"first": [{"method.odrer": "blocks"}]},
        "never": {"set": {"method": {"name": "remix", "warmup": 9}}},
    }
    with pytest.raises(ConfigError) as raised:
        check_study(study(methods=methods), {})
    told = str(raised.value)
    assert told.splitlines()[0] == "the study `s` has 4 problems:"
    for wanted in (
        "`methods.joint.space.optimizer.learnin_rate` is not a known key; did you mean `optimizer.learning_rate`?",
        "`methods.remix.first[0].method.odrer` is not searched for this method; searched: ",
        "`methods.late.set.method.warmup`: `method.warmup` must be below `epochs` (4), ",
        "`methods.never.set.method.warmup`: `method.warmup` must be below `epochs` (4), ",
    ):
        assert wanted in told


CONDITIONAL = {
    "set": {"method": {"name": "remix", "warmup": 1}},
    "space": {
        "method.filter.rule": {"kind": "choice", "of": ["argmin", "margin"]},
        "method.filter.threshold": {
            "kind": "float", "low": 0.0, "high": 0.75, "step": 0.25, "when": {"method.filter.rule": "margin"},
        },
    },
}  # fmt: skip


def conditional(**changes: Any) -> StudyConfig:
    return study(methods={"remix": CONDITIONAL | changes}, space={})


def test_a_conditional_dimension_is_searched_only_under_its_condition() -> None:
    s = conditional()
    space = space_of(s, s.methods["remix"])
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(sampled.ask(), space) for _ in range(30)]
    assert {len(point) for point in points} == {1, 2}
    for point in points:
        assert ("method.filter.threshold" in point) == (point["method.filter.rule"] == "margin")
        assert point.get("method.filter.threshold", 0.0) in (0.0, 0.25, 0.5, 0.75)
        run = configure(s, "remix", point, 0, {})
        assert isinstance(run.method, RemixConfig)
        assert run.method.filter.rule == point["method.filter.rule"]


def test_a_grid_is_every_point_once_and_knows_conditions() -> None:
    s = conditional()
    points = grid(space_of(s, s.methods["remix"]))
    assert points == [
        {"method.filter.rule": "argmin"},
        *({"method.filter.rule": "margin", "method.filter.threshold": t} for t in (0.0, 0.25, 0.5, 0.75)),
    ]


def test_a_grid_needs_ends_and_enough_points() -> None:
    with pytest.raises(ConfigError, match=r"`space.optimizer.learning_rate` has no end of values"):
        check_study(study(sampler="grid"), {})
    with pytest.raises(ConfigError, match="`trials` must be at most the 5 points of the grid of `remix`, but is 6"):
        check_study(conditional().model_copy(update={"sampler": "grid", "trials": 6}), {})
    assert check_study(conditional().model_copy(update={"sampler": "grid", "trials": 5}), {})


def test_a_condition_that_cannot_hold_is_refused() -> None:
    for when, said in (
        (
            {"method.order": "blocks"},
            r"must name a dimension of `remix` that is searched before .*method\.filter\.rule",
        ),
        ({"method.filter.rule": "marign"}, r"waits for marign, which never comes; did you mean `margin`\?"),
    ):
        space: dict[str, Any] = {"method.filter.rule": {"kind": "choice", "of": ["argmin", "margin"]}}
        space["method.filter.threshold"] = {"kind": "float", "low": 0.0, "high": 1.0, "when": when}
        with pytest.raises(ConfigError, match=said):
            check_study(conditional(space=space), {})


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"method.filter.rule": "argmax"}, r"`methods\.remix\.first\[0\]\.method\.filter\.rule`.*argmax"),
        (
            {"method.filter.rule": "margin", "method.filter.threshold": 0.3},
            r"must lie in its dimension \(0 to 0\.75\), but is 0\.3",
        ),
        (
            {"method.filter.rule": "margin", "method.filter.threshold": 2.0},
            r"must lie in its dimension \(0 to 0\.75\), but is 2\.0",
        ),
    ],
)
def test_a_first_point_outside_its_space_is_refused(point: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_study(conditional(first=[point]), {})


@pytest.mark.parametrize(
    "dimension",
    [
        {"kind": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"kind": "int", "low": 0, "high": 8, "log": True},
        {"kind": "float", "low": 0.1, "high": float("inf")},
    ],
)
def test_an_impossible_dimension_is_refused(dimension: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step|at least 1|finite"):
        study(space={"optimizer.learning_rate": dimension})


def test_what_is_really_searched_is_told_in_words() -> None:
    points = [
        {"method.filter.rule": "margin", "method.filter.threshold": 0.25},
        {"method.filter.rule": "argmin", "method.share": "free"},
    ]
    share = {"kind": "choice", "of": {"free": None, "progress": {"kind": "progress"}}}
    method = {**CONDITIONAL, "space": {**CONDITIONAL["space"], "method.share": share}, "first": points}  # type: ignore[dict-item]  # a literal of mixed values
    rows = effective_space(study(methods={"remix": method}), "remix")
    assert rows == [
        SpaceRow("optimizer.learning_rate", "float", "0.0001 to 0.01", "log", "", ()),
        SpaceRow("epochs", "int", "4 to 6", "", "", ()),
        SpaceRow("method.filter.rule", "choice", "argmin, margin", "", "", ("margin", "argmin")),
        SpaceRow(
            "method.filter.threshold", "float", "0 to 0.75", "step 0.25", "method.filter.rule is margin", ("0.25",)
        ),
        SpaceRow("method.share", "choice", "free, progress", "", "", ("free",)),
    ]


def test_a_grid_has_a_size_where_it_has_an_end() -> None:
    s = conditional()
    assert grid_size(space_of(s, s.methods["remix"])) == 5
    assert grid_size(space_of(study(), study().methods["joint"])) is None


WRONG = """\
name: s
question: q?
base:
  corpus: corpus
  epochs: 5
  optimizer: {name: adam, learning_rat: 1}
  model: {fusion: film}
  model: {fusion: concat}
space:
  optimizer.learning_rate: {kind: float, low: 1.0e-4, high: 1.0e-2, log: true}
  seed: {kind: int, low: 0, high: 3}
methods:
  joint:
    set: {method: {name: joint}}
    first: [{optimizer.learning_rate: 1e-3}]
  remix:
    set: {method: {name: remix, warmup: 3}}
    space: &space
      method.orderr: {kind: choice, of: [blocks, mixed]}
      method.share: {kind: choice, of: {free: null, progress: {kind: progres}}}
  random:
    set: {method: {name: remix, warmup: 3, filter: {rule: random}}}
    space: *space
  audio:
    set: {method: {name: unimodal}, corpus: x}
reference: remx
sampler: tpee
trails: 2
replicates: 2
objective: test/accuracy
"""


def test_every_mistake_is_told_at_once_with_its_line_each_once(tmp_path: Path) -> None:
    """Of the file's shape, of the study, and of what each method makes of it, though one would hide the others."""
    path = tmp_path / "study.yaml"
    path.write_text(WRONG)
    with pytest.raises(ConfigError) as raised:
        read_study(path, {})
    head, *told = str(raised.value).splitlines()
    where = [line.removeprefix(f"  - {path}:").split("`; ")[0].split("` ")[0] for line in told]
    assert where == [
        "  - `trials",
        "6: `base.optimizer.learning_rat",
        "7: `base.model",
        "11: `space.seed",
        "15: `methods.joint.first[0].optimizer.learning_rate",
        "19: `methods.remix.space.method.orderr",
        "20: `methods.remix.space.method.share.of.progress.kind",
        "25: `methods.audio.set.method.modality",
        "25: `methods.audio.set.corpus",
        "26: `reference",
        "27: `sampler",
        "28: `trails",
        "30: `objective",
    ]
    assert head == f"{path} has {len(told)} problems:"


def test_a_sound_file_is_read_and_settings_count(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nquestion: q\nbase: {epochs: 3}\nmethods: {a: {set: {method: {name: joint}}}}\nreference: a\n"
        "trials: 1\nreplicates: 1\n"
    )
    assert read_study(path, {"corpus": "elsewhere"}).name == "s"
    with pytest.raises(ConfigError, match=r":3: `base\.corpus` is missing"):
        read_study(path, {})


JUNK: list[Any] = [
    None, 1, -1, 0.5, "x", "1e-3", True, [], {}, [1, 2], {"a": 1}, [{"a": 1}], {1: 2}, float("nan"), [None],
    {"kind": "choice", "of": [[1]]}, {"kind": "float", "low": 0, "high": 1}, {"a": {"b": {"c": 1}}},
]  # fmt: skip
SHIPPED = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (group, key) of a file."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from places(value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_whatever_is_written_is_a_study_or_a_mistake(path: Path, tmp_path: Path) -> None:
    """Three places of a sound file are filled with junk, emptied or misspelt, 30 times: no other error comes of it."""
    draw = random.Random(path.name)
    broken = tmp_path / "study.yaml"
    refused = 0
    for _ in range(30):
        content = yaml.safe_load(path.read_text())
        for _ in range(3):
            group, key = draw.choice(list(places(content)))
            match draw.choice(["fill", "empty", "misspell"]):
                case "misspell" if isinstance(group, dict):
                    group[f"{key}x"] = group.pop(key)
                case "empty":
                    del group[key]
                case _:
                    group[key] = draw.choice(JUNK)
        broken.write_text(yaml.safe_dump(content, sort_keys=False))
        with suppress(ConfigError):
            read_study(broken, {})
            continue
        refused += 1
    assert refused > 20


def test_where_trials_are_kept_is_the_place_s_word_where_the_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: dict[str, Any] = {
        "name": "s",
        "question": "q",
        "base": BASE,
        "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
        "reference": "remix",
        "trials": 1,
        "replicates": 1,
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.delenv("REMIX_STUDY_STORAGE", raising=False)
    assert read_study(path, {}).storage is None
    url = "postgresql+psycopg://me:$DB_PASSWORD@host/studies"
    monkeypatch.setenv("REMIX_STUDY_STORAGE", url)
    assert read_study(path, {}).storage == url
    path.write_text(yaml.safe_dump({**content, "storage": "journal"}))
    assert read_study(path, {}).storage == "journal"
