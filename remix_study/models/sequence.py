"""An encoder of sequences of vectors: words, frames of a face tracker, windows of a voice

A linear projection with sinusoidal positions, then blocks of a Transformer encoder (Vaswani and others; NeurIPS 2017,
arXiv 1706.03762) with LayerNorm before each part, then the mean over time. Without dropout and BatchNorm, so that rows
do not depend on each other and training is repeatable.

A step that is zero in all D values takes no part: the reader gives missing steps as the mean of the training split,
which after normalisation is zero. How long the padding is thus changes nothing.
"""

# B samples, T steps of D values, W the encoder's width

import math

import torch
from torch import nn
from torch.nn import functional

from remix_study.models.encoder import Encoder

_HEADS = 4


class SequenceEncoder(Encoder):
    """(B, T, in_features) -> (B, width), for any T.

    Args:
        width: of each step inside; a multiple of 4, the number of attention heads.
        layers: blocks of attention.
    """

    def __init__(self, in_features: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = width
        self.projection = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, in_features) -> (B, width); exactly zero for a row without any step.

        Raises:
            ValueError: the input has another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.in_features:
            raise ValueError(
                f"the input must be (B, T, {self.in_features}), but is {tuple(x.shape)}. "
                "Put time second, or give the encoder its true `in_features`."
            )
        there_BT = (x != 0).any(dim=2)
        steps_BTW = self.projection(x) + _positions(x.shape[1], self.out_features, x.device)
        # A row without any step looks at its first one, since a softmax over nothing is not a number.
        first_T = torch.arange(x.shape[1], device=x.device) == 0
        seen_BT = there_BT | (first_T & ~there_BT.any(dim=1, keepdim=True))
        for block in self.blocks:
            steps_BTW = block(steps_BTW, seen_BT)
        weights_BT1 = there_BT[..., None].to(steps_BTW.dtype)
        total_BW = (self.norm(steps_BTW) * weights_BT1).sum(dim=1)
        features_BW: torch.Tensor = total_BW / weights_BT1.sum(dim=1).clamp(min=1)
        return features_BW


class _Block(nn.Module):
    """x + attention(norm(x)), then x + layers(norm(x)); nobody looks at steps outside of `seen_BT`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)  # queries, keys, values
        self.answered = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_BTW: torch.Tensor, seen_BT: torch.Tensor) -> torch.Tensor:
        B, T, W = x_BTW.shape
        split = self.asked(self.norm1(x_BTW)).view(B, T, 3, _HEADS, W // _HEADS)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, W / heads)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen_BT[:, None, None, :])
        x_BTW = x_BTW + self.answered(mixed.transpose(1, 2).reshape(B, T, W))
        result: torch.Tensor = x_BTW + self.layers(self.norm2(x_BTW))
        return result


def _positions(steps: int, width: int, device: torch.device) -> torch.Tensor:
    """(T, W): sines in the first half, cosines in the second, wavelengths from 2 pi to 20000 pi steps."""
    rates = torch.exp(torch.arange(width // 2, device=device) * (-2 * math.log(10000.0) / width))
    angles = torch.arange(steps, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
