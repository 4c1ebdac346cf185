"""Steps on a device whose tensors have no values: what would make the host wait for a GPU

Tensors of the device `meta` have shapes only. A step on it takes the same operations as on a GPU, and a tensor that a
rule left on the CPU is an error there, too. Copies between the devices, and operations whose result the host must know,
are where the host would wait for the GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
# Operations whose result the host must know, and what they return here. Without an entry, they are an error here.
_KNOWN_BY_HOST: dict[str, Callable[[torch.Tensor], Any]] = {
    "nonzero": lambda x: x.new_zeros((x.numel(), x.ndim), dtype=torch.long),
    "masked_select": lambda x: x.flatten(),
    "equal": lambda x: True,
    "_linalg_check_errors": lambda x: None,
}
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Context that counts where the host would wait for the device, by operation.

    Values that the host reads are true, or zero. Random numbers need no generator.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.counts: Counter[str] = Counter()
        self._numbers = _Numbers(self.counts)

    def __enter__(self) -> "Waits":
        self._numbers.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._numbers.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name: str = func.overloadpacket.__name__
        first: Any = args[0] if args else None
        if name == "_local_scalar_dense" and _there(first):
            self.counts["value"] += 1
            return True if first.dtype == torch.bool else first.new_zeros((), device="cpu").item()
        if name in ("_to_copy", "copy_"):
            source = first if name == "_to_copy" else args[1]
            target = given.get("device") or source.device if name == "_to_copy" else first.device
            if _there(source) and torch.device(target) != DEVICE:
                self.counts["copy to the host"] += 1
                return torch.ones_like(source, device="cpu") if name == "_to_copy" else first
            if not _there(source) and torch.device(target) == DEVICE:
                self.counts["copy to the device"] += 1
        if name in _KNOWN_BY_HOST and _there(first):
            self.counts[name] += 1
            return _KNOWN_BY_HOST[name](first)
        if name == "index" and any(_there(each) and each.dtype == torch.bool for each in args[1]):
            self.counts["rows by a mask"] += 1
            return first
        if given.get("generator") is not None:
            given["generator"] = None
        return func(*args, **given)


@contextmanager
def without_values() -> Iterator[None]:
    """Let autocast and generators accept the device."""
    with mock.patch("torch.autocast", _Autocast), mock.patch("torch.Generator", _Generator):
        yield


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **options)


class _Generator(torch.Generator):
    def __new__(cls, device: Any = None) -> "_Generator":
        return super().__new__(cls)


class _Numbers(TorchFunctionMode):
    """Counts tensors that are made from numbers of the host on the device."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _FROM_NUMBERS and _there(found):
            self._counts["copy to the device"] += 1
        return found


def _there(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device == DEVICE
