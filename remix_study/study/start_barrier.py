"""The start barrier: the processes of a study wait for one another before their first run

Tune assigns a run to a process that is free rather than to one that is still starting, and then stops the latter. If
runs are shorter than the start of a process, all runs would use the first process and the other slots stay empty.
"""

import asyncio
import contextlib
import uuid
from typing import Any

import ray
from ray.exceptions import RayError

from remix_study.patience import PATIENCE

_TIMEOUT_S = PATIENCE.start_barrier_s  # on a shared cluster, a slot may become free much later
_passed: set[str] = set()  # names of barriers at which this process has waited


class StartBarrier:
    """A barrier for `size` processes, on an initialised Ray. It opens when all have arrived, or after a minute.

    Attributes:
        name: by which the processes find it.
    """

    def __init__(self, size: int) -> None:
        self.name = f"remix-study-barrier-{uuid.uuid4().hex}"
        self._barrier: Any = ray.remote(num_cpus=0)(Barrier).options(name=self.name).remote(size, _TIMEOUT_S)
        self._opened = False

    def open(self) -> None:
        """Open the barrier, because no other process will arrive."""
        if not self._opened:
            self._opened = True
            self._barrier.open.remote()


def wait_at_barrier(name: str | None) -> None:
    """Wait for the other processes of the study, if this one has not done so. `name` None: there is no barrier."""
    if name is None or name in _passed:
        return
    _passed.add(name)
    # The barrier may be lost with its node. Then do not wait.
    with contextlib.suppress(RayError, ValueError):
        ray.get(ray.get_actor(name).arrive.remote())


class Barrier:
    """The Ray actor behind `StartBarrier`."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self._size, self._timeout_s = size, timeout_s
        self._arrived = 0
        self._opened = asyncio.Event()

    async def arrive(self) -> None:
        """Return when the barrier is open."""
        self._arrived += 1
        if self._arrived >= self._size:
            self._opened.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), self._timeout_s)
        self._opened.set()

    async def open(self) -> None:
        """Open the barrier."""
        self._opened.set()
