# ruff: noqa: E501 - a table of dimensions
"""What is recorded is what was trained: storage, ledger, report and MLflow agree with the run, for random spaces"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from optuna.storages import BaseStorage, RDBStorage

from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.report.search_tables import trials_table
from remix_study.study.dimensions import value_of
from remix_study.study.ledger import Ledger
from remix_study.study.search import Search
from remix_study.study.search_space import space_of
from remix_study.study.study_file import check_study
from remix_study.study.task_factory import TaskFactory
from tests.examples import examples

RULE = "method.filter.rule"
FLOAT = {"kind": "float", "low": 0.001, "high": 0.1}
DIMENSIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "optimizer": ({"kind": "choice", "of": {"a": {"name": "sgd", "learning_rate": 0.1}, "b": {"name": "adam"}}},
                  {"kind": "choice", "of": {"a": {"weight_decay": 0.1}, "b": {"name": "adam"}}}),
    "optimizer.name": ({"kind": "choice", "of": ["adam", "adamw"]},),
    "optimizer.learning_rate": (FLOAT | {"log": True}, {"kind": "choice", "of": [1, 0.5]}),
    "optimizer.weight_decay": (FLOAT, FLOAT | {"low": 0.01, "step": 0.01}),
    "epochs": ({"kind": "int", "low": 4, "high": 6}, {"kind": "choice", "of": [4.0, 5]}),
    "clip_norm": ({"kind": "choice", "of": [None, 1.0]}, {"kind": "choice", "of": {"off": None, "on": 2}}),
    "method": ({"kind": "choice", "of": {"a": {"name": "remix", "warmup": 1}, "b": {"name": "remix", "warmup": 2}}},),
    "method.warmup": ({"kind": "int", "low": 0, "high": 2},),
    "method.filter": ({"kind": "choice", "of": {"a": {"rule": "argmin"}, "b": {"rule": "margin", "threshold": 0.5}}},),
    RULE: ({"kind": "choice", "of": ["argmin", "margin"]}, {"kind": "choice", "of": ["tempered"]}),
    "method.filter.threshold": (FLOAT, FLOAT | {"when": {RULE: "margin"}}),
    "method.filter.temperature": ({"kind": "choice", "of": [float("inf"), 0.5], "when": {RULE: "tempered"}},),
    "method.share": ({"kind": "choice", "of": {"free": None, "follow": {"kind": "progress"}}},),
    "method.share.rate": (FLOAT, FLOAT | {"when": {"method.share": "follow"}}),
    "augment": ({"kind": "choice", "of": {"a": {"flip": True}, "b": {}}},),
    "augment.flip": ({"kind": "choice", "of": [True, False]},),
    "evaluation.probe": ({"kind": "choice", "of": [True, False]},),
    "evaluation.select": ({"kind": "choice", "of": ["best", "last"]},),
    "model.encoders.audio": ({"kind": "choice", "of": {"a": {"name": "tiny"}, "b": {"name": "resnet18", "width": 8}}},),
    "model.encoders.audio.width": ({"kind": "int", "low": 8, "high": 64, "log": True},),
}  # fmt: skip
FIXED: Mapping[str, Any] = {
    "method": {"name": "remix", "warmup": 1}, "optimizer": {"name": "adam"}, "optimizer.learning_rate": 0.5, "epochs": 9,
    RULE: "margin", "method.filter": {"rule": "margin", "threshold": 0.2}, "augment.flip": True, "clip_norm": 3.0,
}  # fmt: skip


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from(sorted(DIMENSIONS)), min_size=1, max_size=5, unique=True))
    space = {path: draw(st.sampled_from(DIMENSIONS[path])) for path in paths}
    shared = draw(st.integers(0, len(paths)))
    fixed = draw(st.lists(st.sampled_from(sorted(FIXED)), max_size=3, unique=True))
    return {
        "base": {"corpus": "c", "epochs": 8, "method": {"name": "remix", "warmup": 1}, "device": "cpu"},
        "space": {path: space[path] for path in paths[:shared]},
        "methods": {"m": {"set": {path: FIXED[path] for path in fixed}, "space": {p: space[p] for p in paths[shared:]}}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def storage() -> BaseStorage:
    return RDBStorage("sqlite:///:memory:")


def differing(values: Mapping[str, Any], study: StudyConfig, run: Mapping[str, Any]) -> list[str]:
    """The recorded values that are not in the configuration of the run."""
    space = space_of(study, study.methods["m"])
    return [path for path, label in values.items() if not _holds(run, path.split("."), value_of(space[path], label))]


def _holds(run: Any, keys: list[str], value: Any) -> bool:
    for key in keys:
        run = run[key]
    if isinstance(value, dict):
        return all(_holds(run, [key], inner) for key, inner in value.items())
    return bool(run == value) and isinstance(run, bool) == isinstance(value, bool)


def check_recorded(content: dict[str, Any], storage: BaseStorage, folder: Path, number: int) -> int:
    """Check the trials of a study, if it is not refused, and return their number."""
    said = {"name": f"s{number}", "question": "q", "reference": "m", "trials": 4, "replicates": 1}
    study = StudyConfig.model_validate(said | content)
    try:
        check_study(study, {})
    except ConfigError:
        return 0
    search = Search(study, "m", folder, storage, 9)
    tasks = TaskFactory(study, {}, folder, "digest", 9, lambda: None)
    search.resume(retry_failed=False)
    runs: dict[int, Mapping[str, Any]] = {}
    logged: dict[int, Mapping[str, Any]] = {}
    for _ in range(4):
        trial, params = search.next()
        (job,) = tasks.trial("m", trial, params, search.id_of(trial)).jobs
        runs[trial] = job.config.model_dump()
        logged[trial] = {key.removeprefix("point."): value for key, value in job.params.items()}
        search.tell(trial, "complete", [float(trial)])
    records = search.records()
    table = trials_table(Ledger(study, folder, {"m": records}, {"m": ()}))
    for record, row in zip(records, table.rows, strict=True):
        assert differing(record.params, study, runs[record.number]) == []
        assert logged[record.number] == {path: v for path, v in record.params.items() if v is not None}
        cells = dict(zip(table.header, row, strict=True))
        assert {path: cells[path] for path in record.params} == {p: str(v) for p, v in record.params.items()}
    assert records[-1].params == search.best().params  # type: ignore[union-attr]  # a trial is complete
    return len(records)


SHADOWED: dict[str, Any] = {
    "base": {"corpus": "c", "epochs": 8, "method": {"name": "remix", "warmup": 1}, "device": "cpu"},
    "space": {path: DIMENSIONS[path][0] for path in ("optimizer.learning_rate", "optimizer")}, "methods": {"m": {}},
}  # fmt: skip
numbers = iter(range(1_000_000))


@examples(15)
@given(contents())
@example(SHADOWED)
@example(SHADOWED | {"space": {"evaluation.probe": DIMENSIONS["evaluation.probe"][0]}})
@example(
    SHADOWED | {"space": {}, "methods": {"m": {"set": {"epochs": 9}, "space": {"epochs": DIMENSIONS["epochs"][0]}}}}
)
def test_every_recorded_value_is_the_trained_one(
    storage: BaseStorage, tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    check_recorded(content, storage, tmp_path_factory.getbasetemp(), next(numbers))


@pytest.mark.slow
@examples(1000)
@given(contents())
def test_every_recorded_value_is_the_trained_one_for_many_spaces(
    storage: BaseStorage, tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    check_recorded(content, storage, tmp_path_factory.getbasetemp(), next(numbers))


@pytest.mark.parametrize(
    "paths",
    [
        ("optimizer.learning_rate", "optimizer.weight_decay", "epochs"), ("method.filter", "augment", "clip_norm"),
        ("method", "model.encoders.audio"), ("method.share", "evaluation.select"),
    ],
)  # fmt: skip
def test_sound_spaces_are_not_refused(paths: tuple[str, ...], storage: BaseStorage, tmp_path: Path) -> None:
    content = SHADOWED | {"space": {path: DIMENSIONS[path][0] for path in paths}}
    assert check_recorded(content, storage, tmp_path, next(numbers)) == 4
