"""Data Remixing (Ma, Chen, Deng; ICML 2025), arXiv 2506.11550

Once per epoch, after a warm-up in which every sample trains all modalities:
    separability   how much does each modality alone know about this sample?
    filtering      which samples are worth training through which modality now?
    assignment     which modality does this sample train?
    reassembling   batches of one modality each, the same on every rank
Inference is unchanged. Released choices: KL from uniform, argmin, blocks (video first), every epoch; each is one value
of a setting here, beside its controls.

In a training loop of your own:
    plan = RemixPlan(settings, modalities, labels_N, classes, seed)
    for epoch in range(epochs):
        planned = plan.plan(epoch, run_scoring_pass)       # which evaluates the training samples
        for batch in rank_batches(planned.schedule, World(rank, size)):
            ...                                            # encode only what batch.active_bM says
"""

import warnings
from typing import Any

from remix_study.epoch import PlannedEpoch, Schedule, ScoringPass
from remix_study.remix.assignment import Assignment, everything_joint
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
from remix_study.remix.sampler import RankBatch, rank_batches
from remix_study.remix.schedule import Reassembly, reassemble
from remix_study.remix.separability import kl_from_uniform, score, score_range
from remix_study.remix.share import FixedShare, ProgressShare
from remix_study.world import World

__all__ = [
    "Argmin", "Assignment", "Band", "ConstantPlan", "Filter", "FixedShare", "Inverted", "Margin", "MaxShare",
    "Permuted", "PlannedEpoch", "ProgressShare", "Quantile", "Random", "RankBatch", "Reassembly", "RemixPlan",
    "RemixSettings", "Schedule", "ScoringPass", "Tempered", "World", "everything_joint", "kl_from_uniform",
    "rank_batches", "reassemble", "score", "score_range",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`Look`, the name of `ScoringPass` in 0.1; removed in 0.3."""
    if name == "Look":
        warnings.warn("`remix_study.remix.Look` is now `ScoringPass`", DeprecationWarning, stacklevel=2)
        return ScoringPass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
