"""A safe reader of untrusted pickles that hold arrays of numbers and texts in plain containers

A pickle is a program that can call any function. `load` supports only the few names that NumPy uses to pickle arrays,
and maps each of them to its own code, so that a file cannot call functions of NumPy or another package. Any other name
raises an error before anything is called.
"""

# NumPy pickles an array as `_reconstruct(ndarray, (0,), b"b")` and then its state (version, shape, dtype, fortran,
# content), whose content is bytes or a list of objects. From protocol 5 on, it also uses `_frombuffer(content, dtype,
# shape, order)`.

import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from remix_study.errors import ManifestError

_KINDS = frozenset("biufSU")  # booleans, numbers, texts


def load(path: Path) -> Any:
    """Load a pickle of dictionaries, lists, tuples, sets, texts, numbers, and NumPy arrays of numbers and texts.

    Arrays of objects are returned as lists. The whole file is read into memory.

    Raises:
        ManifestError: the file cannot be read, is damaged, does not fit into memory, or names something that could run
            code.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file).load(), {})
    except MemoryError as error:
        if _states_too_much(path):
            raise ManifestError(
                f"The pickle {path} is damaged (a length exceeds the file). Download it again."
            ) from error
        raise ManifestError(
            f"Cannot read {path}: it is read as a whole, which needs more memory than is available. Close other "
            "programs, or use a machine with more memory for this step."
        ) from error
    except OSError as error:
        raise ManifestError(f"The pickle {path} cannot be read: {error.strerror}.") from error
    except _RefusedError as error:
        raise ManifestError(
            f"The pickle {path} may hold only arrays in plain containers, but contains {error}. Reading stopped before "
            "any of its code ran. Do not trust the file, or ask its author for .npy files."
        ) from error
    except Exception as error:  # a damaged or hostile file can cause any exception
        raise ManifestError(f"The pickle {path} is damaged ({type(error).__name__}). Download it again.") from error


def _states_too_much(path: Path) -> bool:
    """Whether a pickle states a length that exceeds the file, for which Python asks for memory before it reads."""
    try:
        content = path.read_bytes()
        codes = pickletools.genops(content)
        return any(code.name == "FRAME" and cast(int, size) > len(content) for code, size, _ in codes)
    except (MemoryError, OSError):
        return False
    except Exception:  # a damaged or hostile file can cause any exception
        return True


class _RefusedError(Exception):
    """Raised for content that is not supported, which the message names."""


class _Dtype:
    """Replaces numpy.dtype."""

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
    """Replaces numpy.ndarray until its state is set. `value` is an array, or a list of objects."""

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
    if isinstance(content, str):  # protocol 2 writes bytes as text
        content = content.encode("latin-1")
    return np.frombuffer(content, dtype.real()).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, ()).item()


def _nested(shape: list[int], flat: list[Any], *, fortran: bool) -> Any:
    if math.prod(shape) != len(flat) or (fortran and len(shape) > 1):
        raise ValueError("an array of objects does not have the stated size")
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
        raise _RefusedError("bytes made of something else")
    return content


class _Known:
    """A function that a pickle may call, but not inspect or change."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setstate__(self, _: object) -> None:
        raise _RefusedError("a change to the reader")


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
        super().__init__(file, encoding="latin1")  # for pickles of Python 2

    def find_class(self, module: str, name: str) -> _Known:
        try:
            return self._known[module, name]
        except KeyError:
            raise _RefusedError(f"`{module}.{name}`") from None

    def persistent_load(self, _pid: Any) -> Any:
        raise _RefusedError("a reference to an object outside the file")


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Replace each `_Array` by its value. `done` maps ids of converted objects, which may occur in several places."""
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
        raise ValueError("it contains itself")
    return done[id(value)]


_OPEN = object()
