import operator
import os
import signal
import time

import pytest

from remix_study.errors import StoreError
from remix_study.media.workers import run_jobs


class Record:
    def __init__(self) -> None:
        self.results: dict[int, object] = {}
        self.lost: dict[int, str] = {}

    def on_result(self, job: int, result: object) -> None:
        assert job not in self.results
        self.results[job] = result

    def on_lost(self, job: int, reason: str) -> None:
        self.lost[job] = reason


def test_every_job_is_done_once() -> None:
    record = Record()
    run_jobs(operator.neg, range(50), workers=2, chunk=7, on_result=record.on_result, on_lost=record.on_lost)
    assert record.results == {job: -job for job in range(50)}
    assert not record.lost


def test_a_job_that_hangs_is_ended_twice_and_reported_and_all_others_are_done() -> None:
    record = Record()
    run_jobs(
        time.sleep, [0, 0, 3600, 0], workers=2, chunk=2, timeout_s=0.3,
        on_result=lambda job, _: record.results.__setitem__(len(record.results), job), on_lost=record.on_lost,
    )  # fmt: skip
    assert record.lost == {3600: "timeout"}
    assert list(record.results.values()) == [0, 0, 0]


def test_a_process_that_dies_is_replaced_and_its_job_reported() -> None:
    record = Record()
    # Raising signal 0 is no signal at all; signal 9 ends the worker.
    run_jobs(
        signal.raise_signal, [0, signal.SIGKILL], workers=1, chunk=2, on_result=record.on_result, on_lost=record.on_lost
    )
    assert record.lost == {signal.SIGKILL: "died"}
    assert set(record.results) == {0}


def test_an_os_error_of_the_work_reaches_the_caller() -> None:
    record = Record()
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_jobs(os.close, [999], workers=1, on_result=record.on_result, on_lost=record.on_lost)


def test_a_bug_of_the_work_reaches_the_caller_with_its_traceback() -> None:
    record = Record()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_jobs((1).__floordiv__, [0], workers=1,
                 on_result=record.on_result, on_lost=record.on_lost)  # fmt: skip


def test_workers_that_cannot_start_are_not_started_for_ever() -> None:
    record = Record()
    with pytest.raises(StoreError, match="three in a row did not"):
        run_jobs(_Unloadable(), [1], workers=1, on_result=record.on_result, on_lost=record.on_lost)


class _Unloadable:
    def __call__(self, job: int) -> None: ...

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)  # loading it ends the process
