"""Learning-rate schedules as functions of the epoch, so that a resumed run needs no scheduler state"""

import math
from collections.abc import Callable

RateFactor = Callable[[int], float]
"""epoch (from 0) -> factor of the base learning rate"""


def constant() -> RateFactor:
    """The base learning rate in every epoch."""
    return lambda epoch: 1.0  # noqa: ARG005 - the signature of a schedule


def step(epochs: int, every: float, factor: float) -> RateFactor:
    """Multiply by `factor` after every fraction `every` of the epochs."""
    length = max(1, round(every * epochs))
    return lambda epoch: factor ** (epoch // length)


def cosine(epochs: int, warmup: int, final: float) -> RateFactor:
    """Linear warm-up over `warmup` epochs, then half a cosine from 1 to `final`."""

    def rate(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        progress = (epoch - warmup) / max(1, epochs - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return rate
