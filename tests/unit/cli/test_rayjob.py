"""The entrypoint of a KubeRay job: errors that a retry does not heal stop the job"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer
from ray import job_submission

from remix_study import ray_private
from remix_study.cli import main as cli
from remix_study.cli import rayjob
from remix_study.errors import (
    ConfigError,
    RemixStudyError,
    SourceError,
    StoreError,
    StudyError,
    StudyStopped,
    TrackingError,
    UnavailableError,
)


class Client:
    """Stands for Ray's client: records the job that is stopped, and sends SIGTERM as Ray does."""

    stopped: str | None = None

    def stop_job(self, job: str) -> None:
        Client.stopped = job
        os.kill(os.getpid(), signal.SIGTERM)


def run(monkeypatch: pytest.MonkeyPatch, ends: Callable[[], Any], words: tuple[str, ...] = ()) -> tuple[int, bool]:
    """Run the entrypoint with a command that ends like this: its exit status, and whether it stopped the job."""
    app = typer.Typer()
    app.command()(ends)
    Client.stopped = None
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["remix-study", *words])
    monkeypatch.setattr(job_submission, "JobSubmissionClient", Client)
    monkeypatch.setenv(ray_private.JOB_CONFIG_VARIABLE, json.dumps({"metadata": {"job_submission_id": "mine"}}))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as raised:
            rayjob.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(raised.value.code or 0), Client.stopped == "mine"


def raises(error: BaseException) -> Callable[[], None]:
    def ends() -> None:
        raise error

    return ends


@pytest.mark.parametrize("error", [ConfigError("x"), StudyError("x"), StudyStopped("stopped as requested")])
def test_what_a_retry_does_not_heal_stops_the_job(monkeypatch: pytest.MonkeyPatch, error: RemixStudyError) -> None:
    assert run(monkeypatch, raises(error)) == (rayjob.NOT_RETRIED, True)


@pytest.mark.parametrize(
    "error", [RemixStudyError("x"), SourceError("x"), StoreError("the disk is full"), TrackingError("x"),
              UnavailableError("x")],
)  # fmt: skip
def test_other_errors_fail_the_job_so_that_it_is_retried(
    monkeypatch: pytest.MonkeyPatch, error: RemixStudyError
) -> None:
    assert run(monkeypatch, raises(error)) == (1, False)


def test_an_unexpected_exception_reaches_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, raises(ZeroDivisionError()))


def test_unknown_options_stop_the_job_and_success_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, lambda: None, ("--no-such-option",)) == (rayjob.NOT_RETRIED, True)
    assert run(monkeypatch, lambda: None) == (0, False)


def test_a_study_that_a_signal_stopped_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Kubernetes ends the pod of the head. The command has its own handler of the signal."""

    def ends() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        os.kill(os.getpid(), signal.SIGTERM)
        raise StudyStopped("stopped")

    assert run(monkeypatch, ends) == (130, False)


def test_outside_of_a_job_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayjob, "_job", lambda: None)
    assert run(monkeypatch, raises(ConfigError("x"))) == (rayjob.NOT_RETRIED, False)


def test_a_job_that_cannot_be_stopped_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Client, job: str) -> None:
        raise ConnectionError("no dashboard")

    monkeypatch.setattr(Client, "stop_job", refuses)
    assert run(monkeypatch, raises(ConfigError("x"))) == (rayjob.NOT_RETRIED, False)
