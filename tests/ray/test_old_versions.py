"""Workspaces of released versions can be read, and their interrupted runs and studies can be resumed"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from remix_study.study.ledger import Ledger, read_ledger
from tests import commands
from tests.fixtures.make_0_1_0 import FIXTURE, install

pytestmark = [pytest.mark.ray, pytest.mark.slow]
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text())


def remix_study(*words: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = commands.run("-m", "remix_study", *words, "--workspace", ".", cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return install(FIXTURE, tmp_path / "an old workspace")


def without_times(record: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in record.items() if not key.startswith("time/")}


def history(run: Path) -> list[dict[str, float]]:
    return [without_times(json.loads(line)) for line in (run / "history.jsonl").read_text().splitlines()]


def test_an_interrupted_run_of_0_1_0_resumes(workspace: Path) -> None:
    run = workspace / "runs" / EXPECTED["run"]["folder"]
    before = history(run)
    assert len(before) == 2
    folders = {path.name for path in run.parent.iterdir()}
    remix_study("train", "run.yaml", folder=workspace)
    assert {path.name for path in run.parent.iterdir()} == folders  # the digest is the same
    after = history(run)
    assert after[:2] == before
    expected = [without_times(record) for record in EXPECTED["run"]["history"]]
    assert [record.keys() for record in after] == [record.keys() for record in expected]
    # Assignments use the checkpoint's scores. Losses may be rounded differently on other machines.
    for resumed, recorded in zip(after, expected, strict=True):
        for key in recorded:
            if key.startswith(("remix/share/", "train/steps", "train/samples")):
                assert resumed[key] == recorded[key], key
        assert resumed["train/loss"] == pytest.approx(recorded["train/loss"], rel=0.02)


def test_a_complete_run_of_0_1_0_is_reported_and_not_trained_again(workspace: Path) -> None:
    (run,) = (workspace / "runs").glob("joint_unimodal-*")
    before = (run / "history.jsonl").read_bytes()
    assert "best/val_accuracy" in remix_study("train", "complete.yaml", folder=workspace)
    assert (run / "history.jsonl").read_bytes() == before


def test_an_interrupted_study_of_0_1_0_resumes(workspace: Path) -> None:
    folder = workspace / "studies" / "half"
    (cut,) = (folder / "runs").glob("audio_alone-search-1-*")
    first = history(cut)
    assert len(first) == 1
    assert "2" in remix_study("status", "half", folder=workspace)
    remix_study("run", "half.yaml", folder=workspace)
    assert history(cut)[:1] == first  # resumed from its checkpoint
    compare(read_ledger(folder), EXPECTED["studies"]["half"])


@pytest.mark.parametrize("study", ["half", "journal"])
def test_a_study_of_0_1_0_can_be_read(workspace: Path, study: str) -> None:
    for command in ("status", "best", "export", "report"):
        assert remix_study(command, study, folder=workspace)
    if study == "journal":
        compare(read_ledger(workspace / "studies" / study), EXPECTED["studies"][study])


def compare(ledger: Ledger, expected: list[dict[str, Any]]) -> None:
    """Assert that the search trials have the expected numbers, states, parameters and run folders."""
    search = {(row["method"], row["number"]): row for row in expected if row["stage"] == "search"}
    found = {(trial.method, trial.number): trial for trials in ledger.trials.values() for trial in trials}
    assert found.keys() == search.keys()
    for key, row in search.items():
        trial = found[key]
        assert trial.state == row["state"]
        params = {name.removeprefix("params."): value for name, value in row.items() if name.startswith("params.")}
        assert trial.params == {name: value for name, value in params.items() if value is not None}
        assert [Path(path).name for path in trial.folders] == row["folders"]
