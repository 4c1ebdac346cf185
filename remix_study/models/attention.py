"""Attention as late fusion: a Transformer encoder over one token per modality

The token of modality m is V_m f_m + e_m, where e_m is learned. A class token, learned too, attends to itself and to the
tokens of the active modalities, and z = W norm(class token) + b. Tokens of inactive modalities are masked, so a
unimodal batch depends on its own modality only. A late-fusion Transformer with tuned hyperparameters is the baseline of
SimBaMM (Rheude, Eils, Wild; 2025, arXiv 2512.22991), whose details differ.
"""

# B samples, M modalities, T = 1 + M tokens, W width, C classes

from collections.abc import Mapping

import torch
from torch import nn

from remix_study.models.fusion import Fusion, linear
from remix_study.models.transformer import Block


class AttentionFusion(Fusion):
    """See the module docstring.

    Args:
        width: W, the size of a token; a multiple of `heads`.
        layers: the number of Transformer blocks.
        heads: the number of attention heads of each block.
        dropout: the probability of dropout in the blocks, in [0, 1).
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, num_classes)
        self.projection = nn.ModuleDict({m: linear(widths[m], width) for m in self.modalities})
        self.class_token_W = nn.Parameter(torch.randn(width))
        self.kind_MW = nn.Parameter(torch.randn(len(self.modalities), width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = linear(width, num_classes)

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        B = len(active_BM)
        tokens_BMW = torch.stack([self.projection[m](features[m]) for m in self.modalities], dim=1) + self.kind_MW
        tokens_BTW = torch.cat([self.class_token_W.expand(B, 1, -1), tokens_BMW], dim=1)
        attended_BT = torch.cat([active_BM.new_ones(B, 1), active_BM], dim=1)
        for block in self.blocks:
            tokens_BTW = block(tokens_BTW, attended_BT)
        logits_BC: torch.Tensor = self.out(self.norm(tokens_BTW[:, 0]))
        return logits_BC
