"""Sampler: a global schedule -> the batches of this rank

Rank r of R trains `samples_TB[first_step:, r::R]`. Ranks need no communication, take the same number of steps, and
together train each global batch exactly once.
"""

# T steps, B samples of one global batch, b samples of one rank, M modalities

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.world import World


class RankBatch(NamedTuple):
    """The samples of one rank in one step; `global_count` is the number of samples of the global batch.

    `multimodal`: the number of samples of the global batch that train several modalities. `update_b`: the update to
    which each sample belongs (`Schedule.update_TB`). `steps`: the number of steps of the epoch.
    """

    step: int
    samples_b: NDArray[np.int64]
    active_bM: NDArray[np.bool_]
    trained_M: NDArray[np.bool_]  # modalities that any rank trains in this step
    global_count: int
    multimodal: int
    update_b: NDArray[np.int64] | None = None
    steps: int = 1

    @property
    def whole(self) -> int:
        """Deprecated name of `global_count`; removed in 0.3."""
        warnings.warn("`RankBatch.whole` is now `global_count`", DeprecationWarning, stacklevel=2)
        return self.global_count

    def split(self, most: int | None) -> "list[RankBatch]":
        """The micro-batches of this batch: as few as possible of at most `most` samples, of equal size within one."""
        pieces = 1 if most is None else -(-len(self.samples_b) // most)
        if pieces <= 1:
            return [self]
        fields = ("samples_b", "active_bM", *(() if self.update_b is None else ("update_b",)))
        cut = [np.array_split(getattr(self, name), pieces) for name in fields]
        return [self._replace(**dict(zip(fields, arrays, strict=True))) for arrays in zip(*cut, strict=True)]


def rank_batches(schedule: Schedule, world: World, first_step: int = 0) -> Iterator[RankBatch]:
    """Yield this rank's part of every step, from `first_step` on."""
    trained_TM = schedule.modalities_TM
    count_T = schedule.counts_T
    multimodal_T = (schedule.active_TBM.sum(axis=2) > 1).sum(axis=1)
    for step in range(first_step, schedule.steps):
        mine = schedule.samples_TB[step, world.rank :: world.size]
        held = mine != NO_SAMPLE
        active_bM = schedule.active_TBM[step, world.rank :: world.size][held]
        update_b = None if schedule.update_TB is None else schedule.update_TB[step, world.rank :: world.size][held]
        counts = int(count_T[step]), int(multimodal_T[step])
        yield RankBatch(step, mine[held], active_bM, trained_TM[step], *counts, update_b, schedule.steps)
