"""Reading a pickle from a stranger: arrays of numbers and texts in plain containers, and nothing else

A pickle is a program: opening one can run anything. `load` knows the handful of names with which NumPy writes its
arrays, and gives each of them to code of its own, so that no function of NumPy or of any other package is called by
what the file says; every other name is refused before anything is called.
"""

# How NumPy pickles an array: `_reconstruct(ndarray, (0,), b"b")`, and then its state (version, shape, dtype, fortran,
# content), of which the content is bytes or a list of objects. From protocol 5 on also: `_frombuffer(content, dtype,
# shape, order)`.

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from remix_study.errors import ManifestError

_KINDS = frozenset("biufSU")  # booleans, numbers, texts


def load(path: Path) -> Any:
    """Dictionaries, lists, tuples, sets, texts, numbers, and NumPy arrays of numbers and texts.

    Arrays of objects are given as lists. The whole file is read into memory.

    Raises:
        ManifestError: it is no such pickle: cut short, or it names something that could run code.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file).load(), {})
    except MemoryError as error:
        raise ManifestError(
            f"{path} is read as a whole, and needs more memory than there is. Close other programs, or use "
            "a larger machine once."
        ) from error
    except OSError as error:
        raise ManifestError(f"{path} must be a pickle, but cannot be read: {error.strerror}.") from error
    except _RefusedError as error:
        raise ManifestError(
            f"{path} must hold arrays in plain containers only, but it asks for {error}, and was not opened further. "
            "Do not trust it; or save its arrays anew as .npy files."
        ) from error
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise ManifestError(f"{path} must be a pickle of arrays, but is damaged ({type(error).__name__}).") from error


class _RefusedError(Exception):
    """What it was that a pickle asked for."""


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def real(self) -> np.dtype[Any]:
        if not isinstance(self.name, str) or len(self.name) > 16:
            raise _RefusedError(f"an array of {self.name!r}")
        dtype = np.dtype(self.name)
        if dtype.kind not in _KINDS or dtype.names is not None:
            raise _RefusedError(f"an array of {self.name}")
        match self.order:
            case "<" | ">" as order:
                return dtype.newbyteorder(order)
            case _:
                return dtype

    @property
    def objects(self) -> bool:
        return self.name in ("O", "O8", "object")


class _Array:
    """Stands for numpy.ndarray while its state is not known; `value` is an array, or a list of objects."""

    value: Any

    def __init__(self, *_: object) -> None:
        self.value = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(dtype, _Dtype) and dtype.objects:
            self.value = _nested([int(size) for size in shape], list(content), fortran=bool(fortran))
        else:
            self.value = _array(content, dtype, shape, "F" if fortran else "C")


def _array(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array of an unknown kind")
    if isinstance(content, str):  # bytes as protocol 2 writes them
        content = content.encode("latin-1")
    return np.frombuffer(content, dtype.real()).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, ()).item()


def _nested(shape: list[int], flat: list[Any], *, fortran: bool) -> Any:
    if math.prod(shape) != len(flat) or (fortran and len(shape) > 1):
        raise ValueError("an array of objects does not have the size that it says")
    if len(shape) <= 1:
        return flat
    size = math.prod(shape[1:])
    return [_nested(shape[1:], flat[i * size : (i + 1) * size], fortran=False) for i in range(shape[0])]


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("an encoding")
    return text.encode("latin-1")


def _buffer(content: Any = b"") -> bytes:
    if not isinstance(content, bytes):
        raise _RefusedError("bytes of something else")
    return content


class _Known:
    """A name that a pickle may call, and nothing else with."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setstate__(self, _: object) -> None:
        raise _RefusedError("a change of what reads it")


def _known() -> dict[tuple[str, str], _Known]:
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encoded,
        ("collections", "OrderedDict"): dict,
    }
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        names |= {(builtins, "bytes"): _buffer, (builtins, "set"): set, (builtins, "frozenset"): frozenset}
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        names[f"{core}.multiarray", "_reconstruct"] = _Array
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _array
    return {name: _Known(make) for name, make in names.items()}


class _Reader(pickle.Unpickler):
    _known = _known()

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # what Python 2 wrote

    def find_class(self, module: str, name: str) -> _Known:
        try:
            return self._known[module, name]
        except KeyError:
            raise _RefusedError(f"`{module}.{name}`") from None

    def persistent_load(self, _pid: Any) -> Any:
        raise _RefusedError("an object outside of the file")


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """With arrays in the places of what stood for them; `done`, by identity, since a thing may be in many places."""
    if isinstance(value, _Array):
        value = value.value
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray | np.ndarray):
        return value
    if not isinstance(value, dict | list | tuple | set | frozenset):
        raise _RefusedError("a name on its own")
    if id(value) not in done:
        done[id(value)] = _OPEN
        if isinstance(value, dict):
            done[id(value)] = {_plain(key, done): _plain(each, done) for key, each in value.items()}
        else:
            done[id(value)] = type(value)(_plain(each, done) for each in value)
    elif done[id(value)] is _OPEN:
        raise ValueError("it holds itself")
    return done[id(value)]


_OPEN = object()
