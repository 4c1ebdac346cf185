"""An encoder of sequences of vectors, such as word embeddings, face-tracker frames or windows of speech

A linear projection with sinusoidal positions, then blocks of a pre-LayerNorm Transformer encoder (Vaswani et al.;
NeurIPS 2017, arXiv 1706.03762), then the mean over time. There is no dropout and no BatchNorm, so rows do not depend on
each other and training is reproducible.

A step whose D values are all zero is masked out. The reader fills missing steps with the mean of the training split,
which normalisation maps to zero. The length of the padding therefore does not change the features.
"""

# B samples, T steps of D values, W the encoder's width

import math
from typing import ClassVar

import torch
from torch import nn

from remix_study.models.encoder import Encoder, Layout
from remix_study.models.transformer import Block


class SequenceEncoder(Encoder):
    """(B, T, in_features) -> (B, width), for any T.

    Args:
        in_features: D.
        width: the size of a step inside the encoder and of its output; a multiple of 4, the number of attention heads.
        layers: the number of Transformer blocks.
    """

    takes: ClassVar[tuple[Layout, ...]] = ("sequence",)

    def __init__(self, in_features: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = width
        self.projection = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, in_features) -> (B, width); exactly zero for a row whose steps are all missing.

        Raises:
            ValueError: the input has another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.in_features:
            raise ValueError(
                f"the input must be (B, T, {self.in_features}), but is {tuple(x.shape)}. "
                "Move time to dimension 1, or build the encoder with the right `in_features`."
            )
        present_BT = (x != 0).any(dim=2)
        steps_BTW = self.projection(x) + _positions(x.shape[1], self.out_features, x.device)
        # A row without any step attends to its first one, since a softmax over nothing is NaN.
        first_T = torch.arange(x.shape[1], device=x.device) == 0
        attended_BT = present_BT | (first_T & ~present_BT.any(dim=1, keepdim=True))
        for block in self.blocks:
            steps_BTW = block(steps_BTW, attended_BT)
        weights_BT1 = present_BT[..., None].to(steps_BTW.dtype)
        total_BW = (self.norm(steps_BTW) * weights_BT1).sum(dim=1)
        features_BW: torch.Tensor = total_BW / weights_BT1.sum(dim=1).clamp(min=1)
        return features_BW


def _positions(steps: int, width: int, device: torch.device) -> torch.Tensor:
    """(T, W): sines in the first half, cosines in the second, wavelengths from 2 pi to 20000 pi steps."""
    rates = torch.exp(torch.arange(width // 2, device=device) * (-2 * math.log(10000.0) / width))
    angles = torch.arange(steps, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
