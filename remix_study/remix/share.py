"""Share rules: how many samples each modality gets

How many matters more than which ones (docs/evidence.md). `FixedShare` keeps given shares. `ProgressShare` follows
learning progress: a modality whose loss falls faster per assigned sample gets more samples.
"""

# N training samples, M modalities

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ShareRule(Protocol):
    """A rule: mean training cross-entropy per modality (nats) at this and the last scoring pass -> new shares (M,)."""

    @property
    def needs_scoring(self) -> bool: ...

    def next(
        self, loss_M: NDArray[np.float64] | None, before_M: NDArray[np.float64] | None, shares_M: NDArray[np.float64]
    ) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class FixedShare:
    """Constant shares, which sum to 1."""

    shares: tuple[float, ...]
    needs_scoring = False

    def next(
        self,
        loss_M: NDArray[np.float64] | None,  # noqa: ARG002 - required by ShareRule
        before_M: NDArray[np.float64] | None,  # noqa: ARG002 - required by ShareRule
        shares_M: NDArray[np.float64],  # noqa: ARG002 - required by ShareRule
    ) -> NDArray[np.float64]:
        return np.asarray(self.shares, dtype=np.float64)


@dataclass(frozen=True)
class ProgressShare:
    """Shares that follow the learning progress of each modality.

    g_m = max(L_m before - L_m now, 1e-3) / max(share_m, 0.1);  log share_m += rate * log g_m, then normalised, and
    limited to [lowest, 1 - (M - 1) * lowest], where `lowest` is at most 1 / M. The first scoring pass keeps the shares.
    docs/evidence.md measures two modalities with rate 0.5 and lowest 0.2.
    """

    rate: float = 0.5
    lowest: float = 0.2
    needs_scoring = True

    def next(
        self, loss_M: NDArray[np.float64] | None, before_M: NDArray[np.float64] | None, shares_M: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if loss_M is None or before_M is None:
            return shares_M
        progress_M = np.maximum(before_M - loss_M, 1e-3) / np.maximum(shares_M, 0.1)
        weight_M = np.maximum(shares_M, 1e-6) * progress_M**self.rate
        return _at_least(weight_M / weight_M.sum(), min(self.lowest, 1 / len(shares_M)))


def _at_least(shares_M: NDArray[np.float64], lowest: float) -> NDArray[np.float64]:
    """Raise small shares to `lowest`; the others keep their proportions."""
    held_M = np.zeros(len(shares_M), np.bool_)
    while True:
        rest = 1.0 - lowest * held_M.sum()
        free_M = np.where(held_M, 0.0, shares_M)
        result_M = np.where(held_M, lowest, free_M * rest / free_M.sum() if free_M.sum() > 0 else 0.0)
        low_M = ~held_M & (result_M < lowest)
        if not low_M.any():
            return result_M
        held_M |= low_M
