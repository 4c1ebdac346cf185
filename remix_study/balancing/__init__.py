"""Training methods as parts of a training step

slots.py    `Method`: an epoch plan and rules, and what a rule may define
losses.py   the loss rules of joint, joint_unimodal, unimodal and Remix
abstain.py  abstaining targets of the unimodal losses
uninformative.py  detectors of uninformative samples, for abstaining targets
acting.py   the steps and samples in which a rule acts, and means over the steps in which it acted
draws.py    random numbers of samples
modality_dropout.py  modality dropout
opm.py      OPM
inforeg.py  InfoReg
pdmp.py     PDMP
greedy.py   Greedy, an option of MMTM (`model.fusion.greedy`)
mla.py      the projection of MLA
ogm.py      OGM and OGM-GE, and their control
agm.py      AGM
reconboost.py ReconBoost's weights
tcmax.py    TCMax
mmpareto.py MMPareto
mmcosine.py MMCosine
lfm.py      LFM
dgl.py      DGL
pmr.py      PMR
gblend.py   Gradient-Blending
miles.py    MILES
aug.py      AUG
relearning.py  Diagnosing & Re-learning
umt.py      UMT
"""

from remix_study.balancing.acting import Window
from remix_study.balancing.agm import AGM
from remix_study.balancing.losses import FUSED, CrossEntropy, FusedLoss, UnimodalLosses, balanced_weights
from remix_study.balancing.mmpareto import MMPareto
from remix_study.balancing.ogm import OGM, OGMPlus
from remix_study.balancing.pmr import PMR
from remix_study.balancing.slots import (
    CombineRule,
    EpochRule,
    EpochStart,
    GradientRule,
    LossRule,
    Mask,
    MaskRule,
    Method,
    Step,
    StepBatch,
    StepOutputs,
    Terms,
)

__all__ = [
    "AGM", "FUSED", "OGM", "PMR", "CombineRule", "CrossEntropy", "EpochRule", "EpochStart", "FusedLoss", "GradientRule",
    "LossRule", "MMPareto", "Mask", "MaskRule", "Method", "OGMPlus", "Step", "StepBatch", "StepOutputs", "Terms",
    "UnimodalLosses", "Window", "balanced_weights",
]  # fmt: skip
