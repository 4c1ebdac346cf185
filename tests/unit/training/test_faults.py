"""Training resumes to the same result after a full disk or a kill at any operation on its files"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study.config.run import RunConfig
from remix_study.files import operations
from remix_study.tracking.spool import SpoolTracker
from remix_study.tracking.tracker import RunInfo
from remix_study.training.loop import train
from remix_study.training.run import Run, RunResult
from tests.faults import at_every_operation


def without_times(result: RunResult) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return history and summary of a run."""
    history = [{key: value for key, value in each.items() if not key.startswith("time/")} for each in result.history]
    return history, {key: value for key, value in result.summary.items() if not key.startswith("time/")}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "first"), [(errno.ENOSPC, 1), ("killed", 1), ("killed", 2), ("killed", 3)])
def test_a_run_resumes_to_the_same_result(
    recipe: Callable[..., RunConfig],
    assembled: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    how: int | str,
) -> None:
    monkeypatch.setattr(operations, "fsync", lambda descriptor: None)

    def run(folder: Path) -> RunResult:
        tracker = SpoolTracker(folder, "experiment")
        made = assembled(recipe(), folder.name, tracker)
        tracker.start(RunInfo("run", {}, {}, "", "made up", "d", "store", {}))
        return train(made)

    wanted = without_times(run(tmp_path / "whole"))
    epochs = (tmp_path / "whole" / "history.jsonl").read_text().count("\n")

    def check(folder: Path, succeeded: bool) -> None:
        assert without_times(run(folder)) == wanted
        assert (folder / "history.jsonl").read_text().count("\n") == epochs

    at_every_operation(run, check, lambda number: tmp_path / str(number), how, ever=False, first=first, step=3)
