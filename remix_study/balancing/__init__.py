"""Training methods as parts of a training step

slots.py    `Method`: an epoch plan and loss rules
losses.py   the loss rules of joint, joint_unimodal, unimodal and Remix
"""

from remix_study.balancing.losses import FUSED, CrossEntropy, FusedLoss, UnimodalLosses, balanced_weights
from remix_study.balancing.slots import LossRule, Method, StepOutputs

__all__ = [
    "FUSED", "CrossEntropy", "FusedLoss", "LossRule", "Method", "StepOutputs", "UnimodalLosses", "balanced_weights",
]  # fmt: skip
