"""Rank, number of ranks, and collective operations

Only `launch/` reads the rank from the environment; other modules are given a `World`, so tests can write `World(3, 8)`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class World:
    """Rank `rank` of `size` ranks.

    Raises:
        ValueError: the rank is not in 0..size-1.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be in 0..{self.size - 1}, but is {self.rank}")

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes checkpoints, metrics and figures."""
        return self.rank == 0


class Collectives(Protocol):
    """Collective operations. Every rank must call the same methods in the same order."""

    @property
    def world(self) -> World: ...

    def sum_(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over all ranks, in place."""
        ...

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rows of all ranks in rank order, on every rank. Ranks may have different numbers of rows."""
        ...

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """Return the content of each rank in rank order, on every rank. Ranks may have different lengths."""
        ...

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        ...


class Solo:
    """Collective operations of a single rank."""

    @property
    def world(self) -> World:
        return World()

    def sum_(self, tensor: torch.Tensor) -> None:
        """Do nothing: the sum over one rank is the tensor itself."""

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows

    def gather_bytes(self, content: bytes) -> list[bytes]:
        return [content]

    def barrier(self) -> None:
        """Do nothing: there is no other rank."""


class TorchCollectives:
    """Collective operations of an initialised `torch.distributed` process group (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._world = World(dist.get_rank(), dist.get_world_size())

    @property
    def world(self) -> World:
        return self._world

    def sum_(self, tensor: torch.Tensor) -> None:
        moved = tensor.to(self._device)
        dist.all_reduce(moved, op=dist.ReduceOp.SUM)
        if moved.data_ptr() != tensor.data_ptr():
            tensor.copy_(moved)

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([part.numpy() for part in self._gather(torch.from_numpy(rows))])

    def gather_bytes(self, content: bytes) -> list[bytes]:
        mine = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        return [part.numpy().tobytes() for part in self._gather(mine)]

    def _gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks in rank order, on the CPU. They may differ in their first dimension."""
        counts = torch.zeros(self._world.size, dtype=torch.int64, device=self._device)
        counts[self._world.rank] = len(mine)
        dist.all_reduce(counts)
        padded = torch.zeros((int(counts.max()), *mine.shape[1:]), dtype=mine.dtype, device=self._device)
        padded[: len(mine)] = mine.to(self._device)
        parts = [torch.empty_like(padded) for _ in range(self._world.size)]
        dist.all_gather(parts, padded)
        return [part[:count].cpu() for part, count in zip(parts, counts.tolist(), strict=True)]

    def barrier(self) -> None:
        dist.barrier()
