"""Data Remixing (Ma, Chen, Deng; ICML 2025), arXiv 2506.11550

After a warm-up in which every sample trains all modalities, every epoch has four steps:
    separability   score how certain each modality alone is of each sample
    filtering      select the samples that are worth training through each modality
    assignment     assign each sample to a modality
    reassembling   form batches of one modality each, identical on every rank
Inference does not change. The released code uses KL from uniform, argmin, blocks (video first), in every epoch. Each of
these choices is a setting here, next to its alternatives and controls.

Use in your own training loop:
    plan = RemixPlan(settings, modalities, labels_N, classes, seed)
    for epoch in range(epochs):
        planned = plan.plan(epoch, run_scoring_pass)       # evaluates all training samples
        for batch in rank_batches(planned.schedule, World(rank, size)):
            ...                                            # encode the modalities in batch.active_bM only
"""

import warnings
from typing import Any

from remix_study.epoch import PlannedEpoch, Schedule, ScoringPass
from remix_study.remix.alternate import AlternatePlan
from remix_study.remix.assignment import Assignment, everything_joint
from remix_study.remix.course import Course, read_course
from remix_study.remix.filtering import (
    Argmin,
    Band,
    Filter,
    Inverted,
    Margin,
    MaxShare,
    Permuted,
    Quantile,
    Random,
    Tempered,
)
from remix_study.remix.plan import ConstantPlan, RemixPlan, RemixSettings
from remix_study.remix.rotation import Rotation
from remix_study.remix.rules import ByCost, Cartography, CoalitionGain, History, LearningProgress, ReducibleLoss
from remix_study.remix.sampler import RankBatch, rank_batches
from remix_study.remix.schedule import Reassembly, reassemble
from remix_study.remix.separability import kl_from_uniform, score, score_range
from remix_study.remix.share import (
    ArgminShare,
    BlockGainShare,
    CalibratedProgressShare,
    FixedShare,
    HeldOutProgressShare,
    ProgressShare,
    ShareInputs,
    ShareRule,
    ShareStep,
)
from remix_study.remix.valuation import ValuationPlan
from remix_study.world import World

__all__ = [
    "AlternatePlan", "Argmin", "ArgminShare", "Assignment", "Band", "BlockGainShare", "ByCost",
    "CalibratedProgressShare", "Cartography", "CoalitionGain", "ConstantPlan", "Course", "Filter", "FixedShare",
    "HeldOutProgressShare", "History", "Inverted", "LearningProgress", "Margin", "MaxShare", "Permuted", "PlannedEpoch",
    "ProgressShare", "Quantile", "Random", "RankBatch", "Reassembly", "ReducibleLoss", "RemixPlan", "RemixSettings",
    "Rotation", "Schedule", "ScoringPass", "ShareInputs", "ShareRule", "ShareStep", "Tempered", "ValuationPlan",
    "World", "everything_joint", "kl_from_uniform", "rank_batches", "read_course", "reassemble", "score", "score_range",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`Look`, the name of `ScoringPass` in 0.1; removed in 0.3."""
    if name == "Look":
        warnings.warn("`remix_study.remix.Look` is now `ScoringPass`", DeprecationWarning, stacklevel=2)
        return ScoringPass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
