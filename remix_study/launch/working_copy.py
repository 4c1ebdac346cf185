"""The folder in which a process works on a run: the run's own, or a copy of it where the workspace is at a URL

A copy is pulled before the work, pushed while it goes on, and removed after it: machines come and go, and what a run
needs to go on elsewhere is at the URL. Of two processes that work on one run, the later one has it: a worker whose
driver was killed lives on for some seconds, and must not write over the one that took its run up.
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
from remix_study.files.mirror import OWNER, Mirror, patiently
from remix_study.files.scratch import scratch
from remix_study.launch.folder import CHECKPOINTS
from remix_study.training.loop import EpochCallback
from remix_study.training.state import Record

_SHARE = 10  # pushing takes at most so small a part of the time
_log = logging.getLogger(__name__)
_copies: dict[str, "WorkingCopy"] = {}  # of this process, by the run's URL


@dataclass
class WorkingCopy:
    """`folder` is where to work; the methods do nothing where that is the run's own."""

    folder: Path
    mirror: Mirror | None = None
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _owns: bool = False
    _next_s: float = 0.0
    _users: int = 0

    def pull(self, *, checkpoints: bool = True) -> None:
        """Bring here what the run has left so far.

        Raises:
            SourceError: the service does not answer or refuses.
        """
        if self.mirror is not None:
            self.mirror.pull(skip=None if checkpoints else _is_checkpoint)

    def take(self) -> None:
        """From now on the run is this process's."""
        if self.mirror is not None:
            self.mirror.write(OWNER, self._token.encode())
            self._owns = True

    def push(self) -> None:
        """All of it, now.

        Raises:
            RemixStudyError: another process has the run.
            SourceError: the service does not take it, for minutes.
        """
        if self.mirror is None:
            return
        started = time.monotonic()
        self._require_ours()
        patiently(self.mirror.push, threading.Event().wait)
        self._next_s = time.monotonic() + (_SHARE - 1) * (time.monotonic() - started)

    def push_if_due(self, *, at_once: bool = False) -> None:
        """After an epoch, unless that would take too much of the time; a service that is down is asked later."""
        if self.mirror is None or (time.monotonic() < self._next_s and not at_once):
            return
        started = time.monotonic()
        try:
            self._require_ours()
            self.mirror.push()
        except SourceError as error:  # the end of the run insists
            _log.warning("the run %s is not pushed now: %s", self.folder.name, error)
        self._next_s = time.monotonic() + (_SHARE - 1) * (time.monotonic() - started)

    def _require_ours(self) -> None:
        assert self.mirror is not None
        if self._owns and self.mirror.read(OWNER) != self._token.encode():
            raise RemixStudyError(f"the run {self.folder.name} has been taken up by another process, which goes on.")

    def wrap_callback(self, callback: EpochCallback | None) -> EpochCallback | None:
        """`callback`, told after the epoch was pushed."""
        if self.mirror is None:
            return callback

        def push_and_judge(history: Sequence[Record]) -> None:
            self.push_if_due()
            if callback is not None:
                callback(history)

        return push_and_judge


@contextmanager
def working_copy(folder: Path, home: str | None) -> Iterator[WorkingCopy]:
    """Of the run in `folder`, at the URL `home` if there is one; the same one for all of this process."""
    if home is None:
        yield WorkingCopy(folder)
        return
    copy = _copies.get(home)
    if copy is None:
        place = scratch() / "runs" / hashlib.sha256(home.encode()).hexdigest()[:16] / folder.name
        copy = _copies[home] = WorkingCopy(place, Mirror(home, place))
    copy._users += 1
    try:
        yield copy
    finally:
        copy._users -= 1
        if copy._users == 0:
            del _copies[home]
            shutil.rmtree(copy.folder.parent, ignore_errors=True)


def _is_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")
