"""Training methods as parts of a training step

slots.py    `Method`: an epoch plan, loss rules and gradient rules
losses.py   the loss rules of joint, joint_unimodal, unimodal and Remix
acting.py   the epochs in which a rule acts, and means over the steps in which it acted
ogm.py      OGM and OGM-GE, and their control
agm.py      AGM
"""

from remix_study.balancing.acting import Window
from remix_study.balancing.agm import AGM
from remix_study.balancing.losses import FUSED, CrossEntropy, FusedLoss, UnimodalLosses, balanced_weights
from remix_study.balancing.ogm import OGM, OGMPlus
from remix_study.balancing.slots import GradientRule, LossRule, Method, Step, StepOutputs

__all__ = [
    "AGM", "FUSED", "OGM", "CrossEntropy", "FusedLoss", "GradientRule", "LossRule", "Method", "OGMPlus", "Step",
    "StepOutputs", "UnimodalLosses", "Window", "balanced_weights",
]  # fmt: skip
