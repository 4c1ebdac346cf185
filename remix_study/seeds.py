"""Random streams, derived from the run's seed, a purpose, and optional keys such as epoch and step

No stream depends on what was drawn before, so a resumed run and a run with another number of workers draw the same
numbers.
"""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, purpose: str, keys: tuple[int, ...]) -> int:
    text = "\0".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the NumPy generator of one purpose; `keys` are, for example, epoch and step."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, purpose, keys)))


def torch_stream(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """Return the torch CPU generator of one purpose; its numbers differ from those of `stream`."""
    generator = torch.Generator()
    generator.manual_seed(_entropy(seed, purpose, keys) % 2**63)
    return generator
