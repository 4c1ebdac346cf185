"""Fixtures: ledgers and run folders for reports, without a storage"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from remix_study.config.study import StudyConfig
from remix_study.launch.predictions import PREDICTIONS
from remix_study.study.ledger import Ledger, ReplicateRecord, TrialRecord

RATE = "optimizer.learning_rate"
MakeStudy = Callable[..., StudyConfig]
MakeTrial = Callable[..., TrialRecord]
MakeLedger = Callable[..., Ledger]


@pytest.fixture(scope="session")
def make_study() -> MakeStudy:
    """Return a function that creates a study of remix (the reference) and joint. Arguments replace its keys."""

    def make(**changes: Any) -> StudyConfig:
        content: dict[str, Any] = {
            "name": "s",
            "question": "does <b>it</b> help?",
            "base": {"corpus": "c"},
            "space": {RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True}},
            "methods": {"joint": {}, "remix": {}},
            "reference": "remix", "trials": 4, "replicates": 2,
        }  # fmt: skip
        return StudyConfig.model_validate(content | changes)

    return make


@pytest.fixture
def make_trial() -> MakeTrial:
    """Return a function that creates a trial: complete if `values` are given, otherwise of the given `state`."""

    def make(method: str, number: int, *values: float, **changes: Any) -> TrialRecord:
        known: dict[str, Any] = {
            "method": method, "number": number, "state": "complete" if values else "pruned", "values": values,
            "params": {RATE: 0.01}, "reason": None, "cause": None, "retried": False, "seconds": 10.0,
            "started": None, "ended": None, "folders": (), "seed_values": values[:1], "intermediate": {},
        }  # fmt: skip
        return TrialRecord(**(known | changes))

    return make


@pytest.fixture
def make_ledger(make_study: MakeStudy, tmp_path: Path) -> MakeLedger:
    """Return a function that creates a ledger from trials in any order, and writes the study file."""

    def make(
        *trials: TrialRecord, replicates: tuple[ReplicateRecord, ...] = (), study: StudyConfig | None = None
    ) -> Ledger:
        config = study or make_study()
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        by_method: dict[str, tuple[TrialRecord, ...]] = {
            name: tuple(t for t in trials if t.method == name)
            for name in config.methods
            if any(t.method == name for t in trials)
        }
        of_method = {name: tuple(r for r in replicates if r.method == name) for name in by_method}
        return Ledger(config, tmp_path, by_method, of_method)

    return make


def write_run(folder: Path, history: list[dict[str, float]], summary: dict[str, float] | None = None) -> str:
    """Write a run folder with a history and, if given, a summary. Return its path."""
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in history))
    (folder / "config.yaml").write_text("method: {name: remix, score: kl}\n")
    if summary is not None:
        (folder / "result.json").write_text(json.dumps(summary))
    return str(folder)


def write_outcomes(folder: Path, correct: int, clips: int = 250) -> None:
    """Write the predictions of a run that predicts the first `correct` of its test clips correctly."""
    label = ["a" if c % 2 else "b" for c in range(clips)]
    right = [name if c < correct else "c" for c, name in enumerate(label)]
    columns = {f"predicted_{view}": right for view in ("fused", "best", "last", "audio")}
    ids = [f"clip {c}" for c in range(clips)]
    table = pa.table({"split": ["test"] * clips, "id": ids, "group": pa.nulls(clips, pa.string()), "label": label})
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pyarrow.parquet.write_table(table, folder / PREDICTIONS)
