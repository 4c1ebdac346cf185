"""Ranks that are threads of this process"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.world import Collectives, World


def run_on_ranks(size: int, work: Callable[[Collectives], Any]) -> list[Any]:
    """Run `work` on `size` ranks at once, and return the result of each rank."""
    shared = _Shared(threading.Barrier(size), [None] * size)

    def rank(number: int) -> Any:
        try:
            return work(_ThreadCollectives(number, shared))
        except BaseException:
            shared.barrier.abort()  # the other ranks must not wait for this one
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


@dataclass
class _Shared:
    """Shared memory of the ranks, with one slot per rank."""

    barrier: threading.Barrier
    slots: list[Any]


class _ThreadCollectives:
    """Collectives for ranks that are threads of this process."""

    def __init__(self, rank: int, shared: _Shared) -> None:
        self._world = World(rank, len(shared.slots))
        self._shared = shared

    @property
    def world(self) -> World:
        return self._world

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor.clone())).sum(dim=0))

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate(self._exchange(rows))

    def gather_bytes(self, content: bytes) -> list[bytes]:
        gathered: list[bytes] = self._exchange(content)
        return gathered

    def barrier(self) -> None:
        self._shared.barrier.wait(60)

    def _exchange(self, mine: Any) -> list[Any]:
        self._shared.slots[self._world.rank] = mine
        self._shared.barrier.wait(60)
        values = list(self._shared.slots)
        self._shared.barrier.wait(60)
        return values
