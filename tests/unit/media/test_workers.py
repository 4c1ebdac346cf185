import ctypes
import operator
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from remix_study.errors import SourceError, StoreError
from remix_study.media.workers import in_chunks, run_jobs


class Record:
    def __init__(self) -> None:
        self.results: dict[int, object] = {}
        self.lost: dict[int, str] = {}

    def on_result(self, job: int, result: object) -> None:
        assert job not in self.results
        self.results[job] = result

    def on_lost(self, job: int, reason: str) -> None:
        self.lost[job] = reason


def test_every_job_runs_once() -> None:
    record = Record()
    run_jobs(operator.neg, range(50), workers=2, chunk=7, on_result=record.on_result, on_lost=record.on_lost)
    assert record.results == {job: -job for job in range(50)}
    assert not record.lost


@pytest.mark.parametrize(("jobs", "workers", "most"), [(0, 2, 32), (1, 2, 32), (50, 2, 7), (1000, 3, 32), (5, 8, 1)])
def test_chunks_cover_every_job_once_and_shrink_towards_the_end(jobs: int, workers: int, most: int) -> None:
    chunks = list(in_chunks(range(jobs), workers, most))
    assert [job for chunk in chunks for job in chunk] == list(range(jobs))
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= most for size in sizes)
    assert set(sizes[-workers:]) <= {1}, "the last chunks must be small, so that all workers end together"


def test_a_hanging_job_is_killed_twice_and_reported_while_all_others_finish() -> None:
    record = Record()
    run_jobs(
        time.sleep, [0, 0, 3600, 0], workers=2, chunk=2, timeout_s=0.3,
        on_result=lambda job, _: record.results.__setitem__(len(record.results), job), on_lost=record.on_lost,
    )  # fmt: skip
    assert record.lost == {3600: "timeout"}
    assert list(record.results.values()) == [0, 0, 0]


def test_a_worker_that_dies_is_replaced_and_its_job_reported() -> None:
    record = Record()
    # Raising signal 0 is no signal at all; signal 9 ends the worker.
    run_jobs(
        signal.raise_signal, [0, signal.SIGKILL], workers=1, chunk=2, on_result=record.on_result, on_lost=record.on_lost
    )
    assert record.lost == {signal.SIGKILL: "died"}
    assert set(record.results) == {0}


def test_an_os_error_reaches_the_caller() -> None:
    record = Record()
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_jobs(os.close, [999], workers=1, on_result=record.on_result, on_lost=record.on_lost)


def test_other_exceptions_reach_the_caller_with_their_traceback() -> None:
    record = Record()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_jobs((1).__floordiv__, [0], workers=1,
                 on_result=record.on_result, on_lost=record.on_lost)  # fmt: skip


def refuse(job: int) -> None:
    raise SourceError(f"s3://bucket must answer clip {job}, but does not.")


def test_project_errors_reach_the_caller_unchanged() -> None:
    record = Record()
    with pytest.raises(SourceError, match="must answer clip 7"):
        run_jobs(refuse, [7], workers=1, on_result=record.on_result, on_lost=record.on_lost)


def test_workers_that_cannot_start_raise_after_three_attempts() -> None:
    record = Record()
    with pytest.raises(StoreError, match="three in a row failed"):
        run_jobs(_Unloadable(), [1], workers=1, on_result=record.on_result, on_lost=record.on_lost)


class _Unloadable:
    def __call__(self, job: int) -> None: ...

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)  # unpickling it exits the process


def hang_with_the_interpreter_locked(job: int) -> int:
    """Hang like a decoder that loops in native code: neither signal handlers nor other threads can run."""
    if job == 1:
        ctypes.PyDLL(None).sleep(3600)
    return job


def break_memory(job: int) -> int:
    if job == 1:
        ctypes.string_at(0)
    return job


def leave(job: int) -> int:
    if job == 1:
        os._exit(0)
    return job


def shout(job: int) -> int:
    for _ in range(200):
        os.write(2, b"[h264] error while decoding\n" * 1000)  # 5 MB would block on an unread pipe
        os.write(1, b"[mpeg4] ac-tex damaged\n" * 1000)
    return job


def take_memory(job: int) -> int:
    size = 6 * 2**30 if job == 1 else 2**20
    return len(bytes(size))  # untouched zeros, which use no real memory if there is no limit


def test_a_job_that_hangs_while_holding_the_gil_is_killed() -> None:
    record = Record()
    run_jobs(
        hang_with_the_interpreter_locked, range(4), workers=1, chunk=2, timeout_s=0.3,
        on_result=record.on_result, on_lost=record.on_lost,
    )  # fmt: skip
    assert record.lost == {1: "timeout"}
    assert set(record.results) == {0, 2, 3}


@pytest.mark.parametrize("accident", [break_memory, leave])
def test_a_worker_that_crashes_or_exits_loses_one_job(accident: Callable[[int], int]) -> None:
    record = Record()
    run_jobs(accident, range(4), workers=2, chunk=2, on_result=record.on_result, on_lost=record.on_lost)
    assert record.lost == {1: "died"}
    assert set(record.results) == {0, 2, 3}


def test_output_of_libraries_is_discarded(
    capfd: pytest.CaptureFixture[str],
) -> None:
    record = Record()
    run_jobs(shout, range(3), workers=2, timeout_s=30, on_result=record.on_result, on_lost=record.on_lost)
    assert set(record.results) == {0, 1, 2}
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data")
def test_a_job_that_needs_too_much_memory_fails_alone() -> None:
    record = Record()
    with pytest.raises(RuntimeError, match="MemoryError"):  # the work's own error, not a machine without memory
        run_jobs(take_memory, [1], workers=1, on_result=record.on_result, on_lost=record.on_lost)
    run_jobs(take_memory, [0], workers=1, on_result=record.on_result, on_lost=record.on_lost)
    assert record.results == {0: 2**20}
