"""A temporary folder per process for downloads

The folder is deleted when the process ends. Folders of killed processes are deleted by the next process that needs one:
each running process holds a lock, which the operating system releases when it dies.
"""

import fcntl
import os
import shutil
import tempfile
import threading
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO

from remix_study.errors import StoreError
from remix_study.files.disk import exclusive_lock, storage_errors

_guard = threading.Lock()
_made: dict[
    int, tuple[Path, IO[str]]
] = {}  # by process id: a fork creates its own. The lock is held while its file is open


def scratch() -> Path:
    """The folder of this process, which other users cannot read.

    Raises:
        StoreError: the folder for temporary files cannot be written.
    """
    with _guard:
        if os.getpid() not in _made:
            _made[os.getpid()] = _make()
        return _made[os.getpid()][0]


def _make() -> tuple[Path, IO[str]]:
    base = Path(tempfile.gettempdir()) / f"remix_study-{os.getuid()}"
    with storage_errors(base):
        base.mkdir(mode=0o700, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise StoreError(
                f"Cannot use {base} for temporary files: it belongs to another user. Set TMPDIR to a folder of yours."
            )
        with exclusive_lock(base / ".lock", wait=True):
            _sweep(base)
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
            lock = folder.with_suffix(".lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
    Finalize(None, _remove, args=(os.getpid(), folder), exitpriority=0)  # atexit does not run in worker processes
    return folder, lock


def _sweep(base: Path) -> None:
    for path in base.glob("*.lock"):
        if path.name == ".lock":
            continue
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()


def _remove(pid: int, folder: Path) -> None:
    if pid == os.getpid():  # not in a fork, which inherits the finalizer
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
