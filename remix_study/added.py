"""Build the rules of added methods from their options

To add a method, write its options in `config/balancing.py`, its rule in `remix_study/balancing`, and its case here.
"""

# N training samples, M modalities

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from torch import nn

from remix_study.balancing import (
    AGM,
    FUSED,
    OGM,
    PMR,
    CrossEntropy,
    FusedLoss,
    Method,
    MMPareto,
    OGMPlus,
    UnimodalLosses,
    Window,
)
from remix_study.balancing.abstain import Abstain
from remix_study.balancing.aug import AUG
from remix_study.balancing.dgl import DGL
from remix_study.balancing.draws import SampleDraws
from remix_study.balancing.gblend import GBlend, GBlendLite
from remix_study.balancing.inforeg import InfoReg
from remix_study.balancing.lfm import LFM
from remix_study.balancing.miles import MILES
from remix_study.balancing.mla import MLA
from remix_study.balancing.mmcosine import MMCosine
from remix_study.balancing.modality_dropout import ModalityDropout
from remix_study.balancing.opm import OPM
from remix_study.balancing.pdmp import PDMP
from remix_study.balancing.reconboost import ReconBoost
from remix_study.balancing.relearning import Relearning
from remix_study.balancing.slots import Model
from remix_study.balancing.tcmax import TCMax
from remix_study.balancing.umt import UMT
from remix_study.config import balancing as b
from remix_study.epoch import EpochPlan
from remix_study.remix import AlternatePlan, ConstantPlan, ValuationPlan


@dataclass(frozen=True)
class Facts:
    """What the rules of added methods know of a run.

    Attributes:
        modalities: in the order of the model.
        seed: of the run.
        epochs: of the run.
        rows_N: row numbers of the training samples in the clip store.
        labels_N: their classes.
        classes: number of classes.
        cross_entropy: of the training losses.
        initial: builds a model with the initial weights, on the CPU.
        plan_of: returns a plan in which every sample trains all modalities, or the given one.
        heads: whether the unimodal heads are trained.
        unimodal_from: the first epoch that may have unimodal batches; None: there are none.
        teachers: modality -> frozen encoder, for a method that learns from teachers.
        autocast: whether encoders compute in bfloat16.
        targets: decides which samples abstain in their unimodal losses; None: none does.
    """

    modalities: tuple[str, ...]
    seed: int
    epochs: int
    rows_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    classes: int
    cross_entropy: CrossEntropy
    initial: Callable[[], Model]
    plan_of: Callable[[tuple[str, ...]], EpochPlan]
    heads: bool = True
    unimodal_from: int | None = None
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    autocast: bool = False
    targets: Abstain | None = None


def rules_of(added: b.Additions, facts: Facts) -> tuple[object, ...]:
    """The rules of added methods (`remix_study.balancing.slots`), in the order in which they act."""
    rules = (_rule(getattr(added, name), facts) for name in added.names())
    return tuple(rule for rule in rules if rule is not None)


def plan_of(added: b.Additions, joint: ConstantPlan, facts: Facts) -> EpochPlan:
    """The plan of the added method that has one, or that of joint training."""
    if added.mla is not None:
        return AlternatePlan(joint)
    if added.smv is not None:
        smv = added.smv
        samples = len(facts.labels_N)
        return ValuationPlan(
            smv.level, smv.strength, smv.begin, smv.end, facts.modalities, samples, joint.how, facts.seed
        )  # fmt: skip
    return joint


def _rule(options: b.AnyOptions, facts: Facts) -> object | None:
    """The rule of an added method; None if it has a plan only."""
    modalities = facts.modalities
    match options:
        case b.UMTOptions(weight=weight):
            if set(facts.teachers) != set(modalities):
                raise ValueError(f"there must be a teacher of each of {modalities}, but there are {[*facts.teachers]}")
            return UMT(facts.teachers, weight, window=_window(options), autocast=facts.autocast)
        case b.ModalityDropoutOptions(probability=probability):
            draws = _draws("modality_dropout", facts)
            return ModalityDropout(modalities, probability, window=_window(options), draws=draws)
        case b.OPMOptions(base=base, strength=strength, execute=execute):
            return OPM(modalities, base, strength, execute, window=_window(options), seed=facts.seed,
                       draws=_draws("opm", facts))  # fmt: skip
        case b.PDMPOptions(dominant=dominant, boost=boost, others=others):
            return PDMP(modalities, dominant, boost, others, window=_window(options), heads=facts.heads)
        case b.InfoRegOptions(strength=strength, threshold=threshold):
            return InfoReg(
                modalities, strength, threshold, window=_window(options), unimodal_from=facts.unimodal_from
            )  # fmt: skip
        case b.SMVOptions():
            return None
        case b.ReconBoostOptions(base=base, strength=strength):
            return ReconBoost(modalities, base, strength, window=_window(options))
        case b.TCMaxOptions():
            return TCMax(modalities, facts.classes, facts.cross_entropy, window=_window(options))
        case b.MLAOptions(project_from=project_from):
            return MLA(modalities, project_from, window=_window(options))
        case b.MMParetoOptions(gain=gain):
            return MMPareto(modalities, gain, window=_window(options))
        case b.PMROptions(weight=weight, momentum=momentum, coefficient=how):
            return PMR(
                modalities, facts.classes, weight, momentum, how, window=_window(options),
                cross_entropy=facts.cross_entropy,
            )  # fmt: skip
        case b.GBlendLiteOptions(every=every, least=least):
            return GBlendLite(modalities, every, least, window=_window(options))
        case b.RelearningOptions(every=every, times=times, strength=strength):
            return Relearning(
                modalities, facts.classes, every, times, strength, window=_window(options), seed=facts.seed,
                initial=facts.initial,
            )  # fmt: skip
        case b.GBlendOptions(every=every, least=least):
            losses = UnimodalLosses(1.0, 1.0, facts.cross_entropy, facts.targets)
            alone = {m: Method(m, facts.plan_of((m,)), (losses,)) for m in modalities}
            alone[FUSED] = Method(FUSED, facts.plan_of(modalities), (FusedLoss(facts.cross_entropy),))
            return GBlend(modalities, every, least, alone, window=_window(options))
        case b.AUGOptions(every=every, threshold=threshold, weight=weight, residual=residual, fused_weight=fused):
            return AUG(
                modalities, every, threshold, weight, residual, fused, window=_window(options),
                cross_entropy=facts.cross_entropy, targets=facts.targets,
            )  # fmt: skip
        case b.MILESOptions(threshold=threshold, factor=factor):
            return MILES(modalities, threshold, factor, window=_window(options))
        case b.OGMOptions(alpha=alpha):
            return OGM(modalities, alpha, noise=False, window=_window(options), seed=facts.seed)
        case b.OGMGEOptions(alpha=alpha):
            return OGM(modalities, alpha, noise=True, window=_window(options), seed=facts.seed)
        case b.OGMPlusOptions(factor=factor):
            return OGMPlus(modalities, factor, window=_window(options))
        case b.LFMOptions():
            return LFM(modalities, facts.epochs, window=_window(options))
        case b.MMCosineOptions(scale=scale):
            return MMCosine(modalities, scale)
        case b.AGMOptions(alpha=alpha):
            return AGM(modalities, alpha, window=_window(options))
        case b.DGLOptions(alpha=alpha):
            return DGL(modalities, alpha, facts.cross_entropy, window=_window(options), targets=facts.targets)
        case unreachable:
            assert_never(unreachable)


def _draws(name: str, facts: Facts) -> SampleDraws:
    return SampleDraws(facts.seed, name, int(facts.rows_N.max()) + 1, len(facts.modalities))


def _window(options: b.Windowed) -> Window:
    return Window(options.begin, options.end)
