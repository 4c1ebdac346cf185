"""Writing so that a kill, a full disk or a second writer loses nothing"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from remix_study.errors import StoreError


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn what a person can mend about `folder` into one sentence.

    Raises:
        StoreError: the disk is full or `folder` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"the disk that holds {folder} is full. What is done is kept: free space and run the command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"{folder} must be a folder that can be written, but is not ({error.strerror}). Choose another."
            ) from error
        raise


@contextlib.contextmanager
def sole_writer(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `lock` while in the block; the system frees it when the process dies, however it dies.

    Args:
        wait: for the other process to end, rather than to refuse.

    Raises:
        StoreError: another process holds it, named by its process id, and we do not wait.
    """
    with lock.open("a+") as file:
        try:
            _take(file, wait)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(
                f"one process at a time may write to {lock.parent}, and process {file.read().strip() or '?'} does. "
                "Wait for it, or end it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _take(file: IO[str], wait: bool) -> None:
    """
    Raises:
        BlockingIOError: somebody holds it. One who looks (`holder`) shares it for a moment, and keeps nobody out.
    """
    if wait:
        return fcntl.flock(file, fcntl.LOCK_EX)
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            os.sched_yield()


def holder(lock: Path) -> str | None:
    """The process id of who holds `lock` now; None: nobody does."""
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look are not each other's holder
        except BlockingIOError:
            return file.read().strip() or "?"
    return None


def write_whole(path: Path, content: str | bytes) -> None:
    """All of the file or nothing of it, even if the machine stops."""
    write_pieces(path, [content.encode() if isinstance(content, str) else content])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """`write_whole` for what is not to be in memory at once."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of the content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
