"""Many small jobs on all cores, by processes that may hang or die

The parent watches: a job that takes too long is ended with its process (a decoder can hang in native code, where no
signal reaches Python), a process that dies is replaced, and its job gets one more chance. Workers see the parent die as
the end of their pipe and stop.

What decoders and C libraries print goes nowhere: a bug of ours comes through the pipe, with its traceback. A worker may
take only so much memory: a damaged header can ask for any amount, and should fail alone.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.process
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from remix_study.errors import RemixStudyError, StoreError
from remix_study.patience import PATIENCE

_START_LIMIT_S = PATIENCE.decoder_start_s  # a first import of torch from a slow network disk
# Beyond what it has when it starts: a clip of 3840 x 2160 needs 0.3 GB, decord's libraries 0.3 (0.6 with CUDA).
_MEMORY_BYTES = 3 * 2**30
_PRELOAD = ["remix_study.media.build"]  # brings torch: imported once, then each worker is a fork in milliseconds


@dataclass(eq=False)
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    deadline: float
    ready: bool = False
    job: int | None = None
    left: collections.deque[int] = field(default_factory=collections.deque)


def available_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RunJobs(Protocol):
    """Who does the jobs; see `run_jobs`, which does them on this machine."""

    def __call__(
        self,
        work: Callable[[int], object],
        jobs: Sequence[int],
        *,
        on_result: Callable[[int, object], None],
        on_lost: Callable[[int, str], None],
        workers: int | None = None,
        chunk: int = 32,
        timeout_s: float = 60.0,
    ) -> None: ...


def run_jobs(
    work: Callable[[int], object],
    jobs: Sequence[int],
    *,
    on_result: Callable[[int, object], None],
    on_lost: Callable[[int, str], None],
    workers: int | None = None,
    chunk: int = 32,
    timeout_s: float = 60.0,
) -> None:
    """Call `work(job)` for each job, in chunks, in processes of their own.

    `on_result(job, what work returned)` and `on_lost(job, reason)` (`timeout` or `died`, after two attempts) are called
    in this process, in the order of completion. `work` must be picklable.

    Raises:
        OSError: as raised by `work` (its number and text).
        RemixStudyError: as raised by `work`.
        RuntimeError: any other exception of `work`, with its traceback.
        StoreError: processes cannot be started at all.
    """
    if not jobs:
        return
    count = max(1, min(workers or available_cores(), len(jobs)))
    chunks = collections.deque(in_chunks(jobs, count, chunk))
    _Crew(pickle.dumps(work), chunks, count, timeout_s, on_result, on_lost).run()


def in_chunks(jobs: Sequence[int], workers: int, most: int) -> Iterator[list[int]]:
    """All jobs, in order; chunks get smaller towards the end, so that no worker has a long one left when others rest.

    That is guided self-scheduling (Polychronopoulos, Kuck; IEEE Trans. Computers C-36(12), 1987), with half its sizes.
    """
    first = 0
    while first < len(jobs):
        size = max(1, min(most, (len(jobs) - first) // (2 * workers)))
        yield list(jobs[first : first + size])
        first += size


class _Crew:
    def __init__(
        self,
        work: bytes,
        chunks: collections.deque[list[int]],
        count: int,
        timeout_s: float,
        on_result: Callable[[int, object], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._work, self._chunks, self._count, self._timeout_s = work, chunks, count, timeout_s
        self._on_result, self._on_lost = on_result, on_lost
        self._attempts: collections.Counter[int] = collections.Counter()
        self._crew: list[_Worker] = []
        self._failed_starts = 0

    def run(self) -> None:
        try:
            while self._chunks or self._crew:
                while self._chunks and len(self._crew) < self._count:
                    self._hire()
                soonest = min(worker.deadline for worker in self._crew)
                ready = wait([worker.pipe for worker in self._crew], max(0.0, soonest - time.monotonic()))
                for worker in [worker for worker in self._crew if worker.pipe in ready]:
                    self._listen(worker)
                now = time.monotonic()
                for worker in [worker for worker in self._crew if worker.deadline <= now]:
                    self._dismiss(worker, "timeout")
        finally:
            for worker in self._crew:
                _end(worker)

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(theirs, self._work), daemon=True)
        process.start()
        theirs.close()
        self._crew.append(_Worker(process, ours, time.monotonic() + _START_LIMIT_S))

    def _listen(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._dismiss(worker, "died")
            return
        match message:
            case ("ready",):
                worker.ready, self._failed_starts = True, 0
                self._give_chunk(worker)
            case ("start", job):
                worker.job, worker.deadline = job, time.monotonic() + self._timeout_s
            case ("done", job, result):
                worker.job = None
                worker.left.remove(job)
                self._on_result(job, result)
                if not worker.left:
                    self._give_chunk(worker)
            case ("os error", number, text):
                raise OSError(number, text)
            case ("refused", error):
                raise error
            case ("bug", text):
                raise RuntimeError(f"a worker process failed:\n{text}")

    def _give_chunk(self, worker: _Worker) -> None:
        if not self._chunks:
            self._crew.remove(worker)
            _end(worker, politely=True)
            return
        chunk = self._chunks.popleft()
        worker.left.extend(chunk)
        worker.deadline = time.monotonic() + self._timeout_s
        with contextlib.suppress(OSError):  # it died just now: the next recv says so, and the chunk is given again
            worker.pipe.send(chunk)

    def _dismiss(self, worker: _Worker, reason: str) -> None:
        self._crew.remove(worker)
        _end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise StoreError(
                    f"worker processes must start, but three in a row did not ({reason}, exit code "
                    f"{worker.process.exitcode}). A script that prepares clips needs "
                    "`if __name__ == '__main__':` around it; if memory is short, use fewer workers."
                )
            return
        rest = [job for job in worker.left if job != worker.job]
        if rest:
            self._chunks.appendleft(rest)
        if worker.job is None:
            return
        self._attempts[worker.job] += 1
        if self._attempts[worker.job] < 2:
            self._chunks.append([worker.job])
        else:
            self._on_lost(worker.job, reason)


def _end(worker: _Worker, *, politely: bool = False) -> None:
    worker.pipe.close()  # a worker that waits for its next chunk ends by itself
    if not politely:
        worker.process.kill()
    worker.process.join(10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _main(pipe: Connection, pickled: bytes) -> None:
    be_quiet()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    torch.set_num_threads(1)  # the cores are shared out by process
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            work = pickle.loads(pickled)
            limit_memory()
            pipe.send(("ready",))
            while True:
                for job in pipe.recv():
                    pipe.send(("start", job))
                    pipe.send(("done", job, work(job)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except RemixStudyError as error:
            pipe.send(("refused", error))
        except OSError as error:
            pipe.send(("os error", error.errno, error.strerror))
        except Exception:
            pipe.send(("bug", traceback.format_exc()))


def be_quiet() -> None:
    """What this process and its libraries print goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the descriptors, not `sys.stderr`: C code writes to them
        os.dup2(nowhere, stream)
    os.close(nowhere)


def limit_memory() -> None:
    """A damaged header can ask for any amount: this process may take some GB beyond what it has."""
    if sys.platform != "linux":  # elsewhere this limit does not hold, or counts other things
        return
    import resource

    # Data, not the address space: torch and CUDA map tens of GB of it that are never used.
    with Path("/proc/self/status").open(encoding="ascii") as status:
        held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
