"""A unimodal head that grows: a linear layer, to whose logits those of further heads are added one after the other

All heads exist from the start, so that every checkpoint of a run has the same parameters; only those in use run. A
further head has one hidden layer, as wide as the features. Its last layer starts at zero, so that a head that comes
into use changes no prediction until it is trained.
"""

# B samples, d features, C classes

from typing import Any

import torch
from torch import nn

from remix_study.models.fusion import linear


class BoostedHead(nn.Linear):
    """See the module docstring.

    Args:
        first: the linear head (d -> C), whose parameters become those of this one.
        further: number of further heads.

    Attributes:
        in_use: number of heads in use, the first included; part of the state dict.
    """

    def __init__(self, first: nn.Linear, further: int) -> None:
        super().__init__(first.in_features, first.out_features)
        self.weight, self.bias = first.weight, first.bias
        self.further = nn.ModuleList(self._new() for _ in range(further))
        self.in_use = 1

    def forward(self, features_Bd: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.each(features_Bd)).sum(dim=0)

    def each(self, features_Bd: torch.Tensor) -> list[torch.Tensor]:
        """The logits (B, C) of every head in use, in the order in which they came into use."""
        return [super().forward(features_Bd), *(head(features_Bd) for head in self.further[: self.in_use - 1])]

    def grow(self) -> None:
        """Take one more head into use.

        Raises:
            ValueError: all heads are in use.
        """
        if self.in_use > len(self.further):
            raise ValueError(f"all {self.in_use} heads are in use")
        self.in_use += 1

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.in_use)

    def set_extra_state(self, state: Any) -> None:
        self.in_use = int(state)

    def _new(self) -> nn.Sequential:
        last = linear(self.in_features, self.out_features)
        nn.init.zeros_(last.weight)
        return nn.Sequential(linear(self.in_features, self.in_features), nn.ReLU(), last)
