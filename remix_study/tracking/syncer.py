"""The one who sends what all runs of a study have written

A thread of the study's driver looks into the spool of every run at work about once a second. While the server is down
the runs train on, the spools grow, and the thread asks again after 1, 2, 4 ... 30 seconds. What is still waiting when
the study ends is sent at its next start.

A run that has ended, and whose end has arrived, is only looked at again when it is watched anew, and once when the
study ends: a large study has a hundred ended runs for each that is at work.
"""

import logging
import threading
from pathlib import Path
from types import TracebackType

from remix_study.credentials import redact
from remix_study.tracking.address import explain
from remix_study.tracking.mlflow import Sender
from remix_study.tracking.spool import Spool

_PERIOD_S, _LONGEST_PAUSE_S = 1.0, 30.0
_log = logging.getLogger(__name__)


class Syncer:
    """`with Syncer(uri, parent=study_folder) as syncer: syncer.watch(run_folder)`

    Args:
        parent: a run folder that is watched from the beginning, and whose MLflow run is the parent of all others.
    """

    def __init__(self, uri: str, *, parent: Path | None = None, period_s: float = _PERIOD_S) -> None:
        self._uri = uri
        self._parent = None if parent is None else parent.resolve()
        self._period_s = period_s
        self._pause_s = period_s
        self._senders: dict[Path, Sender] = {}
        self._ended: dict[Path, int] = {}  # sent to its end: the size of its spool then
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closing = self._abandoned = self._late = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        if self._parent is not None:
            self._senders[self._parent] = Sender(uri, self._parent)

    def __enter__(self) -> "Syncer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def watch(self, folder: Path) -> None:
        """Send what is there and what will be written. What is written after the run's end waits for another `watch`,
        or for `close`.
        """
        folder = folder.resolve()
        with self._lock:
            self._ended.pop(folder, None)
            if folder not in self._senders:
                self._senders[folder] = Sender(self._uri, folder, parent=self._parent)

    def watch_unsent(self, runs: Path) -> int:
        """Watch the run folders in `runs` where a former process left something unsent; how many those are."""
        left = [folder for folder in sorted(runs.glob("*")) if Sender(self._uri, folder).has_unsent]
        for folder in left:
            self.watch(folder)
        return len(left)

    def wake(self) -> None:
        """Something was written that somebody may want to see soon."""
        if not self._late:
            self._woken.set()

    def close(self, patience_s: float = 20.0) -> int:
        """Send what is left, for at most `patience_s`; how many run folders still wait for the next start."""
        self._look_again()
        self._closing = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)
        self._abandoned = True
        self._woken.set()
        return sum(sender.has_unsent for _, sender in self._watched())

    def _work(self) -> None:
        while True:
            self._woken.wait(self._pause_s)
            self._woken.clear()
            if self._abandoned:
                return
            last = self._closing  # a round that began before may have looked before the last lines were written
            try:
                arrived = self._round()
            except Exception:  # a disk that fails, say: whatever it is, the runs still to come need this thread
                _log.exception("tracking stumbled, and goes on")
                arrived = False
            if arrived and last:
                return

    def _round(self) -> bool:
        """Send all that waits; whether nothing waits any more."""
        arrived, sent = True, False
        for folder, sender in self._watched():
            if self._abandoned:
                return False
            size = sender.size  # before the look: what is written after it is found by `_look_again`
            if not sender.has_unsent:
                if sender.ended and folder != self._parent:
                    self._leave(folder, size)
                continue
            try:
                complete = sender.send()
            except Exception as error:
                self._failed(folder, sender, error, alone=sent)
                return False
            arrived &= complete
            sent |= complete
        self._pause_s = self._period_s
        if sent and self._late:
            self._late = False
            _log.warning("%s takes metrics again; nothing is missing", redact(self._uri))
        return arrived

    def _failed(self, folder: Path, sender: Sender, error: Exception, *, alone: bool) -> None:
        with self._lock:
            # Last in the next round: what only this run cannot send must not hold back the others.
            del self._senders[folder]
            self._senders[folder] = sender
        if not alone:
            self._pause_s = min(max(1.0, 2 * self._pause_s), _LONGEST_PAUSE_S)
        if not self._late:
            self._late = True
            _log.warning(
                "%s does not take metrics now (%s); they are kept in %s and sent later",
                redact(self._uri),
                explain(self._uri, error),
                folder / "tracking",
            )

    def _leave(self, folder: Path, size: int) -> None:
        with self._lock:
            del self._senders[folder]
            self._ended[folder] = size

    def _look_again(self) -> None:
        """Into the spools of the runs that have ended: something may have been told of them since."""
        with self._lock:
            ended = list(self._ended.items())
        for folder, size in ended:
            if Spool(folder / "tracking").size != size:
                self.watch(folder)

    def _watched(self) -> list[tuple[Path, Sender]]:
        with self._lock:
            return list(self._senders.items())
