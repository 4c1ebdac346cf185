"""Learning rate as a pure function of the epoch, so that a resumed run needs no scheduler state"""

import math
from collections.abc import Callable

RateFactor = Callable[[int], float]
"""epoch (from 0) -> what the base learning rate is multiplied with"""


def constant() -> RateFactor:
    return lambda epoch: 1.0  # noqa: ARG005


def step(epochs: int, every: float, factor: float) -> RateFactor:
    """Times `factor` after every `every` (a fraction) of the epochs."""
    length = max(1, round(every * epochs))
    return lambda epoch: factor ** (epoch // length)


def cosine(epochs: int, warmup: int, final: float) -> RateFactor:
    """Linear rise over `warmup` epochs, then half a cosine from 1 towards `final`."""

    def rate(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        progress = (epoch - warmup) / max(1, epochs - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return rate
