"""The late-fusion model: one encoder per modality, one fused head, and one head per modality alone

    resnet.py, tiny.py       encoders of pictures: spectrograms, frames, optical flow -> one feature vector per sample
    vector.py, sequence.py   encoders of ready features
    fusion.py                features of all modalities -> fused logits: concat, sum, decision, film, gated
    late_fusion.py           MultimodalModel: encode, mask, fuse, and the unimodal heads beside it

Two ways of leaving a modality out meet here. Given only a modality's active rows, the model does not run its encoder on
the others; given all rows, it runs the encoder on all of them and then zeroes the features of the inactive ones, as the
released code of Data Remixing does. The fused logits are the same up to BatchNorm's batch statistics.
"""

from remix_study.models.encoder import Encoder
from remix_study.models.fusion import (
    ConcatFusion,
    DecisionFusion,
    FiLMFusion,
    Fusion,
    GatedFusion,
    SumFusion,
)
from remix_study.models.late_fusion import MultimodalModel, Outputs
from remix_study.models.resnet import ResNet18
from remix_study.models.sequence import SequenceEncoder
from remix_study.models.tiny import TinyEncoder
from remix_study.models.vector import VectorEncoder

__all__ = [
    "ConcatFusion",
    "DecisionFusion",
    "Encoder",
    "FiLMFusion",
    "Fusion",
    "GatedFusion",
    "MultimodalModel",
    "Outputs",
    "ResNet18",
    "SequenceEncoder",
    "SumFusion",
    "TinyEncoder",
    "VectorEncoder",
]
