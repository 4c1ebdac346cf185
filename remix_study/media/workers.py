"""A process pool for many small jobs, which tolerates workers that hang or crash

The parent kills a worker whose job exceeds its time limit (a decoder can hang in native code, where no signal reaches
Python), replaces workers that die, and retries their jobs once. Workers exit when the pipe to their parent closes.

Output that decoders and C libraries print is discarded; errors of our own code are sent through the pipe with their
traceback. The memory of a worker is limited, so that a damaged header that asks for any amount fails only its own job.
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

_START_LIMIT_S = PATIENCE.decoder_start_s  # time for a first import of torch from a slow network disk
# Above a worker's memory at its start. A clip of 3840 x 2160 needs 0.3 GB, decord's libraries 0.3 (0.6 with CUDA).
_MEMORY_BYTES = 3 * 2**30
_PRELOAD = ["remix_study.media.build"]  # imports torch once in the fork server, so that workers start in milliseconds


@dataclass(eq=False)
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    deadline: float
    ready: bool = False
    job: int | None = None
    left: collections.deque[int] = field(default_factory=collections.deque)


def available_cores() -> int:
    """Number of cores that this process may use; in a container this can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RunJobs(Protocol):
    """A function that runs jobs, such as `run_jobs` on this machine."""

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
    """Call `work(job)` for each job, in worker processes.

    Both callbacks are called in this process, in the order of completion.

    Args:
        work: a picklable function of a job.
        jobs: the jobs.
        on_result: called as `on_result(job, result)` with the return value of `work`.
        on_lost: called as `on_lost(job, reason)` after two failed attempts; the reason is `timeout` or `died`.
        workers: number of processes; None means one per core.
        chunk: largest number of jobs that a worker gets at once.
        timeout_s: seconds that one job may take.

    Raises:
        OSError: raised by `work`; keeps its number and text.
        RemixStudyError: raised by `work`.
        RuntimeError: any other exception of `work`, with its traceback.
        StoreError: worker processes cannot be started.
    """
    if not jobs:
        return
    count = max(1, min(workers or available_cores(), len(jobs)))
    chunks = collections.deque(in_chunks(jobs, count, chunk))
    _Pool(pickle.dumps(work), chunks, count, timeout_s, on_result, on_lost).run()


def in_chunks(jobs: Sequence[int], workers: int, most: int) -> Iterator[list[int]]:
    """Yield all jobs in order, in chunks of at most `most` that shrink towards the end to balance the load.

    This is guided self-scheduling (Polychronopoulos, Kuck; IEEE Trans. Computers C-36(12), 1987), with half its sizes.
    """
    first = 0
    while first < len(jobs):
        size = max(1, min(most, (len(jobs) - first) // (2 * workers)))
        yield list(jobs[first : first + size])
        first += size


class _Pool:
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
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def run(self) -> None:
        try:
            while self._chunks or self._workers:
                while self._chunks and len(self._workers) < self._count:
                    self._start_worker()
                soonest = min(worker.deadline for worker in self._workers)
                ready = wait([worker.pipe for worker in self._workers], max(0.0, soonest - time.monotonic()))
                for worker in [worker for worker in self._workers if worker.pipe in ready]:
                    self._receive(worker)
                now = time.monotonic()
                for worker in [worker for worker in self._workers if worker.deadline <= now]:
                    self._discard(worker, "timeout")
        finally:
            for worker in self._workers:
                _end(worker)

    def _start_worker(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(theirs, self._work), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, time.monotonic() + _START_LIMIT_S))

    def _receive(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._discard(worker, "died")
            return
        match message:
            case ("ready",):
                worker.ready, self._failed_starts = True, 0
                self._send_chunk(worker)
            case ("start", job):
                worker.job, worker.deadline = job, time.monotonic() + self._timeout_s
            case ("done", job, result):
                worker.job = None
                worker.left.remove(job)
                self._on_result(job, result)
                if not worker.left:
                    self._send_chunk(worker)
            case ("os error", number, text):
                raise OSError(number, text)
            case ("refused", error):
                raise error
            case ("bug", text):
                raise RuntimeError(f"A worker process failed:\n{text}")

    def _send_chunk(self, worker: _Worker) -> None:
        if not self._chunks:
            self._workers.remove(worker)
            _end(worker, politely=True)
            return
        chunk = self._chunks.popleft()
        worker.left.extend(chunk)
        worker.deadline = time.monotonic() + self._timeout_s
        with contextlib.suppress(OSError):  # the worker just died: the next `recv` raises, and the chunk is sent again
            worker.pipe.send(chunk)

    def _discard(self, worker: _Worker, reason: str) -> None:
        self._workers.remove(worker)
        _end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise StoreError(
                    f"Cannot start worker processes: three in a row failed ({reason}, exit code "
                    f"{worker.process.exitcode}). Put the code of a script that prepares clips under "
                    "`if __name__ == '__main__':`. If memory is short, use fewer workers."
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
    worker.pipe.close()  # a worker that waits for its next chunk exits
    if not politely:
        worker.process.kill()
    worker.process.join(10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _main(pipe: Connection, pickled: bytes) -> None:
    be_quiet()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which kills its workers
    torch.set_num_threads(1)  # each core already runs a process
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has died
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
        except Exception:  # the process that waits for the result raises it
            pipe.send(("bug", traceback.format_exc()))


def be_quiet() -> None:
    """Discard everything that this process and its libraries print."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the descriptors, not `sys.stderr`, because C code writes to them
        os.dup2(null, stream)
    os.close(null)


def limit_memory() -> None:
    """Limit this process to 3 GB more memory than it has now. No effect on other systems than Linux."""
    if sys.platform != "linux":  # other systems ignore RLIMIT_DATA, or count other memory
        return
    import resource

    # Limit the data segment, not the address space: torch and CUDA map tens of GB that they never use.
    with Path("/proc/self/status").open(encoding="ascii") as status:
        held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
