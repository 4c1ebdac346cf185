"""An encoder of vectors: features computed elsewhere, such as text embeddings or sensor readings"""

import torch
from torch import nn

from remix_study.models.encoder import Encoder


class VectorEncoder(Encoder):
    """(B, in_features) -> (B, out_features), through one hidden layer; ReLU after each of the two layers.

    No BatchNorm, so that a batch with a single active row trains as well as any other.
    """

    def __init__(self, in_features: int, out_features: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out_features),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_features) -> (B, out_features).

        Raises:
            ValueError: the input has another shape.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"the input must be (B, {self.in_features}), but is {tuple(x.shape)}. "
                "Flatten it, or give the encoder its true `in_features`."
            )
        result: torch.Tensor = self.layers(x)
        return result
