"""An encoder of precomputed feature vectors, such as text embeddings or sensor readings"""

from typing import ClassVar

import torch
from torch import nn

from remix_study.models.encoder import Encoder, Layout


class VectorEncoder(Encoder):
    """(B, in_features) -> (B, width): one hidden layer, with ReLU after both layers.

    There is no BatchNorm, so a batch with a single active row trains like any other.
    """

    takes: ClassVar[tuple[Layout, ...]] = ("vector",)

    def __init__(self, in_features: int, width: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = width
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_features) -> (B, width).

        Raises:
            ValueError: the input has another shape.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"the input must be (B, {self.in_features}), but is {tuple(x.shape)}. "
                "Flatten it, or build the encoder with the right `in_features`."
            )
        result: torch.Tensor = self.layers(x)
        return result
