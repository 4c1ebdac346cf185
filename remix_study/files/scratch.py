"""A folder of this process for what it downloads

It goes when the process ends; what a killed process left is removed by the next one that needs a folder. Who lives is
told by a lock, which the system frees however a process dies.
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
from remix_study.files.disk import sole_writer, storage_errors

_guard = threading.Lock()
_made: dict[int, tuple[Path, IO[str]]] = {}  # by process: a fork makes its own; the lock lives as long as its file


def scratch() -> Path:
    """The folder of this process; private.

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
            raise StoreError(f"{base} must belong to you, but does not. Set TMPDIR to a folder of yours.")
        with sole_writer(base / ".lock", wait=True):
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
    if pid == os.getpid():  # a fork inherits this duty, but not the folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
