"""The operations that change files: writing, syncing, renaming, linking and removing

All files whose loss would cost work (stores, checkpoints, histories, spools, results) are written through these
functions, so that tests can let each of them fail, or kill the process there (tests/faults.py). Call them as
`operations.rename(...)`: tests replace the functions of this module. Databases and media files are written by their
libraries.
"""

import contextlib
import ctypes
import functools
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def write(descriptor: int, content: Any) -> int:
    """Write bytes at the position of an open file; return how many were written, which may be fewer than given."""
    return os.write(descriptor, content)


def write_at(descriptor: int, content: bytes, offset: int) -> int:
    """Write at an offset of an open file; return the number of bytes written, which may be fewer than given."""
    return os.pwrite(descriptor, content, offset)


def reserve(descriptor: int, size: int) -> None:
    """Reserve `size` bytes for a file, if the operating system can; otherwise only set its size."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, if it is longer."""
    if path.stat().st_size > size:
        os.truncate(path, size)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder. A file at `target` is replaced; a folder there must be empty."""
    os.replace(source, target)  # noqa: PTH105 - this is the one place


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two existing files or folders in one step. Returns False if the file system cannot."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def link(source: Path, target: Path) -> None:
    """Create a hard link."""
    os.link(source, target)


def remove(path: Path) -> None:
    """Delete a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - this is the one place


def remove_folder(path: Path) -> None:
    """Delete a folder with its content as far as possible, if it exists."""
    shutil.rmtree(path, ignore_errors=True)


class _File(io.FileIO):
    """A file whose bytes are written with `write`."""

    def write(self, content: Any) -> int:
        return write(self.fileno(), content)


def create(path: Path) -> IO[bytes]:
    """Create a file, or empty it, and open it for writing in binary."""
    return cast(IO[bytes], io.BufferedWriter(_File(path, "w")))


def extend(path: Path) -> IO[bytes]:
    """Open a file for reading, and for writing at its end, in binary. It is created if it does not exist."""
    return cast(IO[bytes], io.BufferedRandom(_File(path, "a+")))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    with contextlib.suppress(OSError):
        return cast("Callable[..., int] | None", getattr(ctypes.CDLL(None), "renameat2", None))
    return None
