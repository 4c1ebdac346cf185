"""Random streams, derived from the run's seed, a purpose, and optional keys such as epoch and step

No stream depends on what was drawn before, so a resumed run and a run with another number of workers draw the same
numbers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def _entropy(seed: int, purpose: str, keys: tuple[int, ...]) -> int:
    text = "\0".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the NumPy generator of one purpose; `keys` are, for example, epoch and step."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, purpose, keys)))


def torch_stream(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """Return the torch CPU generator of one purpose; its numbers differ from those of `stream`."""
    return device_stream(torch.device("cpu"), seed, purpose, *keys)


def device_stream(device: torch.device, seed: int, purpose: str, *keys: int) -> torch.Generator:
    """Return the torch generator of one purpose on a device; its numbers differ from one kind of device to another."""
    generator = torch.Generator(device)
    generator.manual_seed(_entropy(seed, purpose, keys) % 2**63)
    return generator


class DrawFrom(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Context in which torch's random functions draw from `generator` instead of the global generator of the process.

    Layers initialise their weights from the global generator and take no other. Threads share it, so seeding it would
    change what other threads draw, and they would change these weights. The context holds for its own thread only.
    Functions without a `generator` argument, such as dropout, still use the global generator.

    A dispatch mode, from a private module of torch: the public `TorchFunctionMode` sees no signature that tells which
    functions take a generator.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if "generator" not in _arguments(func) and "generator" in func.overloadpacket.overloads():
            func = func.overloadpacket.generator  # such as torch.randn, whose overload with a generator is separate
        if "generator" in _arguments(func) and given.get("generator") is None:
            given["generator"] = self._generator
        return func(*args, **given)


def _arguments(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}
