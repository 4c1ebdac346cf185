"""Decoding on a Ray cluster: the jobs and answers of `media.workers.run_jobs`, by actors on all its machines

    actors      one CPU each, as many as the cluster has; each lives until there is no work left
    chunks      the units of work: an actor gets the numbers of a chunk, and sends an answer for each as it goes
    accidents   an actor that has sent nothing for too long is killed from outside, and what dies with its machine is
                seen, too: the rest of its chunk goes to another, the clip under way gets one more chance

Rows come back as answers, and the driver writes them: machines need to share no disk but that of the clips, and none
where those are at a URL.
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

_START_LIMIT_S = 300.0  # without any actor at work: all CPUs are taken, or machines are still starting
_ANSWERS_AHEAD = 8  # of each actor, until the driver has taken them: they wait in its machine's memory


def run_jobs_on_ray(
    work: Callable[[int], object],
    jobs: Sequence[int],
    *,
    on_result: Callable[[int, object], None],
    on_lost: Callable[[int, str], None],
    workers: int | None = None,
    chunk: int = 32,
    timeout_s: float = 60.0,
) -> None:
    """As `run_jobs`, on the Ray that RAY_ADDRESS names (or one of our own); `workers` None means all its CPUs.

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
    _Crew(pickle.dumps(work), chunks, count, timeout_s, on_result, on_lost).run()


class _Decoder:
    """What runs on the cluster."""

    def __init__(self, work: bytes) -> None:
        import torch

        be_quiet()
        torch.set_num_threads(1)  # the cores are shared out by actor
        self._work: Callable[[int], object] = pickle.loads(work)
        limit_memory()

    def ready(self) -> RemixStudyError | None:
        """What keeps it from working."""
        source = self._work.source if isinstance(self._work, DecodeRow) else None
        if isinstance(source, LocalSource) and not Path(source.root).is_dir():
            node = socket.gethostname()
            return SourceError(
                f"every machine of the cluster must see the clips in {source.root}, but {node} does not. Put them on a "
                "disk that all share, or at a URL such as s3://bucket/corpus."
            )
        return None

    def do(self, chunk: list[int]) -> Iterator[tuple[Any, ...]]:
        """`("done", result)` for each job, in this order."""
        try:
            for job in chunk:
                yield "done", self._work(job)
        except RemixStudyError as error:
            yield "refused", error
        except OSError as error:
            yield "os error", error.errno, error.strerror or str(error)
        except Exception:  # a fault of ours: the driver raises it, with this traceback
            yield "bug", traceback.format_exc()


@dataclass(eq=False)
class _Worker:
    """An actor as the driver knows it; `waiting` is what it will say next."""

    actor: Any
    waiting: Any
    ready: bool = False
    deadline: float = 0.0
    left: collections.deque[int] = field(default_factory=collections.deque)  # the first is under way


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
        self._work = ray.put(work)  # once for each machine
        self._chunks, self._count, self._timeout_s = chunks, count, timeout_s
        self._on_result, self._on_lost = on_result, on_lost
        self._attempts: collections.Counter[int] = collections.Counter()
        self._crew: list[_Worker] = []
        self._failed_starts = 0
        self._start_deadline = time.monotonic() + _START_LIMIT_S

    def run(self) -> None:
        try:
            while self._chunks or any(worker.left for worker in self._crew):
                while self._chunks and len(self._crew) < self._count:
                    self._hire()
                for worker in self._speaking():
                    self._listen(worker)
                now = time.monotonic()
                for worker in [worker for worker in self._crew if worker.left and worker.deadline <= now]:
                    self._dismiss(worker, "timeout")
                self._require_life(now)
        finally:
            for worker in self._crew:
                _end(worker)

    def _hire(self) -> None:
        decoder: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Decoder)
        actor = decoder.remote(self._work)
        self._crew.append(_Worker(actor, actor.ready.remote()))

    def _speaking(self) -> list[_Worker]:
        """Who has something to say; waits until one has, or until one has been silent for too long."""
        deadlines = [worker.deadline for worker in self._crew if worker.left] or [self._start_deadline]
        pause = max(0.0, min(deadlines) - time.monotonic())
        waiting = [worker.waiting for worker in self._crew]
        if not ray.wait(waiting, timeout=pause)[0]:
            return []
        spoken, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [worker for worker in self._crew if any(worker.waiting is each for each in spoken)]

    def _listen(self, worker: _Worker) -> None:
        try:
            said = ray.get(next(worker.waiting) if worker.ready else worker.waiting)
        except (RayError, StopIteration):
            self._dismiss(worker, "died")
            return
        match said:
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
                raise said
            case ("os error", number, text):
                raise OSError(number, text)
            case ("bug", text):
                raise RuntimeError(f"an actor failed:\n{text}")

    def _give_chunk(self, worker: _Worker) -> None:
        self._start_deadline = time.monotonic() + _START_LIMIT_S
        if not self._chunks:
            self._crew.remove(worker)
            _end(worker)
            return
        chunk = self._chunks.popleft()
        worker.left.extend(chunk)
        worker.deadline = time.monotonic() + self._timeout_s
        how = {"num_returns": "streaming", ray_private.GENERATOR_BACKPRESSURE: _ANSWERS_AHEAD}
        worker.waiting = worker.actor.do.options(**how).remote(chunk)

    def _dismiss(self, worker: _Worker, reason: str) -> None:
        self._crew.remove(worker)
        _end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise StoreError(
                    "actors must start on the cluster, but three in a row did not. Each of its machines needs the same "
                    "remix_study; what an actor said stands in Ray's logs."
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

    def _require_life(self, now: float) -> None:
        if self._chunks and not any(worker.left for worker in self._crew) and now > self._start_deadline:
            raise StoreError(
                f"the cluster must have a free CPU for decoding, but none came free in {_START_LIMIT_S:.0f} s. Wait "
                "for what runs there, or decode on this machine (without RAY_ADDRESS)."
            )


def _end(worker: _Worker) -> None:
    ray.kill(worker.actor)  # by Ray's own thread of that process: also where Python hangs
