"""docs/metrics.md lists exactly the metrics that runs log"""

import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from remix_study.assemble import assemble
from remix_study.balancing import uninformative
from remix_study.config.balancing import cards
from remix_study.config.load import load_study
from remix_study.config.run import RunConfig
from remix_study.config.targets import AbstainConfig
from remix_study.launch.teachers import untrained_teachers
from remix_study.media.store import ClipStore
from remix_study.study.outcomes import Replicated
from remix_study.study.results import compare
from remix_study.tracking.tracker import RecordingTracker
from remix_study.training.loop import train
from remix_study.training.run import RunResult
from remix_study.world import Solo

ROOT = Path(__file__).parents[2]
PLACEHOLDERS = {"<modality>": "(audio|video)", "<class>": r"\d+", "<method>": "[a-z_]+", "<key>": "[a-z_]+"}
_FALLING = {"from": 0.2, "to": 0.1}
_EACH = {"audio": _FALLING, "video": 1.0}
# Together they log every metric. `random` never runs a scoring pass.
METHODS = {
    "remix": {"name": "remix", "warmup": 1},
    "random": {"name": "remix", "warmup": 1, "filter": {"rule": "random"}},
    **{
        rule: {"name": "remix", "warmup": 1, "filter": {"rule": rule} | options}
        for rule, options in (
            ("learning_progress", {"passes": 2}),
            ("cartography", {}),
            ("coalition_gain", {}),
            ("reducible_loss", {"reference_epochs": 1}),
        )
    },
    "calibrated": {"name": "remix", "warmup": 1, "share": {"kind": "calibrated_progress"}},
    "held_out": {"name": "remix", "warmup": 1, "share": {"kind": "held_out_progress"}},
    "scheduled": {
        "name": "remix",
        "warmup": 1,
        "filter": {"rule": "margin", "threshold": _FALLING},
        "joint_share": _FALLING,
        "weight": _FALLING,
        "warmup_weight": _FALLING,
    },
    "smp": {"name": "remix", "warmup": 1, "phases": "smp", "weight": _EACH, "warmup_weight": _EACH},
    "joint": {"name": "joint"},
    "ogm": {"name": "joint", "with": ["ogm", "tcmax", "lfm", "mmcosine"]},
    "opm": {"name": "joint", "with": {"opm": {"begin": 0}, "modality_dropout": {}, "inforeg": {}}},
    "mmpareto": {"name": "mmpareto"},
    "between_epochs": {
        "name": "joint_unimodal",
        "with": {
            "pmr": {},
            "gblend_lite": {"every": 1},
            "relearning": {"every": 1},
            "umt": {},
            "miles": {},
            "reconboost": {},
            "aug": {"every": 1},
        },
    },
    "agm": {"name": "remix", "warmup": 1, "with": ["agm"]},
    "smv": {"name": "smv", "begin": 1},
    "mla": {"name": "mla"},
    "unimodal": {"name": "unimodal", "modality": "audio"},
    "abstain": {"name": "joint_unimodal"},
}


class Listed(NamedTuple):
    """A metric in docs/metrics.md, and the condition under which it is absent."""

    name: str
    absent: str

    @property
    def pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self.name)
        for placeholder, stands_for in PLACEHOLDERS.items():
            pattern = pattern.replace(placeholder, stands_for)
        return re.compile(pattern)


def listed() -> list[Listed]:
    """Return the names in the first cell of every table row, with the content of the last cell (when absent)."""
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    return [Listed(name, row[-1].strip()) for row in cells for name in re.findall(r"`([^`]+)`", row[0])]


needs_runs = pytest.mark.slow  # a run of every method is trained for these tests


@pytest.fixture(scope="module")
def eager_detectors() -> Iterator[None]:
    """Let detectors judge some samples also in a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uninformative, "SEPARATION", 0.0)
        yield


@pytest.fixture(scope="module")
def results(
    small_store: ClipStore,
    recipe: Callable[..., RunConfig],
    tmp_path_factory: pytest.TempPathFactory,
    eager_detectors: None,
) -> dict[str, RunResult]:
    """Results of several methods with all metrics enabled. A result contains every logged metric."""
    found = {}
    for name, method in METHODS.items():
        folder = tmp_path_factory.mktemp(name)
        evaluation = {"test": True, "probe": True, "clash_every": 1, "select": "last" if name == "mla" else "best"}
        fusion = {"name": "mmtm", "greedy": {}} if name == "random" else "concat"
        config = recipe({"method": method, "epochs": 4, "evaluation": evaluation, "model.fusion": fusion})
        if name == "agm":
            config = config.model_copy(update={"control_fraction": 0.1})
        if name == "abstain":
            targets = AbstainConfig.model_validate({"of": "history", "begin": 0, "weight": {"from": 1, "to": 0.5}})
            config = config.model_copy(update={"targets": targets})
        if factor := {"scheduled": _FALLING, "smp": _EACH}.get(name):
            config = recipe({**config.model_dump(mode="json"), "learning_rate_factor": factor})
        tracker = RecordingTracker()
        ceilings = None if name == "unimodal" else {"audio": 0.9, "video": 0.9}
        teachers = untrained_teachers(config, small_store)
        found[name] = train(
            assemble(
                config, small_store, Solo(), torch.device("cpu"), tracker, folder, teachers=teachers, ceilings=ceilings
            )
        )
    return found


@pytest.fixture(scope="module")
def logged(results: dict[str, RunResult]) -> set[str]:
    names = {key for result in results.values() for record in result.history for key in record}
    names |= {key for result in results.values() for key in result.summary}
    return names | _of_a_study(results)


def _of_a_study(results: dict[str, RunResult]) -> set[str]:
    """Return the metrics that a study adds: the sufficiency of every replicate."""
    study = load_study(ROOT / "search_spaces" / "demo.yaml")
    run_of = {"remix": "remix", "joint": "joint", "audio_alone": "unimodal"}
    methods = {name: study.methods[name] for name in run_of}
    replicates = {name: Replicated({0: results[method].summary}, {}) for name, method in run_of.items()}
    found = compare(study.model_copy(update={"methods": methods}), replicates, {name: {} for name in run_of}, [])
    return {k for c in found.methods for seed in c.seeds.values() for k in seed if k.startswith("sufficiency/")}


@pytest.mark.slow
@needs_runs
def test_every_logged_metric_is_listed(logged: set[str]) -> None:
    patterns = [entry.pattern for entry in listed()]
    unlisted = {name for name in logged if not any(pattern.fullmatch(name) for pattern in patterns)}
    assert not unlisted


@pytest.mark.slow
@needs_runs
def test_every_listed_metric_is_logged(logged: set[str]) -> None:
    here = [entry for entry in listed() if entry.absent != "on a CPU"]
    unlogged = {entry.name for entry in here if not any(entry.pattern.fullmatch(name) for name in logged)}
    assert not unlogged


def test_no_metric_is_listed_twice() -> None:
    names = [entry.name for entry in listed()]
    assert len(names) == len(set(names))


@pytest.mark.slow
@needs_runs
def test_metrics_that_are_never_absent_are_in_every_run_and_epoch(results: dict[str, RunResult]) -> None:
    always = {entry.name: entry.pattern for entry in listed() if entry.absent == "never"}
    at_the_end = {
        name for name in always if name.startswith(("best/", "last/", "time/total_", "time/evid", "time/inf"))
    }
    each_epoch = always.keys() - at_the_end
    assert at_the_end
    assert each_epoch

    def lacking(names: Set[str], record: dict[str, float]) -> set[str]:
        return {name for name in names if not any(always[name].fullmatch(key) for key in record)}

    for method, result in results.items():
        assert not lacking(at_the_end, result.summary), method
        for record in result.history:
            assert not lacking(each_epoch, record), method


@pytest.mark.slow
@needs_runs
def test_metrics_that_need_unimodal_heads_are_absent_for_joint(results: dict[str, RunResult]) -> None:
    keys = {key for record in results["joint"].history for key in record} | set(results["joint"].summary)
    absent = [entry for entry in listed() if "`joint`" in entry.absent]
    assert absent
    assert not [key for key in keys for entry in absent if entry.pattern.fullmatch(key)]


@pytest.mark.slow
@needs_runs
def test_metrics_listed_as_absent_for_unimodal_are_absent(results: dict[str, RunResult]) -> None:
    keys = {key for record in results["unimodal"].history for key in record} | set(results["unimodal"].summary)
    absent = [entry for entry in listed() if "`unimodal`" in entry.absent]
    assert absent
    assert not [key for key in keys for entry in absent if entry.pattern.fullmatch(key)]


@pytest.mark.slow
@needs_runs
def test_warm_up_and_random_log_no_metrics_of_scores(results: dict[str, RunResult]) -> None:
    assert {key for key in results["remix"].history[0] if key.startswith("remix/")} == {"remix/joint_share"}
    assert results["remix"].history[0]["remix/joint_share"] == 1.0
    assert "remix/margin" in results["remix"].history[1]
    assert "remix/churn" not in results["remix"].history[1]
    assert "remix/churn" in results["remix"].history[2]
    assert not [key for record in results["random"].history for key in record if key.startswith("remix/score_")]


def test_the_table_of_methods_is_that_of_the_command() -> None:
    page = (ROOT / "docs" / "methods" / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [(row[0].strip("`"), *row[2:4]) for row in rows] == [(c.name, c.needs, c.with_remix) for c in cards()]
    for row, card in zip(rows, cards(), strict=True):
        assert row[1].startswith(f"{card.changes}: ")
        linked = re.fullmatch(r"\[(.*)\]\((.*)\)", row[4])
        assert linked is not None
        described = (ROOT / "docs" / "methods" / linked[2]).read_text()
        assert f"`{card.name}`" in described or f"name: {card.name}" in described
        assert all(f"`{option}`" in described for option in card.options)
