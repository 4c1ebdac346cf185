"""A block of a pre-LayerNorm Transformer encoder (Vaswani et al.; NeurIPS 2017, arXiv 1706.03762), and its dropout"""

# B samples, T tokens, W width

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """x + attention(norm(x)), then x + layers(norm(x)); only tokens in `attended_BT` are attended to.

    Args:
        width: W, a multiple of `heads`.
        heads: the number of attention heads.
        dropout: the probability with which a value is dropped from what each half of the block adds to x.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)  # queries, keys, values
        self.answered = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = Dropout(dropout)

    def forward(self, x_BTW: torch.Tensor, attended_BT: torch.Tensor) -> torch.Tensor:
        B, T, W = x_BTW.shape
        split = self.asked(self.norm1(x_BTW)).view(B, T, 3, self.heads, W // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, W / heads)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=attended_BT[:, None, None, :])
        x_BTW = x_BTW + self.dropout(self.answered(mixed.transpose(1, 2).reshape(B, T, W)))
        result: torch.Tensor = x_BTW + self.dropout(self.layers(self.norm2(x_BTW)))
        return result


class Dropout(nn.Module):
    """Dropout that draws from `generator`, so that a resumed run draws the same numbers; None: from torch's own.

    Args:
        probability: with which a value becomes 0, in [0, 1). The others are divided by 1 - probability.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.probability == 0:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.probability, generator=self.generator)
        return x * kept / (1 - self.probability)


@contextmanager
def dropout_from(model: nn.Module, generator: Callable[[], torch.Generator]) -> Iterator[None]:
    """Context in which all dropout in `model` draws from one `generator()`, which is not called if there is none."""
    layers = [module for module in model.modules() if isinstance(module, Dropout) and module.probability > 0]
    shared = generator() if layers else None
    for layer in layers:
        layer.generator = shared
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None
