"""Build the plan of Remix from its configuration

`assemble.py` builds everything else of a run.
"""

# N training samples, M modalities

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from remix_study.balancing import CrossEntropy, Method, UnimodalLosses
from remix_study.balancing.cross_fit import CrossFit, halves_of
from remix_study.config import assignment as a
from remix_study.config.run import RemixConfig
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
    course: Course | None = None,
    reference: Callable[[], NDArray[np.float32]] | None = None,
) -> RemixPlan:
    """Return the plan of a run that trains with Remix.

    Args:
        modalities: names of the M columns.
        labels_N: class of each training sample, in 0..classes-1.
        how: how batches are formed.
        seed: of the run.
        course: of the run that the filter rule replays, if it replays one.
        reference: returns the losses (N, M) of models that were not trained on the samples, for a rule that needs them.
    """
    settings = RemixSettings(
        warmup=method.warmup,
        score=method.score,
        filter=_filter(method.filter, labels_N, reference),
        how=how,
        share=_share(method.share, modalities),
        joint_share=method.joint_share,
        rescore_every=method.rescore_every,
        course=_course(method, course),
    )
    return RemixPlan(settings, modalities, labels_N, classes, seed)


def trains_jointly(method: RemixConfig) -> bool:
    """Whether samples may train several modalities after the warm-up."""
    match method.filter:
        case a.MarginConfig(close="joint") | a.QuantileConfig(otherwise="joint") | a.BandConfig(otherwise="joint"):
            return True
        case a.ReplayConfig():
            return True  # if those of the other run may
        case _:
            return method.joint_share > 0


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
    config: a.FilterConfig, labels_N: NDArray[np.int64], reference: Callable[[], NDArray[np.float32]] | None
) -> Filter:
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
            return Tempered(temperature)
        case a.MarginConfig(threshold=threshold, close=close):
            return Margin(threshold, close)
        case a.QuantileConfig(fraction=fraction, otherwise=otherwise):
            return Quantile(fraction, otherwise)
        case a.MaxShareConfig(share=share):
            return MaxShare(share)
        case a.BandConfig(lower=lower, upper=upper, otherwise=otherwise):
            return Band(lower, upper, otherwise)
        case a.CostConfig(within=within, explore=explore):
            return ByCost(_cost_rule(config, reference), explore, labels_N if within == "class" else None)
        case unreachable:
            assert_never(unreachable)


def _cost_rule(config: a.CostRuleConfig, reference: Callable[[], NDArray[np.float32]] | None) -> CostRule:
    match config:
        case a.LearningProgressConfig(passes=passes, decay=decay):
            return LearningProgress(passes, decay)
        case a.CartographyConfig(passes=passes, penalty=penalty, still=still):
            return Cartography(passes, penalty, still)
        case a.CoalitionGainConfig(tau=tau):
            return CoalitionGain(tau)
        case a.ReducibleLossConfig():
            if reference is None:
                raise ValueError("`reducible_loss` needs the losses of models that were not trained on the samples")
            return ReducibleLoss(reference)
        case unreachable:
            assert_never(unreachable)


def _share(config: a.ShareConfig | None, modalities: tuple[str, ...]) -> ShareRule | None:
    match config:
        case None:
            return None
        case a.FixedShareConfig(parts=parts):
            return FixedShare(tuple(parts.get(m, 0.0) for m in modalities))
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
