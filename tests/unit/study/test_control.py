"""The control split of a study: the same clips for all methods, and none where no method reads them"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from remix_study.assemble import split_rows
from remix_study.config.assignment import READING_CONTROL
from remix_study.config.balancing import AGMOptions
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, StudyError
from remix_study.launch.run import unimodal_config
from remix_study.media.store import ClipStore
from remix_study.study import study as study_module
from remix_study.study.export import trial_rows
from remix_study.study.ledger import FINAL, read_ledger
from remix_study.study.outcomes import Replicated
from remix_study.study.plan import make_plan
from remix_study.study.results import compare
from remix_study.study.search_space import configure
from remix_study.study.status import study_status
from remix_study.study.study import StudyRun
from remix_study.study.study_file import check_study
from tests.studies import Conduct, Runner, config, write_no_report

Recipe = Callable[..., RunConfig]
REMIX = {"method": {"name": "remix", "warmup": 1}}
READER = {"set": {"method": {"name": "joint", "with": ["agm"]}}}


@pytest.fixture(autouse=True)
def agm_reads_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AGMOptions, "reads_control", True)


def study(methods: Mapping[str, Any] | None = None, **changes: Any) -> StudyConfig:
    """Return a study of joint, remix and `methods`."""
    known = config().model_dump(by_alias=True)["methods"]
    return config(methods={**known, **(methods or {})}, **changes)


def fractions(made: StudyConfig, **settings: Any) -> dict[str, float | None]:
    return {name: configure(made, name, {}, 0, settings).control_fraction for name in made.methods}


def test_a_run_has_a_control_split_if_its_method_reads_it(recipe: Recipe) -> None:
    assert recipe().control == 0
    assert recipe({"method.with": ["agm"]}).control == 0.1
    assert recipe({"method.with": ["agm"], "control_fraction": 0.3}).control == 0.3
    assert recipe({"control_fraction": 0.3}).control == 0.3
    for kind in ("progress", "by_score", "calibrated_progress", "held_out_progress", "block_gain"):
        share = {"method.share": {"kind": kind}, "method.filter": {"rule": "random"}}
        assert recipe(share).control == (0.1 if kind in READING_CONTROL else 0)
    with pytest.raises(ConfigError, match="must be above 0, because agm reads the control split while training, but"):
        recipe({"method": {"name": "agm"}, "control_fraction": 0})


def test_a_ceiling_trains_on_the_same_clips(recipe: Recipe, small_store: ClipStore) -> None:
    reader = recipe({"method.with": ["agm"]})
    for run in (reader, recipe()):
        alone = split_rows(unimodal_config(run, "audio"), small_store)["train"]
        assert alone.tolist() == split_rows(run, small_store)["train"].tolist()


@pytest.mark.parametrize(
    ("methods", "base", "expected"),
    [
        ({}, {}, None),
        ({}, {"control_fraction": 0.2}, 0.2),
        ({"agm": {"set": {"method": {"name": "agm"}}}}, {}, 0.1),
        ({"agm": {"set": {"method.name": "agm"}}}, {"method": {"name": "joint"}}, 0.1),
        ({"both": READER}, {}, 0.1),
        ({"both": READER}, {"control_fraction": 0.25}, 0.25),
        ({"both": {"set": {**READER["set"], "control_fraction": 0.3}}}, {}, 0.3),
        ({"both": {"set": {"method": {"name": "joint"}, "method.with.agm.alpha": 2.0}}}, {}, 0.1),
        ({"both": {"set": {"method": {"name": "joint"}},
                   "space": {"method.with.agm.alpha": {"kind": "float", "low": 0, "high": 1}}}}, {}, 0.1),
        ({"some": {"space": {"method": {"kind": "choice", "of": {"a": {"name": "joint"}, "b": {"name": "agm"}}}}}},
         {}, 0.1),
        ({"some": {"set": REMIX, "space": {"method.phases": {"kind": "choice", "of": {
            "none": None, "held out": [{"until": 0.5}, {"share": {"kind": "held_out_progress"}}]}}}}}, {}, 0.1),
        ({"some": {"set": {"method": {**REMIX["method"], "phases": [{"until": 0.5}, {"share": {"kind": "progress"}}]}},
                   "space": {"method.phases.1.share.kind": {
                       "kind": "choice", "of": ["progress", "held_out_progress"]}}}},
         {}, 0.1),
        ({"some": {"set": {"method": {"name": "joint"}},
                   "space": {"method.with": {"kind": "choice", "of": {"no": {}, "yes": {"agm": {}}}}}}}, {}, 0.1),
        ({"share": {"set": {"method.share": {"kind": "held_out_progress"}}}}, REMIX, 0.1),
        ({"share": {"set": {"method.share": {"kind": "progress"}}}}, REMIX, None),
        ({"some": {"space": {"method.share": {"kind": "choice", "of": {"no": None, "yes": {"kind": "block_gain"}}}}}},
         REMIX, 0.1),
    ],
)  # fmt: skip
def test_all_methods_of_a_study_have_the_same_fraction(
    methods: dict[str, Any], base: dict[str, Any], expected: float | None
) -> None:
    made = study(methods, base={"corpus": "c", "epochs": 3, **base})
    searched = methods.get("some", {}).get("space", {})
    params = {path: label for path, label in (("method", "b"), ("method.share", "yes")) if path in searched}
    found = {name: configure(made, name, params if name == "some" else {}, 0, {}) for name in made.methods}
    assert {run.control_fraction for run in found.values()} == {expected}
    check_study(made, {})


def test_replicates_of_all_methods_with_a_seed_train_on_the_same_clips(small_store: ClipStore) -> None:
    made = study({"both": READER})
    rows = {
        seed: {tuple(split_rows(configure(made, name, {}, seed, {}), small_store)["control"]) for name in made.methods}
        for seed in (0, 1)
    }
    assert [len(of_seed) for of_seed in rows.values()] == [1, 1]
    assert rows[0] != rows[1]


def test_unequal_control_splits_can_be_declared() -> None:
    joint = {"set": {"method": {"name": "joint"}, "control_fraction": 0}}
    with pytest.raises(ConfigError, match=r"the same `control_fraction`, but differ: 0 for `joint`; 0\.1 for"):
        check_study(study({"joint": joint, "both": READER}), {})
    declared = {"unequal": [{"key": "control_fraction", "reason": "what does it cost?"}]}
    check_study(study({"joint": joint, "both": READER}, **declared), {})


def test_the_control_split_is_not_searched() -> None:
    space = {"control_fraction": {"kind": "float", "low": 0.1, "high": 0.2}}
    with pytest.raises(ConfigError, match="cannot be searched: all methods of a study train on the same samples"):
        check_study(config(space=space), {})


def test_the_plan_says_how_many_clips_train(small_corpus: Path, tmp_path: Path) -> None:
    plan = make_plan(study({"both": READER}), {"corpus": str(small_corpus)}, tmp_path / "w", timed=False)
    assert plan.corpus.endswith(": 88 training clips, 8 control clips")


def test_the_sentence_says_how_many_clips_train() -> None:
    def replicates(*clips: int) -> Replicated:
        summaries = [{"test/accuracy": 0.5, "train/clips": n, "train/control_clips": 10.0} for n in clips]
        return Replicated(dict(enumerate(summaries)), {})

    result = compare(study(), {"joint": replicates(85, 86), "remix": replicates(85, 86)}, {}, [])
    assert "trained on 85 to 86 clips of the training split, and left 10 out as control clips" in result.sentence
    plain = Replicated({0: {"test/accuracy": 0.5}}, {})
    assert "control" not in compare(study(), {"joint": plain, "remix": plain}, {}, []).sentence


@pytest.mark.slow
def test_retrain_trains_on_the_control_clips_if_the_method_does_not_read_them(
    conduct: Conduct, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study({"both": READER})
    conduct(Runner(), made)

    def retrain(method: str, *, with_control: bool, of: StudyConfig = made, seeds: int = 2) -> list[float]:
        runner = Runner()
        monkeypatch.setattr(study_module, "execute", runner)
        run = StudyRun(of, {"corpus": str(small_corpus)}, tmp_path)
        run.retrain(method, seeds, write_no_report, with_control=with_control)
        return [task.jobs[0].config.control for task in runner.ran]

    assert retrain("joint", with_control=False) == [0.1, 0.1]
    assert retrain("joint", with_control=True) == [0, 0]
    assert retrain("joint", with_control=True) == []  # they are complete
    assert [r.state for r in read_ledger(tmp_path / "studies" / "s").replicates["joint"] if r.stage == FINAL] == [
        "complete", "complete",
    ]  # fmt: skip
    folder = tmp_path / "studies" / "s"
    assert study_status(folder).retrained == 2
    retrain("joint", with_control=False, seeds=5)
    retrain("joint", with_control=True, seeds=2)
    assert study_status(folder).retrained == 2, "the other three were trained on other clips"
    ledger = read_ledger(folder)
    assert [row["number"] for row in trial_rows(ledger) if row["method"] == "joint" and row["stage"] == FINAL] == [0, 1]
    assert len(ledger.superseded["joint"]) == 5
    assert retrain("joint", with_control=False, seeds=2) == []
    assert study_status(folder).retrained == 5, "all five are without the control clips again"
    assert retrain("joint", with_control=True) == []
    with pytest.raises(StudyError, match="because agm needs clips that are not trained on"):
        retrain("both", with_control=True)
    with pytest.raises(StudyError, match="because it has none: all runs of the study train on the whole training"):
        retrain("joint", with_control=True, of=study())
