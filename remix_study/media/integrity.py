"""Finding damage in a store's files, by reading each file once per machine

Reading a file gives its checksum, and the first row of an array that holds NaN or infinity. Both are remembered in
`CACHE/checked`, with the file's size and modification time (CACHE as in `remote_store.py`). A file that has not
changed since is not read again. Processes that check one store at once share the work.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from remix_study.files.disk import write_atomically
from remix_study.files.remote_folder import machine_cache
from remix_study.media.plan import Megabytes, Progress
from remix_study.media.presets import FeaturePreset, Part

_CHUNK_BYTES = 2**20
_SETTLED_NS = 2 * 10**9  # some file systems round times to two seconds: a younger file may change without a new time
_SHOWN = 10  # damaged files in a message
_SILENT_S = 5.0  # a check that takes longer is announced
# Bits of a floating-point number without its sign, and its infinity; larger values are NaN.
_BITS = {2: (np.uint16, 0x7FFF, 0x7C00), 4: (np.uint32, 0x7FFFFFFF, 0x7F800000)}
_log = logging.getLogger(__name__)

Reading = Literal["all", "changed", "nothing"]
"""Which files to read: all, those without a remembered result, or none"""


class Damage(NamedTuple):
    """A damaged file of a store, and what is wrong with it, such as `its checksum has changed`."""

    file: str
    what: str


@dataclass(frozen=True)
class Content:
    """What reading a file gave.

    Attributes:
        bytes, changed_ns: the file's size and modification time.
        sha256: its checksum.
        nan_row, infinite_row: the first row that holds NaN, or infinity; None without one, or if the file is not an
            array of floating-point numbers.
    """

    bytes: int
    changed_ns: int
    sha256: str
    nan_row: int | None = None
    infinite_row: int | None = None


def recall(path: Path) -> Content | None:
    """What an earlier reading of the file gave, if it has not changed since; otherwise None.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    try:
        found = Content(**json.loads(_note(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if (found.bytes, found.changed_ns) == (state.st_size, state.st_mtime_ns) else None


def examine(path: Path, read: Callable[[int], None] = lambda count: None) -> Content:  # noqa: ARG005 - named for callers
    """Read a file, and remember what that gave.

    Args:
        read: called with the number of bytes after each part of the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        digest = hashlib.sha256()
        rows = _Rows.of(path)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if rows is not None:
                rows.scan(chunk)
            read(len(chunk))
    found = Content(
        state.st_size,
        state.st_mtime_ns,
        digest.hexdigest(),
        *((None, None) if rows is None else (rows.nan_row, rows.infinite_row)),
    )
    if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
        with contextlib.suppress(OSError):  # without a writable cache, the file is read again next time
            note = _note(path)
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(dataclasses.asdict(found)))
    return found


class _Rows:
    """Looks for NaN and infinity in the parts of a `.npy` file of floating-point numbers."""

    def __init__(self, header: int, dtype: np.dtype[Any], row_items: int) -> None:
        self._skip, self._size, self._row_items = header, dtype.itemsize, max(1, row_items)
        self._items, self._rest = 0, b""
        self.nan_row: int | None = None
        self.infinite_row: int | None = None

    @classmethod
    def of(cls, path: Path) -> "_Rows | None":
        """None if the file is not such an array."""
        if path.suffix != ".npy":
            return None
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, EOFError):
            return None
        if array.dtype.kind != "f" or array.dtype.itemsize not in _BITS or array.size == 0:
            return None
        return cls(int(array.offset), array.dtype, math.prod(array.shape[1:]))

    def scan(self, chunk: bytes) -> None:
        """Scan the next part of the file."""
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        content = self._rest + chunk[skipped:]
        whole = len(content) - len(content) % self._size
        self._rest = content[whole:]
        kind, magnitude, infinity = _BITS[self._size]
        bits = np.frombuffer(content[:whole], kind) & kind(magnitude)
        if bits.size and bits.max() >= infinity:
            self.nan_row = self._first(bits > infinity, self.nan_row)
            self.infinite_row = self._first(bits == infinity, self.infinite_row)
        self._items += bits.size

    def _first(self, found: np.ndarray[Any, np.dtype[np.bool_]], before: int | None) -> int | None:
        if before is not None or not found.any():
            return before
        return (self._items + int(found.argmax())) // self._row_items


def find_damage(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    parts: Mapping[str, Part],
    *,
    reading: Reading = "changed",
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Damage]:
    """The damaged files of a store.

    Args:
        folder: the store.
        files: its files according to its manifest: name -> `bytes` and `sha256`.
        parts: what is stored of each modality.
        reading: which files to read.
        threads: how many files to read at once.
        progress: called as `progress(done, total)` with megabytes.
    """
    lock = contextlib.nullcontext() if reading == "nothing" else _alone(folder)
    with lock, concurrent.futures.ThreadPoolExecutor(threads) as pool:  # hashing releases the GIL
        read = Megabytes(sum(of["bytes"] for of in files.values()), progress)

        def fault(name: str) -> str | None:
            return _fault(folder / name, files[name], _missing_values(name, parts), reading, read)

        found = zip(files, pool.map(fault, files), strict=True)
        return [Damage(name, what) for name, what in found if what is not None]


def unread_bytes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> int:
    """How many bytes of a store's files `find_damage` would read. Missing files count nothing."""
    total = 0
    for name, of in files.items():
        with contextlib.suppress(OSError):
            total += of["bytes"] if recall(folder / name) is None else 0
    return total


def described(damages: list[Damage]) -> str:
    """The damaged files for a message: `audio-00000.npy (its checksum has changed), ...`."""
    shown = ", ".join(f"{each.file} ({each.what})" for each in damages[:_SHOWN])
    more = f" and {len(damages) - _SHOWN} more" if len(damages) > _SHOWN else ""
    return shown + more


class IntegrityCheck:
    """The check of a store's files, in a thread that runs beside the training.

    Args:
        check: raises an error if a file is damaged. None: nothing is left to check.
    """

    def __init__(self, check: Callable[[], None] | None = None) -> None:
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        if check is not None:
            self._check = check
            self._thread = threading.Thread(target=self._run, name="integrity check", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._check()
        except Exception as error:  # raised again in the thread that trains
            self._error = error

    @property
    def passed(self) -> bool:
        """Whether all files are checked, and none is damaged."""
        return (self._thread is None or not self._thread.is_alive()) and self._error is None

    def require_intact(self) -> None:
        """Wait until all files are checked.

        Raises:
            DamagedStoreError: a file is damaged.
        """
        if self._thread is not None:
            self._thread.join(_SILENT_S)
            if self._thread.is_alive():
                _log.warning("Waiting until the checksums of the corpus are compared, once per machine.")
                self._thread.join()
        if self._error is not None:
            raise self._error


def _fault(
    path: Path, expected: Mapping[str, Any], missing_values: bool, reading: Reading, read: Megabytes
) -> str | None:
    """What is wrong with a file, or None."""
    try:
        if not path.is_file():
            return "it is missing"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"it must have {expected['bytes']} bytes, but has {size}"
        found = None if reading == "all" else recall(path)
        if found is None:
            if reading == "nothing":
                return None
            found = examine(path, read.add)
        else:
            read.add(size)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if found.sha256 != expected["sha256"]:
        return "its checksum has changed"
    if found.infinite_row is not None or (found.nan_row is not None and not missing_values):
        row = min(row for row in (found.infinite_row, found.nan_row) if row is not None)
        return f"its values must be finite, but those of its row {row} are not"
    return None


def _missing_values(name: str, parts: Mapping[str, Part]) -> bool:
    """Whether NaN stands for a missing value in a file: in features, but not in spectrograms or images."""
    part = parts.get(name.rpartition("-")[0])
    return isinstance(part, FeaturePreset) and part.layout != "image"


def _note(path: Path) -> Path:
    """The file that remembers what reading `path` gave."""
    return _place(path).with_suffix(".json")


def _place(path: Path) -> Path:
    # With the host, because machines may share the home directory, but have other files at the same path.
    key = hashlib.sha256(f"{socket.gethostname()}\n{path.absolute()}".encode()).hexdigest()[:32]
    return machine_cache() / "checked" / key


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time check a store, so that the others find its results."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a writable cache or locks, every process checks alone
            lock = _place(folder).with_suffix(".lock")
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield
