"""Local copy of a run folder in a remote workspace

A process pulls the run folder before it works on the run, pushes it after each epoch, and removes the copy at the end,
so that another node can resume the run at any time. If two processes work on one run, the later one owns it: a worker
may outlive its killed driver by some seconds, and must not overwrite the files of the process that resumed the run.
"""

import hashlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from remix_study.errors import RemixStudyError, SourceError
from remix_study.files.mirror import OWNER, Mirror, with_retries
from remix_study.files.scratch import scratch
from remix_study.launch.folder import CHECKPOINTS
from remix_study.training.run import EpochCallback
from remix_study.training.state import Record

_SHARE = 10  # pushing takes at most one tenth of the time
_log = logging.getLogger(__name__)
_copies: dict[str, "WorkingCopy"] = {}  # of this process, by URL of the run folder


@dataclass
class WorkingCopy:
    """The folder in which this process works on a run.

    Args:
        folder: the local folder.
        mirror: copies it from and to the remote workspace. None: `folder` is the run folder itself, and `pull`, `claim`
            and `push` do nothing.
    """

    folder: Path
    mirror: Mirror | None = None
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _owns: bool = False
    _next_s: float = 0.0
    _users: int = 0

    def pull(self, *, checkpoints: bool = True) -> None:
        """Download the run folder, optionally without its checkpoints.

        Raises:
            SourceError: the storage service does not answer, or denies access.
        """
        if self.mirror is not None:
            self.mirror.pull(skip=None if checkpoints else _is_checkpoint)

    def claim(self) -> None:
        """Make this process the owner of the run; a former owner can no longer push."""
        if self.mirror is not None:
            self.mirror.write(OWNER, self._token.encode())
            self._owns = True

    def push(self) -> None:
        """Upload the run folder, and retry for minutes while the storage service does not answer.

        Raises:
            RemixStudyError: another process owns the run.
            SourceError: the storage service still does not answer, or denies access.
        """
        if self.mirror is None:
            return
        started = time.monotonic()
        self._require_ownership()
        with_retries(self.mirror.push, threading.Event().wait)
        self._next_s = time.monotonic() + (_SHARE - 1) * (time.monotonic() - started)

    def push_if_due(self, *, at_once: bool = False) -> None:
        """Upload the run folder if enough time has passed since the last upload; skip it if the service is down.

        Args:
            at_once: upload in any case.
        """
        if self.mirror is None or (time.monotonic() < self._next_s and not at_once):
            return
        started = time.monotonic()
        try:
            self._require_ownership()
            self.mirror.push()
        except SourceError as error:  # `push` retries at the end of the run
            _log.warning("Cannot upload the run %s now, retrying after a later epoch: %s", self.folder.name, error)
        self._next_s = time.monotonic() + (_SHARE - 1) * (time.monotonic() - started)

    def _require_ownership(self) -> None:
        assert self.mirror is not None
        if self._owns and self.mirror.read(OWNER) != self._token.encode():
            raise RemixStudyError(f"Another process has resumed the run {self.folder.name}. This process ends.")

    def wrap_callback(self, callback: EpochCallback | None) -> EpochCallback | None:
        """Return a callback that uploads the run folder after each epoch and then calls `callback`."""
        if self.mirror is None:
            return callback

        def push_and_call(history: Sequence[Record]) -> None:
            self.push_if_due()
            if callback is not None:
                callback(history)

        return push_and_call


@contextmanager
def working_copy(folder: Path, url: str | None) -> Iterator[WorkingCopy]:
    """Yield the working copy of a run; nested and concurrent uses in one process share it.

    Args:
        folder: the run folder, or its place in the driver's copy of a remote workspace.
        url: the URL of the run folder; None if the workspace is on a disk.
    """
    if url is None:
        yield WorkingCopy(folder)
        return
    copy = _copies.get(url)
    if copy is None:
        place = scratch() / "runs" / hashlib.sha256(url.encode()).hexdigest()[:16] / folder.name
        copy = _copies[url] = WorkingCopy(place, Mirror(url, place))
    copy._users += 1
    try:
        yield copy
    finally:
        copy._users -= 1
        if copy._users == 0:
            del _copies[url]
            shutil.rmtree(copy.folder.parent, ignore_errors=True)


def _is_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")
