"""Workspaces of released versions can be read; runs and studies of other semantics are refused and stay as they are"""

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


def remix_study(*words: str, folder: Path, status: int = 0) -> str:
    """Run the command, and return its output; in one line, if it fails as expected."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = commands.run("-m", "remix_study", *words, "--workspace", ".", cwd=folder, env=environment, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else " ".join(done.stderr.split())


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return install(FIXTURE, tmp_path / "an old workspace")


def test_an_interrupted_run_of_0_1_0_is_not_mixed_with_new_epochs(workspace: Path) -> None:
    run = workspace / "runs" / EXPECTED["run"]["folder"]
    before = (run / "history.jsonl").read_bytes()
    remix_study("train", "run.yaml", folder=workspace)  # a new run, with a digest of its own
    assert (run / "history.jsonl").read_bytes() == before
    error = remix_study("train", "run.yaml", "--name", run.name, folder=workspace, status=1)
    assert "it holds a run with another configuration or corpus, or of another version" in error
    assert "Use another --name" in error
    assert (run / "history.jsonl").read_bytes() == before


def test_an_interrupted_study_of_0_1_0_is_refused_with_the_remedy(workspace: Path) -> None:
    folder = workspace / "studies" / "half"
    before = {path: path.read_bytes() for path in folder.glob("runs/*/history.jsonl")}
    assert "2" in remix_study("status", "half", folder=workspace)
    error = remix_study("run", "half.yaml", folder=workspace, status=1)
    assert "it began under semantics 1 of remix_study" in error
    assert "Give the study another `name` to run it again, or install the version that it began with" in error
    assert {path: path.read_bytes() for path in folder.glob("runs/*/history.jsonl")} == before


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
