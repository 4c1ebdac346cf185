"""Writing files that survive crashes and power cuts, and locks that admit one process"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from remix_study.errors import StoreError
from remix_study.files import operations


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Explain a full disk or a folder without write permission.

    Raises:
        StoreError: the disk that holds `folder` is full, or `folder` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"Cannot write: the disk of {folder} is full. Finished work is kept. Free space and rerun the command."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"Cannot write to {folder}: {error.strerror}. Choose a folder in which you can create files."
            ) from error
        raise


@contextlib.contextmanager
def exclusive_lock(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `lock` during the block. The operating system releases it if the process dies.

    Args:
        wait: wait until another process releases the lock, instead of raising an error.

    Raises:
        StoreError: another process holds the lock, and `wait` is False. The message names its process id.
    """
    with lock.open("a+") as file:
        try:
            _acquire(file, wait)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(
                f"Cannot write to {lock.parent}: process {file.read().strip() or '?'} is using the folder, and "
                "only one process at a time may do so. Wait until it ends, or stop it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(file: IO[str], wait: bool) -> None:
    """Lock a file exclusively.

    Args:
        wait: wait until no other process holds the lock.

    Raises:
        BlockingIOError: without `wait`, another process holds the lock exclusively.
    """
    if wait:
        return fcntl.flock(file, fcntl.LOCK_EX)
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `lock_holder` shares the lock for some microseconds, which must not count as holding it: try again. If
            # another process holds it exclusively, this raises.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            os.sched_yield()


def lock_holder(lock: Path) -> str | None:
    """The id of the process that holds `lock`, "?" if it is unknown, or None if no process does."""
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two callers do not see one another
        except BlockingIOError:
            return file.read().strip() or "?"
    return None


def temporary_path(path: Path, role: str = "") -> Path:
    """The name under which a file is written before it is renamed to `path`: `.NAME.part`, in the same folder.

    Args:
        role: tells apart processes that may write the same file at once: `.NAME.ROLE.part`.
    """
    return path.with_name(f".{path.name}.{role}.part" if role else f".{path.name}.part")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is unfinished, written by this version or by 0.1."""
    return name.endswith((".part", ".partial", ".new"))


def write_atomically(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Replace a file, so that it holds the old or the new content after a crash or a power cut.

    Args:
        content: the file's text (as UTF-8) or bytes; or its parts, which need not fit into memory together.
    """
    if isinstance(content, str):
        content = content.encode()
    with replacing(path) as file:
        file.writelines([content] if isinstance(content, bytes) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, opened for writing in binary, that replaces `path` when the block ends without an error.

    The content reaches the disk before the rename, and the rename before this returns.
    """
    part = temporary_path(path)
    try:
        with operations.create(part) as file:
            yield file
        move_into_place(part, path)
    except Exception:
        operations.remove(part)
        raise


def move_into_place(part: Path, path: Path) -> None:
    """Rename a finished file or folder to its final name; its content and its name survive a power cut.

    Args:
        path: a file there is replaced; a folder there must be empty.
    """
    for each in [*part.rglob("*"), part]:
        sync(each)
    operations.rename(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        operations.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks: no folders
            raise
    finally:
        os.close(descriptor)


def checksum(path: Path) -> dict[str, Any]:
    """The file's size and digest: `{"bytes": ..., "sha256": ...}`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
