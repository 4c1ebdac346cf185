"""Share rules: how many samples each modality gets

The number of samples matters more than which ones they are (docs/evidence.md). `FixedShare` keeps given shares,
`ArgminShare` counts what argmin would assign, and the others are controllers: they raise the share of a modality whose
samples help more.

    s_m        share of modality m, in [0, 1]; the shares sum to 1 and start at 1 / M
    L_m        mean cross-entropy of the predictions from m alone, in nats
    drop_m     how much a loss fell since the last assignment
    log s_m   += rate * log( max(drop_m, 1e-3) / max(s_m, 0.1) ), then normalised

`ProgressShare` reads L_m of the training samples, `HeldOutProgressShare` that of the control samples,
`CalibratedProgressShare` adds the exponents of the calibrated late product, and `BlockGainShare` reads the fused loss.
A share below `lowest` is raised to it, and the others keep their proportions. Where `lowest` is not given, it is
0.4 / M: the measured 0.2 for two modalities and 0.133 for three.
"""

# N training samples, M modalities

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import ScoringPass, SplitStatistics, Statistic
from remix_study.metrics.late_product import fit_exponents

Values = NDArray[np.float64]

_SMALLEST_DROP = 1e-3  # nats; a rising loss counts as this
_SMALLEST_SHARE = 0.1  # by which a drop is divided
_EXPONENTS = (0.2, 5.0)  # an exponent counts as at least and at most these
_NOTHING: frozenset[Statistic] = frozenset()


def _no_control() -> SplitStatistics:
    raise AssertionError("a rule that reads the control samples must say so in `of_control`")


@dataclass(frozen=True)
class ShareInputs:
    """What a share rule may read before an assignment.

    Attributes:
        epoch: the epoch that is planned, from 0.
        shares_M: the last shares, (M,); they sum to 1.
        kept: what the rule kept at the last assignment; empty at the first.
        columns: the columns of the M axis in training order.
        scored: the scoring pass of this assignment; None if neither the filter nor the share needs one.
        gains_M: the drop of the mean fused cross-entropy of the control samples in the blocks of each modality since
            the last assignment, in nats, (M,); None at the first, and for a rule that does not read it.
        control: statistics of the control samples. The pass is made when they are first read.
    """

    epoch: int
    shares_M: Values
    kept: Mapping[str, Values] = field(default_factory=dict)
    columns: tuple[int, ...] = ()
    scored: ScoringPass | None = None
    gains_M: Values | None = None
    control: Callable[[], SplitStatistics] = _no_control

    def among(self, trained: Sequence[int]) -> "ShareInputs":
        """These inputs for the modalities of the columns `trained` only, whose shares sum to 1; M is their number.

        `kept` stays, because a rule restarts when other modalities train.
        """
        if len(trained) == len(self.shares_M):
            return self
        kept = list(trained)
        scored = self.scored
        return replace(
            self,
            shares_M=self.shares_M[kept] / self.shares_M[kept].sum(),
            columns=tuple(kept.index(column) for column in self.columns if column in kept),
            scored=scored and ScoringPass(scored.scores_NM[:, kept], scored.cross_entropy_NM[:, kept]),
            gains_M=None if self.gains_M is None else self.gains_M[kept],
            control=lambda: _among(self.control(), kept),
        )


def _among(found: SplitStatistics, kept: list[int]) -> SplitStatistics:
    """What a share rule reads of the control samples, for the modalities of the columns `kept` only."""
    logs_NMC = found.log_probabilities_NMC
    return replace(
        found,
        cross_entropy_NM=found.cross_entropy_NM[:, kept],
        log_probabilities_NMC=None if logs_NMC is None else logs_NMC[:, kept],
    )


class ShareStep(NamedTuple):
    """The decision of a share rule.

    `shares_M`: the new shares. `kept`: what the rule reads at the next assignment, arrays by name. `read`: what it
    read, (M,), by the name under which it is recorded.
    """

    shares_M: Values
    kept: Mapping[str, Values] = {}
    read: Mapping[str, Values] = {}


class ShareRule(Protocol):
    """A rule that sets the shares at every assignment, of the M modalities that train.

    A rule has no state, so that a plan can be restored: what it needs again is in `ShareStep.kept`.
    """

    @property
    def needs_scoring(self) -> bool:
        """Whether the rule reads the scoring pass."""
        ...

    @property
    def of_control(self) -> frozenset[Statistic] | None:
        """Further statistics of the control samples that the rule reads; None if it does not read them."""
        ...

    @property
    def after_blocks(self) -> bool:
        """Whether the rule reads the fused loss after each block, which needs the order `blocks`."""
        ...

    def next(self, seen: ShareInputs) -> ShareStep: ...


@dataclass(frozen=True)
class FixedShare:
    """Constant shares, which sum to 1."""

    shares: tuple[float, ...]
    needs_scoring = False
    of_control: ClassVar[frozenset[Statistic] | None] = None
    after_blocks = False

    def next(self, seen: ShareInputs) -> ShareStep:  # noqa: ARG002 - required by ShareRule
        return ShareStep(np.asarray(self.shares, dtype=np.float64))


@dataclass(frozen=True)
class ProgressShare:
    """Shares that follow the learning progress of each modality on the training samples.

    drop_m = L_m at the last scoring pass - L_m now; log s_m as in the module docstring, at least `lowest` (at most
    1 / M). The first scoring pass keeps the shares. docs/evidence.md measures two modalities with rate 0.5 and lowest
    0.2.
    """

    rate: float = 0.5
    lowest: float = 0.2
    needs_scoring = True
    of_control: ClassVar[frozenset[Statistic] | None] = None
    after_blocks = False

    def next(self, seen: ShareInputs) -> ShareStep:
        loss_M = training_loss(seen)
        return _followed(seen, loss_M, {}, self.rate, self.lowest)


@dataclass(frozen=True)
class HeldOutProgressShare:
    """`ProgressShare` with the cross-entropy on the control samples, which memorised samples cannot lower.

    It needs no scoring pass. docs/evidence.md measures rate 0.5 and lowest 0.2 for two modalities. `lowest`: None is
    0.4 / M.
    """

    rate: float = 0.5
    lowest: float | None = None
    needs_scoring = False
    of_control: ClassVar[frozenset[Statistic] | None] = _NOTHING
    after_blocks = False

    def next(self, seen: ShareInputs) -> ShareStep:
        loss_M = seen.control().cross_entropy_NM.mean(axis=0)
        return _followed(seen, loss_M, {"control_cross_entropy": loss_M}, self.rate, self.lowest)


@dataclass(frozen=True)
class CalibratedProgressShare:
    """Progress on the training samples, and more samples for a modality that the calibrated late product trusts more.

    log s_m += rate * log( max(L_m at the last scoring pass - L_m now, 1e-3) / max(s_m, 0.1) )
             + calibration * log clip(w_m, 0.2, 5);  then softmax;  then at least `lowest` (None: 0.4 / M)

    w_m are the exponents of the calibrated late product (`remix_study.metrics.late_product`), fitted on the control
    samples. The first scoring pass has no progress term. docs/evidence.md measures it with rate and calibration 0.5,
    and lowest 0.2 for two and 0.133 for three modalities. `calibration=0` is `ProgressShare`.
    """

    rate: float = 0.5
    calibration: float = 0.5
    lowest: float | None = None
    needs_scoring = True
    of_control: ClassVar[frozenset[Statistic] | None] = frozenset(("probabilities",))
    after_blocks = False

    def next(self, seen: ShareInputs) -> ShareStep:
        loss_M, control = training_loss(seen), seen.control()
        assert control.log_probabilities_NMC is not None
        exponent_M = fit_exponents(control.log_probabilities_NMC, control.labels_N)
        log_M = np.log(np.maximum(seen.shares_M, 1e-6))
        log_M = log_M + self.calibration * np.log(np.clip(exponent_M, *_EXPONENTS))
        before_M = seen.kept.get(LOSS)
        read = {"exponent": exponent_M}
        if before_M is not None:
            read["share_gain"] = before_M - loss_M
            log_M = log_M + self.rate * np.log(_progress(before_M - loss_M, seen.shares_M))
        weight_M = np.exp(log_M - log_M.max())
        return ShareStep(_at_least(weight_M / weight_M.sum(), self.lowest), {LOSS: loss_M}, read)


@dataclass(frozen=True)
class ArgminShare:
    """The shares that `Argmin` would give, so that with `Random` only its choice of samples is missing.

    s_m is the fraction of the training samples whose score is lowest in m; ties go to the first modality in training
    order.
    """

    needs_scoring = True
    of_control: ClassVar[frozenset[Statistic] | None] = None
    after_blocks = False

    def next(self, seen: ShareInputs) -> ShareStep:
        assert seen.scored is not None
        columns = list(seen.columns)
        chosen_N = np.argmin(seen.scored.scores_NM[:, columns], axis=1)
        shares_M = np.zeros(len(columns))
        shares_M[columns] = np.bincount(chosen_N, minlength=len(columns)) / max(len(chosen_N), 1)
        return ShareStep(shares_M)


@dataclass(frozen=True)
class BlockGainShare:
    """Shares that follow how much each modality's block of batches lowers the fused loss on the control samples.

    drop_m = mean fused cross-entropy of the control samples before the block of m - after it, summed over the epochs
    since the last assignment; log s_m as in the module docstring, at least `lowest` (None: 0.4 / M). The first
    assignment keeps the shares.

    docs/evidence.md measures the idea, but gives no formula; this one is ours, and differs from `ProgressShare` only in
    the loss. An epoch takes one pass over the control samples for each modality. Blocks follow each other, so the drop
    of a block also depends on those before it. Joint samples train after all blocks, and count for none.
    """

    rate: float = 0.5
    lowest: float | None = None
    needs_scoring = False
    of_control: ClassVar[frozenset[Statistic] | None] = frozenset(("fused",))
    after_blocks = True

    def next(self, seen: ShareInputs) -> ShareStep:
        if seen.gains_M is None:
            return ShareStep(_at_least(seen.shares_M, self.lowest))
        return ShareStep(_moved(seen.gains_M, seen.shares_M, self.rate, self.lowest), read={"share_gain": seen.gains_M})


LOSS = "loss_M"  # the name of the losses that progress compares, among what a rule keeps


def training_loss(seen: ShareInputs) -> Values:
    """The mean cross-entropy of the predictions from each modality alone on the training samples, (M,), in nats."""
    assert seen.scored is not None
    mean_M: Values = seen.scored.cross_entropy_NM.mean(axis=0)
    return mean_M


def _followed(
    seen: ShareInputs, loss_M: Values, read: Mapping[str, Values], rate: float, lowest: float | None
) -> ShareStep:
    """The step of a rule whose shares follow the drop of `loss_M` since the last assignment."""
    before_M, kept = seen.kept.get(LOSS), {LOSS: loss_M}
    if before_M is None:
        return ShareStep(_at_least(seen.shares_M, lowest), kept, read)
    drop_M = before_M - loss_M
    return ShareStep(_moved(drop_M, seen.shares_M, rate, lowest), kept, {**read, "share_gain": drop_M})


def _moved(drop_M: Values, shares_M: Values, rate: float, lowest: float | None) -> Values:
    """The next shares; see the module docstring."""
    weight_M = np.maximum(shares_M, 1e-6) * _progress(drop_M, shares_M) ** rate
    return _at_least(weight_M / weight_M.sum(), lowest)


def _progress(drop_M: Values, shares_M: Values) -> Values:
    """How much a loss fell per assigned sample."""
    return np.asarray(np.maximum(drop_M, _SMALLEST_DROP) / np.maximum(shares_M, _SMALLEST_SHARE))


def _at_least(shares_M: Values, lowest: float | None) -> Values:
    """Raise small shares to `lowest`, at most 1 / M (None: 0.4 / M); the others keep their proportions."""
    lowest = min(0.4 / len(shares_M) if lowest is None else lowest, 1 / len(shares_M))
    held_M = np.zeros(len(shares_M), np.bool_)
    while True:
        rest = 1.0 - lowest * held_M.sum()
        free_M = np.where(held_M, 0.0, shares_M)
        result_M = np.where(held_M, lowest, free_M * rest / free_M.sum() if free_M.sum() > 0 else 0.0)
        low_M = ~held_M & (result_M < lowest)
        if not low_M.any():
            return result_M
        held_M |= low_M
