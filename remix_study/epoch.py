"""An epoch as data: the samples of every step, and the modalities that they train

A method plans an epoch before it starts (`EpochPlan`), and the training loop executes the plan (`Schedule`).
"""

# N training samples, M modalities, C classes, T steps of an epoch, B samples of one global batch

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

NO_SAMPLE = -1

ScoreFunction = Callable[[NDArray[np.floating[Any]], NDArray[np.int64]], NDArray[np.float64]]
"""(probs_BMC, labels_B) -> scores_BM; higher means that the modality alone is more certain of the sample."""


Statistic = Literal["fused", "probabilities", "subsets", "subset_losses", "features"]
"""What a pass over a split finds in addition to `SplitStatistics.cross_entropy_NM`."""


@dataclass(frozen=True)
class SplitStatistics:
    """What a pass over a split found, in evaluation mode, of all samples in their order. It is the same on every rank.

    Attributes:
        rows_N: row numbers of the clip store.
        labels_N: the classes.
        available_NM: the modalities that each sample has.
        cross_entropy_NM: of the predictions from each modality alone, in nats.
        fused_cross_entropy_N: of the fused head, in nats; None unless "fused" was asked for.
        log_probabilities_NMC: of the predictions from each modality alone, in nats; None unless "probabilities" was
            asked for.
        right: set of modalities -> bool (N,), whether the fused head is right if only these are active; None unless
            "subsets" was asked for.
        subset_cross_entropy: set of modalities -> cross-entropy (N,) of the fused head if only these are active, in
            nats; None unless "subset_losses" was asked for.
        features: modality -> float32 (N, d_m); None unless "features" was asked for.
    """

    rows_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    available_NM: NDArray[np.bool_]
    cross_entropy_NM: NDArray[np.float64]
    fused_cross_entropy_N: NDArray[np.float64] | None = None
    log_probabilities_NMC: NDArray[np.float64] | None = None
    right: Mapping[frozenset[str], NDArray[np.bool_]] | None = None
    subset_cross_entropy: Mapping[frozenset[str], NDArray[np.float64]] | None = None
    features: Mapping[str, NDArray[np.float32]] | None = None


class ScoringPass(NamedTuple):
    """Results of one evaluation of every modality alone on all training samples.

    `statistics`: what the same pass found in addition; None if it was not a pass of the training loop.
    """

    scores_NM: NDArray[np.float64]
    cross_entropy_NM: NDArray[np.float64]  # nats
    statistics: SplitStatistics | None = None


class Passes(Protocol):
    """The passes over splits before an epoch. Each is made when it is first asked for, and shared by all who ask."""

    def train(self) -> SplitStatistics:
        """Statistics of the training samples."""
        ...

    def control(self) -> SplitStatistics:
        """Statistics of the control samples, which are held out from the training split for decisions in training."""
        ...

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rank 0's values, on every rank; every rank must call it.

        It is for computations whose result may depend on the processor.
        """
        ...


@dataclass(frozen=True)
class Schedule:
    """The steps of one epoch for all ranks; every rank has the same schedule.

    Args:
        samples_TB: int64 (T, B), positions in the training split; an incomplete batch ends in `NO_SAMPLE`.
        active_TBM: bool (T, B, M), the modalities that each sample trains.
        update_TB: int64 (T, B), the update to whose gradient each sample belongs, from 0; `NO_SAMPLE` where there is
            none. The encoders that its samples train are updated in the step of its last sample, with the gradient of
            the mean loss over its samples. None: every step is an update of the encoders that it trains.

    Raises:
        ValueError: the shapes do not match.
    """

    samples_TB: NDArray[np.int64]
    active_TBM: NDArray[np.bool_]
    update_TB: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.active_TBM.shape[:2] != self.samples_TB.shape:
            raise ValueError(f"active_TBM {self.active_TBM.shape} must start with {self.samples_TB.shape}")
        if self.update_TB is not None and self.update_TB.shape != self.samples_TB.shape:
            raise ValueError(f"update_TB must have shape {self.samples_TB.shape}, but has {self.update_TB.shape}")

    @property
    def steps(self) -> int:
        return len(self.samples_TB)

    @property
    def counts_T(self) -> NDArray[np.int64]:
        """The number of samples in each step's global batch."""
        return np.asarray((self.samples_TB != NO_SAMPLE).sum(axis=1), dtype=np.int64)

    @property
    def modalities_TM(self) -> NDArray[np.bool_]:
        """The modalities that any sample of a step trains, bool (T, M); the same on every rank."""
        return np.asarray(self.active_TBM.any(axis=1))

    @property
    def updates_M(self) -> NDArray[np.int64]:
        """The number of updates of each modality's encoder."""
        if self.update_TB is None:
            return np.asarray(self.modalities_TM.sum(axis=0), dtype=np.int64)
        return np.asarray(
            [len(np.unique(self.update_TB[active_TB])) for active_TB in np.moveaxis(self.active_TBM, 2, 0)]
        )


@dataclass(frozen=True)
class PlannedEpoch:
    """A schedule, with metrics and warnings about how it was planned."""

    schedule: Schedule
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    scored: bool = False  # whether the plan asked for the scoring pass
    evaluated: int = 0  # samples that passes before the epoch evaluated, filled in by the training loop
    trained_M: tuple[int, ...] = ()  # samples on which copies of the encoders were trained before it, likewise
    observed_at: tuple[int, ...] = ()  # numbers of trained steps after which an `ObservingPlan` sees the control split


class EpochPlan(Protocol):
    """Plans every epoch for all ranks.

    `run_scoring_pass` evaluates every modality alone on all training samples; a plan calls it only if it needs scores.
    `state` returns what an exact resume needs.
    """

    def plan(self, epoch: int, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> PlannedEpoch: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class InformedPlan(EpochPlan, Protocol):
    """A plan that needs statistics of the training or the control samples before some epochs."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Further statistics of the passes, which are shared with the rules of the method."""
        ...

    @property
    def needs_of_control(self) -> frozenset[Statistic]:
        """Further statistics of the pass over the control samples only."""
        ...

    def due(self, epoch: int) -> bool:
        """Whether `inform` must be called before `plan` in this epoch."""
        ...

    def inform(self, passes: Passes) -> None:
        """Take the passes of an epoch, which may be read until `plan` returns.

        It is called before the rules of the method that change the weights. What is read afterwards is of the changed
        weights.
        """
        ...


@runtime_checkable
class ObservingPlan(EpochPlan, Protocol):
    """A plan that sees the control samples after some steps of an epoch (`PlannedEpoch.observed_at`)."""

    @property
    def observes(self) -> frozenset[Statistic]:
        """Further statistics of these passes."""
        ...

    def observe(self, found: SplitStatistics) -> None: ...


@runtime_checkable
class ScoredPlan(EpochPlan, Protocol):
    """A plan that reads further statistics of its scoring passes (`ScoringPass.statistics`)."""

    def scoring_needs(self, epoch: int) -> frozenset[Statistic]:
        """The statistics that it reads in a scoring pass before this epoch."""
        ...
