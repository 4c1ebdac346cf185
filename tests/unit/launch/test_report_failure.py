"""The end of a run whose workers failed"""

import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remix_study.errors import RemixStudyError
from remix_study.launch import run
from remix_study.launch.folder import RunFolder
from remix_study.tracking import mlflow


def test_a_failure_is_recorded_after_the_last_entry_of_a_worker_that_ray_is_killing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a restarted worker could set the status to RUNNING again."""
    events: list[str] = []
    monkeypatch.setattr(run, "end_unfinished_run", lambda *_: events.append("failed"))
    monkeypatch.setattr(mlflow, "send", lambda *_: events.append("sent"))
    folder, job = RunFolder(tmp_path), SimpleNamespace(tracking_uri="sqlite:///x.db", spool=False, name="r")
    worker: Any = ExitStack()
    worker.enter_context(folder.writing())
    assert folder.has_writer

    def die() -> None:
        events.append("running")
        worker.close()

    threading.Timer(0.2, die).start()
    run._report_failure(job, folder, RemixStudyError("x"))  # type: ignore[arg-type]  # what it reads of a job
    assert events == ["running", "failed", "sent"]
    assert not folder.has_writer
