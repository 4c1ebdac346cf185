"""The plan of MLA: each batch of joint training is trained once per modality, one after the other"""

# T steps of joint training, M modalities, B samples of one global batch

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from remix_study.epoch import PlannedEpoch, Schedule, ScoreFunction, ScoringPass
from remix_study.remix.plan import ConstantPlan


@dataclass(frozen=True)
class AlternatePlan:
    """Step M t + m trains the m-th modality alone on batch t of `joint`, whose samples train all modalities."""

    joint: ConstantPlan

    def plan(self, epoch: int, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> PlannedEpoch:
        schedule = self.joint.plan(epoch, run_scoring_pass).schedule
        M = schedule.active_TBM.shape[2]
        turn_TM = np.tile(np.eye(M, dtype=np.bool_), (schedule.steps, 1))
        active_TBM = np.repeat(schedule.active_TBM, M, axis=0) & turn_TM[:, None, :]
        return PlannedEpoch(Schedule(np.repeat(schedule.samples_TB, M, axis=0), active_TBM))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None:
        """There is no state to restore."""
