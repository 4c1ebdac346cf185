"""An epoch as data: which samples a step sees, and through which modalities

A method decides before an epoch starts; the training loop carries the decision out. `EpochPlan` is the seam between
them, `Schedule` what passes through it.
"""

# N training samples, M modalities, C classes, T steps of an epoch, B samples of one global batch

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

NO_SAMPLE = -1

ScoreFunction = Callable[[NDArray[np.floating[Any]], NDArray[np.int64]], NDArray[np.float64]]
"""(probs_BMC, labels_B) -> scores_BM; higher means that the modality knows the sample better."""


class ScoringPass(NamedTuple):
    """What one evaluation pass over the training samples saw, with every modality on its own."""

    scores_NM: NDArray[np.float64]
    cross_entropy_NM: NDArray[np.float64]  # nats


@dataclass(frozen=True)
class Schedule:
    """The steps of one epoch, for the whole world: every rank holds the same one.

    `samples_TB` are positions in the training split; a row that is not full ends in `NO_SAMPLE`. `active_TBM` says
    through which modalities each of them is trained.
    """

    samples_TB: NDArray[np.int64]
    active_TBM: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.active_TBM.shape[:2] != self.samples_TB.shape:
            raise ValueError(f"active_TBM {self.active_TBM.shape} must start with {self.samples_TB.shape}")

    @property
    def steps(self) -> int:
        return len(self.samples_TB)

    @property
    def counts_T(self) -> NDArray[np.int64]:
        """How many samples each step's global batch really holds."""
        return np.asarray((self.samples_TB != NO_SAMPLE).sum(axis=1), dtype=np.int64)

    @property
    def modalities_TM(self) -> NDArray[np.bool_]:
        """Which modalities are trained by anyone in each step; the same answer on every rank."""
        return np.asarray(self.active_TBM.any(axis=1))


@dataclass(frozen=True)
class PlannedEpoch:
    """A schedule, and what the plan wants recorded about how it came to be."""

    schedule: Schedule
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    scored: bool = False  # whether the scoring pass ran


class EpochPlan(Protocol):
    """Who is trained through what, decided once per epoch and for all ranks.

    `run_scoring_pass` evaluates every modality alone on all training samples; a plan that does not need it does not
    call it. `state` is what an exact resume needs.
    """

    def plan(self, epoch: int, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> PlannedEpoch: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
