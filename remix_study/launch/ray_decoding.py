"""Decoding clips on a Ray cluster: the distributed counterpart of `media.workers.run_jobs`

    actors     one CPU each, as many as the cluster has; each lives until no work is left
    chunks     the units of work: an actor gets the job numbers of a chunk, and streams one result per job
    failures   an actor that sends nothing for too long is killed. If an actor is killed or lost with its node, another
               one gets the rest of its chunk, and the current job is retried once

The driver receives all results and writes them. Nodes share only the disk that holds the clips, and no disk if the
clips are at a URL.
"""

import collections
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from remix_study import ray_private
from remix_study.errors import RemixStudyError, SourceError, StoreError
from remix_study.launch.ray_init import join_or_start
from remix_study.media.build import DecodeRow
from remix_study.media.source import LocalSource
from remix_study.media.workers import be_quiet, in_chunks, limit_memory
from remix_study.patience import PATIENCE

_UNREAD_RESULTS = 8  # of each actor; they wait in its node's memory until the driver reads them


def run_jobs_on_ray(
    work: Callable[[int], object],
    jobs: Sequence[int],
    *,
    on_result: Callable[[int, object], None],
    on_lost: Callable[[int, str], None],
    workers: int | None = None,
    chunk: int = 32,
    timeout_s: float = 60.0,
    start_timeout_s: float = PATIENCE.decoder_start_s,
) -> None:
    """Run `work(job)` for every job on the cluster at RAY_ADDRESS, or on a local Ray.

    Args:
        work: must be picklable.
        jobs: job numbers.
        on_result: called in this process as `on_result(job, result)`.
        on_lost: called as `on_lost(job, reason)` for a job whose actor was killed or lost twice.
        workers: number of actors; None: one per CPU of the cluster.
        chunk: largest number of jobs per chunk.
        timeout_s: longest time that one job may take.
        start_timeout_s: longest time without a working actor: CPUs may be busy, or nodes still starting.

    Raises:
        OSError, RemixStudyError: as raised by `work`.
        RuntimeError: any other exception of `work`, with its traceback.
        StoreError: actors cannot be started, or get no CPU.
    """
    if not jobs:
        return
    join_or_start()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's gap
    count = max(1, min(workers or int(resources.get("CPU", 1)), len(jobs)))
    chunks = collections.deque(in_chunks(jobs, count, chunk))
    _ActorPool(pickle.dumps(work), chunks, count, timeout_s, start_timeout_s, on_result, on_lost).run()


class _Decoder:
    """The actor: runs chunks of jobs on the cluster."""

    def __init__(self, work: bytes) -> None:
        import torch

        be_quiet()
        torch.set_num_threads(1)  # each actor has one core
        self._work: Callable[[int], object] = pickle.loads(work)
        limit_memory()

    def ready(self) -> RemixStudyError | None:
        """Return the error that would make every job on this node fail, else None."""
        source = self._work.source if isinstance(self._work, DecodeRow) else None
        if isinstance(source, LocalSource) and not Path(source.root).is_dir():
            node = socket.gethostname()
            return SourceError(
                f"Node {node} does not see the clips in {source.root}. Put them on a disk that all nodes share, or at "
                "a URL such as s3://bucket/corpus."
            )
        return None

    def do(self, chunk: list[int]) -> Iterator[tuple[Any, ...]]:
        """Yield `("done", result)` for each job in order, or another tuple for an error, which ends the chunk."""
        try:
            for job in chunk:
                yield "done", self._work(job)
        except RemixStudyError as error:
            yield "refused", error
        except OSError as error:
            yield "os error", error.errno, error.strerror or str(error)
        except Exception:  # a bug in our code: the driver raises it with this traceback
            yield "bug", traceback.format_exc()


@dataclass(eq=False)
class _Worker:
    """The driver's state of one actor.

    Args:
        pending: Ray's reference to the actor's next message.
        left: unfinished jobs of its chunk; it works on the first.
    """

    actor: Any
    pending: Any
    ready: bool = False
    deadline: float = 0.0
    left: collections.deque[int] = field(default_factory=collections.deque)


class _ActorPool:
    def __init__(
        self,
        work: bytes,
        chunks: collections.deque[list[int]],
        count: int,
        timeout_s: float,
        start_timeout_s: float,
        on_result: Callable[[int, object], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        self._work = ray.put(work)  # sent once to each node
        self._chunks, self._count = chunks, count
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._on_result, self._on_lost = on_result, on_lost
        self._attempts: collections.Counter[int] = collections.Counter()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._start_deadline = time.monotonic() + self._start_timeout_s

    def run(self) -> None:
        try:
            while self._chunks or any(worker.left for worker in self._workers):
                while self._chunks and len(self._workers) < self._count:
                    self._start_actor()
                for worker in self._wait_for_messages():
                    self._handle_message(worker)
                now = time.monotonic()
                for worker in [worker for worker in self._workers if worker.left and worker.deadline <= now]:
                    self._replace(worker, "timeout")
                self._require_progress(now)
        finally:
            for worker in self._workers:
                _end(worker)

    def _start_actor(self) -> None:
        decoder: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Decoder)
        actor = decoder.remote(self._work)
        self._workers.append(_Worker(actor, actor.ready.remote()))

    def _wait_for_messages(self) -> list[_Worker]:
        """Wait for a message or for the next deadline, and return the workers that have sent a message."""
        deadlines = [worker.deadline for worker in self._workers if worker.left] or [self._start_deadline]
        pause = max(0.0, min(deadlines) - time.monotonic())
        pending = [worker.pending for worker in self._workers]
        if not ray.wait(pending, timeout=pause)[0]:
            return []
        arrived, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        return [worker for worker in self._workers if any(worker.pending is each for each in arrived)]

    def _handle_message(self, worker: _Worker) -> None:
        try:
            message = ray.get(next(worker.pending) if worker.ready else worker.pending)
        except (RayError, StopIteration):
            self._replace(worker, "died")
            return
        match message:
            case None:
                worker.ready, self._failed_starts = True, 0
                self._give_chunk(worker)
            case ("done", result):
                worker.deadline = time.monotonic() + self._timeout_s
                self._on_result(worker.left.popleft(), result)
                if not worker.left:
                    self._give_chunk(worker)
            case ("refused", error):
                raise error
            case RemixStudyError():
                raise message
            case ("os error", number, text):
                raise OSError(number, text)
            case ("bug", text):
                raise RuntimeError(f"An actor failed:\n{text}")

    def _give_chunk(self, worker: _Worker) -> None:
        self._start_deadline = time.monotonic() + self._start_timeout_s
        if not self._chunks:
            self._workers.remove(worker)
            _end(worker)
            return
        chunk = self._chunks.popleft()
        worker.left.extend(chunk)
        worker.deadline = time.monotonic() + self._timeout_s
        how = {"num_returns": "streaming", ray_private.GENERATOR_BACKPRESSURE: _UNREAD_RESULTS}
        worker.pending = worker.actor.do.options(**how).remote(chunk)

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Kill the actor and put its unfinished jobs back; report the current job as lost if it was retried before."""
        self._workers.remove(worker)
        _end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise StoreError(
                    "Three actors in a row failed to start on the cluster. Check that all nodes have the same "
                    "remix_study, and see the actors' messages in Ray's logs."
                )
            return
        job, *rest = worker.left
        if rest:
            self._chunks.appendleft(rest)
        self._attempts[job] += 1
        if self._attempts[job] < 2:
            self._chunks.append([job])
        else:
            self._on_lost(job, reason)

    def _require_progress(self, now: float) -> None:
        if self._chunks and not any(worker.left for worker in self._workers) and now > self._start_deadline:
            raise StoreError(
                f"The cluster had no free CPU for decoding within {self._start_timeout_s:.0f} s. Wait until its other "
                "work ends, or unset RAY_ADDRESS to decode on this machine."
            )


def _end(worker: _Worker) -> None:
    ray.kill(worker.actor)  # a thread of Ray ends the process, even if Python hangs
