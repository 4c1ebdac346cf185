"""The drop of the fused loss in each modality's block of batches

In the order `blocks`, an epoch trains one modality after the other. The fused loss of the control samples is known
before the first block and after each one. The last block of an epoch is followed by the pass before the next epoch,
which is shared with all who read the control samples; so an epoch with M blocks takes M passes.
"""

# M modalities

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import Schedule


class BlockLosses:
    """Sums the drops over the blocks of each modality until they are taken.

    Args:
        columns: the columns of the M axis in training order.
    """

    def __init__(self, columns: tuple[int, ...]) -> None:
        self._columns = columns
        self._blocks: tuple[int, ...] = ()  # the modalities of the blocks of the epoch, in training order
        self._losses: list[float] = []  # before the first block, and after each one
        self._drop_M = np.zeros(len(columns))
        self._known = False

    def finish(self, loss: float) -> None:
        """End an epoch, given the loss after it; the last block of an epoch may end with it."""
        if not self._blocks:
            return
        self._drop_M = self._drop_M.copy()  # a saved state holds it
        after = [*self._losses[1:], loss][: len(self._blocks)]
        for column, start, end in zip(self._blocks, self._losses, after, strict=False):
            self._drop_M[column] += start - end
        self._known = True
        self._blocks, self._losses = (), []

    def take(self) -> NDArray[np.float64] | None:
        """The drop for each modality, (M,) in nats, since it was last taken; None if no epoch has ended since."""
        drop_M = self._drop_M if self._known else None
        self._drop_M, self._known = np.zeros(len(self._columns)), False
        return drop_M

    def begin(self, loss: float, schedule: Schedule) -> tuple[int, ...]:
        """Begin an epoch, given the loss before it; return the numbers of steps after which `observe` is called."""
        alone_TM = schedule.modalities_TM & (schedule.modalities_TM.sum(axis=1) == 1)[:, None]
        ends = {m: int(np.flatnonzero(alone_TM[:, m])[-1]) + 1 for m in self._columns if alone_TM[:, m].any()}
        self._blocks, self._losses = tuple(ends), [loss]
        return tuple(end for end in ends.values() if end < schedule.steps)

    def observe(self, loss: float) -> None:
        """Note the loss after a block."""
        self._losses.append(loss)

    def state(self) -> dict[str, Any]:
        """What an exact resume needs, also in the middle of an epoch."""
        return {
            "blocks": np.asarray(self._blocks, dtype=np.int64),
            "losses": np.asarray(self._losses, dtype=np.float64),
            "drop_M": self._drop_M,
            "known": np.asarray(self._known),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; nothing, from a checkpoint of a version without it."""
        if "blocks" not in state:
            return
        self._blocks, self._losses = tuple(map(int, state["blocks"])), list(map(float, state["losses"]))
        self._drop_M, self._known = np.asarray(state["drop_M"]), bool(state["known"])
