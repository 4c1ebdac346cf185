"""The late-fusion model: one encoder per modality, one fused head, and one unimodal head per modality

    resnet.py, tiny.py       encoders of images: spectrograms, frames, optical flow -> one feature vector per sample
    vector.py, sequence.py   encoders of precomputed features
    fusion.py                features of all modalities -> fused logits: concat, sum, decision, film, gated
    attention.py             the same with a Transformer, whose blocks are in transformer.py
    inside.py                fusion inside the encoders: MMTM, CentralNet
    masking.py               the replacements of the features of inactive modalities
    boosted.py               a unimodal head to which further heads are added
    late_fusion.py           MultimodalModel: encode, mask, fuse, and the unimodal heads

If a batch holds only a modality's active rows, its encoder runs on those rows only. If the batch holds all rows, the
encoder runs on all of them, and the features of inactive rows are replaced afterwards, as in the released code of Data
Remixing. The fused logits are equal up to BatchNorm's batch statistics.
"""

from remix_study.models.attention import AttentionFusion
from remix_study.models.encoder import Encoder, ImageEncoder, Layout
from remix_study.models.fusion import (
    ConcatFusion,
    CosineFusion,
    DecisionFusion,
    EntropyFusion,
    FiLMFusion,
    Fusion,
    GatedFusion,
    PublishedFiLMFusion,
    PublishedGatedFusion,
    SumFusion,
)
from remix_study.models.inside import CentralNetFusion, InnerFusion, MMTMFusion
from remix_study.models.late_fusion import MultimodalModel, Outputs
from remix_study.models.masking import LearnedToken, Masking, MeanFeature, ZeroInput
from remix_study.models.resnet import ResNet18
from remix_study.models.sequence import SequenceEncoder
from remix_study.models.tiny import TinyEncoder
from remix_study.models.transformer import dropout_from
from remix_study.models.vector import VectorEncoder

__all__ = [
    "AttentionFusion",
    "CentralNetFusion",
    "ConcatFusion",
    "CosineFusion",
    "DecisionFusion",
    "Encoder",
    "EntropyFusion",
    "FiLMFusion",
    "Fusion",
    "GatedFusion",
    "ImageEncoder",
    "InnerFusion",
    "Layout",
    "LearnedToken",
    "MMTMFusion",
    "Masking",
    "MeanFeature",
    "MultimodalModel",
    "Outputs",
    "PublishedFiLMFusion",
    "PublishedGatedFusion",
    "ResNet18",
    "SequenceEncoder",
    "SumFusion",
    "TinyEncoder",
    "VectorEncoder",
    "ZeroInput",
    "dropout_from",
]
