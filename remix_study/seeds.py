"""Every random stream is derived here, so that nothing random depends on what ran before

A stream is named by the run's seed, a purpose and, where it applies, epoch and step. A run that is resumed, or that
has another number of workers, draws the same numbers.
"""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, purpose: str, keys: tuple[int, ...]) -> int:
    text = "\0".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """The NumPy generator of one purpose; `keys` are, say, epoch and step."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, purpose, keys)))


def torch_stream(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """The same for torch, on the CPU."""
    generator = torch.Generator()
    generator.manual_seed(_entropy(seed, purpose, keys) % 2**63)
    return generator
