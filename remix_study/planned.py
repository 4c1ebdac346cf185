"""Build the plan of Remix from its configuration, and all that a schedule of a run decides

`assemble.py` builds everything else of a run.
"""

# N training samples, M modalities

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray

from remix_study.balancing import CrossEntropy, Method, UnimodalLosses
from remix_study.balancing.cross_fit import CrossFit, halves_of
from remix_study.balancing.losses import Weights, WeightsAt
from remix_study.config import assignment as a
from remix_study.config.method import JointUnimodalConfig, RemixConfig, expanded
from remix_study.config.phases import PhaseConfig, SMPConfig, spans
from remix_study.config.run import RunConfig
from remix_study.config.schedule import (
    EachNotNegative,
    Schedule,
    position_of,
    schedules_in,
    value_at,
)
from remix_study.remix import (
    Argmin,
    ArgminShare,
    Assignment,
    Band,
    BlockGainShare,
    ByCost,
    CalibratedProgressShare,
    Cartography,
    CoalitionGain,
    ConstantPlan,
    Filter,
    FixedShare,
    HeldOutProgressShare,
    Inverted,
    LearningProgress,
    Margin,
    MaxShare,
    Permuted,
    ProgressShare,
    Quantile,
    Random,
    Reassembly,
    ReducibleLoss,
    RemixPlan,
    RemixSettings,
    Tempered,
)
from remix_study.remix.course import Course
from remix_study.remix.rotation import Rotation
from remix_study.remix.rules import CostRule
from remix_study.remix.share import ShareRule


def remix_plan(
    method: RemixConfig,
    modalities: tuple[str, ...],
    labels_N: NDArray[np.int64],
    classes: int,
    how: Reassembly,
    seed: int,
    epochs: int,
    course: Course | None = None,
    reference: Callable[[], NDArray[np.float32]] | None = None,
) -> RemixPlan:
    """Return the plan of a run that trains with Remix.

    Args:
        modalities: names of the M columns.
        labels_N: class of each training sample, in 0..classes-1.
        how: how batches are formed.
        seed: of the run.
        epochs: of the run.
        course: of the run that the filter rule replays, if it replays one.
        reference: returns the losses (N, M) of models that were not trained on the samples, for a rule that needs them.
    """
    filter_at = partial(_filter, labels_N, reference)
    settings = RemixSettings(
        warmup=method.warmup,
        score=method.score,
        filter=filter_at(method.filter, 0.0),
        how=how,
        share=_share(method.share, modalities, 0.0),
        joint_share=value_at(method.joint_share, 0.0),
        rescore_every=method.rescore_every,
        course=_course(method, course),
    )
    timetable = ConfiguredTimetable(method, modalities, epochs, settings, filter_at) if _changes(method) else None
    return RemixPlan(settings, modalities, labels_N, classes, seed, timetable)


# --- over epochs -----------------------------------------------------------------------------------------------------


def _changes(method: RemixConfig) -> bool:
    """Whether the assignment of samples depends on the epoch."""
    paths = [path for path, _ in schedules_in(method)]
    return method.phases is not None or any(path.startswith(("filter.", "share.", "joint_share")) for path in paths)


class _Now(NamedTuple):
    """The configuration of Remix in one epoch.

    Attributes:
        method: with the keys of the phase.
        phase: the phase, or one that changes nothing.
        number: of the phase, from 1; 0 if there are none, and in the warm-up.
        within: position of the epoch in the phase, for schedules that the phase sets (`config/schedule.py`).
        overall: position among all epochs after the warm-up, for all others.
    """

    method: RemixConfig
    phase: PhaseConfig
    number: int
    within: float
    overall: float

    def position(self, key: str) -> float:
        """The position for the schedules of `method.<key>`."""
        return self.overall if getattr(self.phase, key) is None else self.within


def _now(method: RemixConfig, epoch: int, epochs: int, order: tuple[str, ...]) -> _Now:
    """The configuration in an epoch; in the warm-up, schedules have their first value."""
    overall = position_of(epoch, method.warmup, epochs)
    if epoch < method.warmup or method.phases is None:
        return _Now(method, PhaseConfig(), 0, overall, overall)
    for number, (phase, first, end) in enumerate(spans(phases_of(method, order), method.warmup, epochs), 1):
        if epoch < end:
            own = {key: value for key in _OF_A_PHASE if (value := getattr(phase, key)) is not None}
            return _Now(method.model_copy(update=own), phase, number, position_of(epoch, first, end), overall)
    raise ValueError(f"epoch {epoch} must be below {epochs}")


_OF_A_PHASE = tuple(key for key in PhaseConfig.model_fields if key in RemixConfig.model_fields)


def phases_of(method: RemixConfig, order: tuple[str, ...]) -> tuple[PhaseConfig, ...]:
    """The phases, given the modalities, weakest first."""
    match method.phases:
        case None:
            return ()
        case SMPConfig() as smp:
            return smp.phases(order)
        case phases:
            return phases


@dataclass(frozen=True)
class ConfiguredTimetable:
    """The settings of Remix over the epochs after the warm-up, from its configuration (`remix.plan.Timetable`).

    Args:
        modalities: names of the M columns.
        epochs: of the run.
        settings: those that do not change.
        filter_at: returns a filter with the values of its schedules at a position.
    """

    method: RemixConfig
    modalities: tuple[str, ...]
    epochs: int
    settings: RemixSettings
    filter_at: Callable[[a.FilterConfig, float], Filter]

    @property
    def ranks(self) -> bool:
        return isinstance(self.method.phases, SMPConfig) and self.method.phases.order is None

    def at(self, epoch: int, order: tuple[str, ...]) -> RemixSettings:
        now = self._now(epoch, order)
        joint, only = now.phase.joint, now.phase.only
        one = joint or (only is not None and len(only) == 1)  # nothing is left to decide
        return replace(
            self.settings,
            filter=self.filter_at(now.method.filter, now.position("filter")),
            share=None if one else _share(now.method.share, self._training(only), now.position("share")),
            joint_share=value_at(now.method.joint_share, now.position("joint_share")) if only is None else 0.0,
            joint=joint,
            only=only,
        )

    def begins(self, epoch: int) -> bool:
        # Where the phases of a preset begin does not depend on the order of the modalities.
        phases = phases_of(self.method, self.modalities)
        return any(first == epoch < end for _, first, end in spans(phases, self.method.warmup, self.epochs))

    def planned(self, epoch: int, order: tuple[str, ...]) -> dict[str, float]:
        now, settings = self._now(epoch, order), self.at(epoch, order)
        if settings.course is not None:  # the shares are those of another run
            return {"schedule/phase": float(now.number)}
        one = settings.joint or (settings.only is not None and len(settings.only) == 1)
        found = {} if one else {
            f"schedule/filter/{path.replace('.', '/')}": value_at(schedule, now.position("filter"))
            for path, schedule in schedules_in(now.method.filter)
        }  # fmt: skip
        if now.number or isinstance(now.method.joint_share, Schedule):
            found["schedule/joint_share"] = 1.0 if settings.joint else settings.joint_share
        share = now.method.share
        if one:
            alone = settings.only or ()
            found |= {f"schedule/share/{m}": float(m in alone) for m in self.modalities}
        elif isinstance(share, a.FixedShareConfig) and (now.number or any(schedules_in(share))):
            training = self._training(settings.only)
            parts = dict(zip(training, _parts(share, training, now.position("share")), strict=True))
            apart = 1 - settings.joint_share  # the fraction of the samples that are not joint
            found |= {f"schedule/share/{m}": apart * parts.get(m, 0.0) for m in self.modalities}
        if now.number:
            found["schedule/phase"] = float(now.number)
        return found | {f"schedule/order/{m}": float(place) for place, m in enumerate(order, 1)}

    def _training(self, only: tuple[str, ...] | None) -> tuple[str, ...]:
        return self.modalities if only is None else tuple(m for m in self.modalities if m in only)

    def _now(self, epoch: int, order: tuple[str, ...]) -> _Now:
        given = self.method.phases.order if isinstance(self.method.phases, SMPConfig) else None
        return _now(self.method, epoch, self.epochs, given or order or self.modalities)


def loss_weights(method: JointUnimodalConfig | RemixConfig, epochs: int) -> tuple[WeightsAt, WeightsAt]:
    """The weights of unimodal losses of samples that train several modalities, and of those that train one."""
    if isinstance(method, JointUnimodalConfig):
        return (both := _weights_at(method, "weight", epochs)), both
    return _weights_at(method, "warmup_weight", epochs), _weights_at(method, "weight", epochs)


def _weights_at(method: JointUnimodalConfig | RemixConfig, key: str, epochs: int) -> WeightsAt:
    def at(epoch: int) -> Weights:
        if isinstance(method, JointUnimodalConfig):
            return _each_at(method.weight, position_of(epoch, 0, epochs))
        now = _now(method, epoch, epochs, _ANY_ORDER)
        return _each_at(getattr(now.method, key), now.position(key))

    return at if _varies(method, key) else at(0)


_ANY_ORDER = ("any",)  # no preset sets weights


def _varies(method: JointUnimodalConfig | RemixConfig, key: str) -> bool:
    """Whether a schedule or a phase changes the weight `key`."""
    phases = method.phases if isinstance(method, RemixConfig) and isinstance(method.phases, tuple) else ()
    own = any(path == key or path.startswith(f"{key}.") for path, _ in schedules_in(method))
    return own or any(getattr(phase, key) is not None for phase in phases)


def _each_at(values: EachNotNegative, position: float) -> Weights:
    if isinstance(values, dict):
        return {m: value_at(value, position) for m, value in values.items()}
    return value_at(values, position)


def rate_factors(config: RunConfig) -> WeightsAt:
    """`learning_rate_factor`: of all parameters, or modality -> that of its encoder; a function if it changes."""
    factor, first = config.learning_rate_factor, first_epoch(config)
    if any(path.startswith("learning_rate_factor") for path, _ in schedules_in(config)):
        return lambda epoch: _each_at(factor, position_of(epoch, first, config.epochs))
    return _each_at(factor, 0.0)


def abstaining_weight(config: RunConfig) -> float | Callable[[int], float]:
    """`targets.weight`; a function of the epoch if it changes."""
    weight, first = 0.0 if config.targets is None else config.targets.weight, first_epoch(config)
    if isinstance(weight, Schedule):
        return lambda epoch: value_at(weight, position_of(epoch, first, config.epochs))
    return weight


def first_epoch(config: RunConfig) -> int:
    """The first epoch after the warm-up, in which schedules begin."""
    return config.method.warmup if isinstance(config.method, RemixConfig) else 0


def scheduled(config: RunConfig) -> Callable[[int], dict[str, float]]:
    """The values of schedules that no plan follows, as metrics of an epoch: loss weights and learning rates."""
    method = expanded(config.method)
    followed: dict[str, WeightsAt] = {
        "learning_rate_factor": rate_factors(config),
        "targets/weight": abstaining_weight(config),
    }
    if isinstance(method, JointUnimodalConfig | RemixConfig):
        together, alone = loss_weights(method, config.epochs)
        followed |= (
            {"warmup_weight": together, "weight": alone} if isinstance(method, RemixConfig) else {"weight": alone}
        )

    def at(epoch: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for key, values in followed.items():
            if callable(values):
                now = values(epoch)
                each = {f"/{m}": value for m, value in now.items()} if isinstance(now, Mapping) else {"": now}
                found |= {f"schedule/{key}{m}": float(value) for m, value in each.items()}
        return found

    return at


# --- parts -----------------------------------------------------------------------------------------------------------


def trains_jointly(method: RemixConfig) -> bool:
    """Whether samples may train several modalities after the warm-up."""
    if isinstance(method.phases, SMPConfig):
        return True
    phases = method.phases or (PhaseConfig(),)
    return any(leaves_joint(method, phase) for phase in phases)


def leaves_joint(method: RemixConfig, phase: PhaseConfig) -> bool:
    """Whether samples may train several modalities in a phase."""
    if phase.joint or phase.only is not None:
        return phase.joint
    rule = phase.filter or method.filter
    match rule:
        case a.MarginConfig(close="joint") | a.QuantileConfig(otherwise="joint") | a.BandConfig(otherwise="joint"):
            return True
        case a.ReplayConfig():
            return True  # if those of the other run may
        case _:
            joint_share = method.joint_share if phase.joint_share is None else phase.joint_share
            return isinstance(joint_share, Schedule) or joint_share > 0


def _course(method: RemixConfig, course: Course | None) -> Course | None:
    if not isinstance(method.filter, a.ReplayConfig):
        return None
    assert course is not None, "`require_needed` has checked the run whose course is replayed"
    return course.at_mean(method.warmup) if method.filter.rule == "random_at_mean_share_of" else course


def cross_fit(
    method: RemixConfig,
    modalities: tuple[str, ...],
    labels_N: NDArray[np.int64],
    how: Reassembly,
    seed: int,
    cross_entropy: CrossEntropy,
    *,
    apart: bool,
) -> CrossFit | None:
    """Return what finds the losses that the filter rule compares with; None if it compares with none.

    Args:
        cross_entropy: of the training losses.
        apart: whether the modalities need batches of their own, because the fusion mixes them inside the encoders.
    """
    if not isinstance(method.filter, a.ReducibleLossConfig):
        return None
    N, M = len(labels_N), len(modalities)
    how = replace(how, order="shuffled", accumulate=False, incomplete="keep")
    half_N = halves_of(labels_N, seed)
    halves = []
    for half in range(2):
        mine_N = half_N == half
        alone = Assignment(mine_N[:, None] & np.full((N, M), apart), mine_N & (not apart))
        trained = Method(f"half {half}", ConstantPlan(alone, how, seed), (UnimodalLosses(1.0, 1.0, cross_entropy),))
        halves.append((trained, np.flatnonzero(~mine_N)))
    return CrossFit(modalities, N, halves, method.filter.reference_epochs)


def _filter(
    labels_N: NDArray[np.int64],
    reference: Callable[[], NDArray[np.float32]] | None,
    config: a.FilterConfig,
    position: float,
) -> Filter:
    """The rule, with the values of its schedules at a position in [0, 1]."""
    at = partial(value_at, position=position)
    match config:
        case a.ArgminConfig():
            return Argmin()
        case a.InvertedConfig():
            return Inverted()
        case a.RandomConfig(within=within):
            return Random(labels_N if within == "class" else None)
        case a.ReplayConfig():
            return Random()
        case a.PermutedConfig(within=within):
            return Permuted(labels_N if within == "class" else None)
        case a.RotationConfig():
            return Rotation()
        case a.TemperedConfig(temperature=temperature):
            return Tempered(at(temperature))
        case a.MarginConfig(threshold=threshold, close=close):
            return Margin(at(threshold), close)
        case a.QuantileConfig(fraction=fraction, otherwise=otherwise):
            return Quantile(at(fraction), otherwise)
        case a.MaxShareConfig(share=share):
            return MaxShare(at(share))
        case a.BandConfig(lower=lower, upper=upper, otherwise=otherwise):
            return Band(at(lower), at(upper), otherwise)
        case a.CostConfig(within=within, explore=explore):
            return ByCost(_cost_rule(config, reference, position), at(explore), labels_N if within == "class" else None)
        case unreachable:
            assert_never(unreachable)


def _cost_rule(
    config: a.CostRuleConfig, reference: Callable[[], NDArray[np.float32]] | None, position: float
) -> CostRule:
    at = partial(value_at, position=position)
    match config:
        case a.LearningProgressConfig(passes=passes, decay=decay):
            return LearningProgress(passes, decay)
        case a.CartographyConfig(passes=passes, penalty=penalty, still=still):
            return Cartography(passes, at(penalty), at(still))
        case a.CoalitionGainConfig(tau=tau):
            return CoalitionGain(at(tau))
        case a.ReducibleLossConfig():
            if reference is None:
                raise ValueError("`reducible_loss` needs the losses of models that were not trained on the samples")
            return ReducibleLoss(reference)
        case unreachable:
            assert_never(unreachable)


def _parts(config: a.FixedShareConfig, modalities: tuple[str, ...], position: float) -> tuple[float, ...]:
    """The parts of `modalities`, if only these train; they sum to 1."""
    parts = config.at(position)
    values = tuple(parts.get(m, 0.0) for m in modalities)
    return values if len(modalities) == len(parts) else tuple(value / sum(values) for value in values)


def _share(config: a.ShareConfig | None, modalities: tuple[str, ...], position: float) -> ShareRule | None:
    """The share rule of `modalities`, which are those that train."""
    match config:
        case None:
            return None
        case a.FixedShareConfig():
            return FixedShare(_parts(config, modalities, position))
        case a.ProgressShareConfig(rate=rate, lowest=lowest):
            return ProgressShare(rate, lowest)
        case a.CalibratedProgressShareConfig(rate=rate, calibration=calibration, lowest=least):
            return CalibratedProgressShare(rate, calibration, least)
        case a.HeldOutProgressShareConfig(rate=rate, lowest=least):
            return HeldOutProgressShare(rate, least)
        case a.ArgminShareConfig():
            return ArgminShare()
        case a.BlockGainShareConfig(rate=rate, lowest=least):
            return BlockGainShare(rate, least)
        case unreachable:
            assert_never(unreachable)
