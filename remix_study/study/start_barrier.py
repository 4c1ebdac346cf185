"""The processes of a study wait for one another before their first runs

Tune gives a run to a process that has just become free, rather than to one that is still starting, and sends that one
away. Where runs are shorter than the start of a process, all of them would follow one another in the first process,
and the other slots stay empty. So the first run of each process begins when all have arrived.
"""

import asyncio
import contextlib
import uuid
from typing import Any

import ray
from ray.exceptions import RayError

from remix_study.patience import PATIENCE

_PATIENCE_S = PATIENCE.start_barrier_s  # where others use the cluster, a slot may be free much later
_been: set[str] = set()  # meetings that this process has been to


class StartBarrier:
    """Of `size` processes, found by its `name`; needs a Ray. One that nobody opens opens itself after a minute."""

    def __init__(self, size: int) -> None:
        self.name = f"remix-study-barrier-{uuid.uuid4().hex}"
        self._door: Any = ray.remote(num_cpus=0)(Barrier).options(name=self.name).remote(size, _PATIENCE_S)
        self._opened = False

    def open(self) -> None:
        """Nobody else will come: those who wait go on."""
        if not self._opened:
            self._opened = True
            self._door.open.remote()


def wait_at_barrier(name: str | None) -> None:
    """In a process of the study, before a run: waits for the others, the first time only."""
    if name is None or name in _been:
        return
    _been.add(name)
    # The barrier's own process may be lost with its node: then there is nobody to wait for.
    with contextlib.suppress(RayError, ValueError):
        ray.get(ray.get_actor(name).arrive.remote())


class Barrier:
    """Counts who arrives, and lets all in at once."""

    def __init__(self, size: int, patience_s: float) -> None:
        self._size, self._patience_s = size, patience_s
        self._arrived = 0
        self._opened = asyncio.Event()

    async def arrive(self) -> None:
        self._arrived += 1
        if self._arrived >= self._size:
            self._opened.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), self._patience_s)
        self._opened.set()

    async def open(self) -> None:
        self._opened.set()
