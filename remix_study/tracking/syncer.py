"""Thread of the study's driver that sends the spools of all its runs to MLflow

The thread checks the spool of every active run about once a second. While the server is down, the runs keep training,
the spools grow, and the thread retries after 1, 2, 4 ... 30 seconds. Data that is unsent when the study ends is sent
when the study is started again.

Once the end of a run is sent, the thread drops the run until it is watched again, and checks it once more when the
study ends: a large study has a hundred ended runs for each active one.
"""

import logging
import threading
from pathlib import Path
from types import TracebackType

from remix_study.credentials import redact
from remix_study.patience import PATIENCE
from remix_study.tracking.address import explain
from remix_study.tracking.mlflow import Sender
from remix_study.tracking.spool import Spool

_PERIOD_S = PATIENCE.tracking_period_s
_log = logging.getLogger(__name__)


class Syncer:
    """Sends the spools of the run folders that it watches.

    Use as `with Syncer(uri, parent=study_folder) as syncer: syncer.watch(run_folder)`.

    Args:
        uri: tracking URI.
        parent: the study's folder. It is watched from the beginning, and its MLflow run is the parent of all others.
        period_s: seconds between two checks.
    """

    def __init__(self, uri: str, *, parent: Path | None = None, period_s: float = _PERIOD_S) -> None:
        self._uri = uri
        self._parent = None if parent is None else parent.resolve()
        self._period_s = period_s
        self._pause_s = period_s
        self._senders: dict[Path, Sender] = {}
        self._ended: dict[Path, int] = {}  # size of the spool when its end was sent
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
        if not self._abandoned:  # or a thread that waits for a locked database would be waited for twice
            self.close()

    def watch(self, folder: Path) -> None:
        """Send all data of a run until its end. Data written later is sent after another `watch` or at `close`."""
        folder = folder.resolve()
        with self._lock:
            self._ended.pop(folder, None)
            if folder not in self._senders:
                self._senders[folder] = Sender(self._uri, folder, parent=self._parent)

    def watch_unsent(self, runs: Path) -> int:
        """Watch the run folders in `runs` that have unsent data of a former process, and return their number."""
        left = [folder for folder in sorted(runs.glob("*")) if Sender(self._uri, folder).has_unsent]
        for folder in left:
            self.watch(folder)
        return len(left)

    def wake(self) -> None:
        """Check all spools now, unless the server is down."""
        if not self._late:
            self._woken.set()

    def close(self, patience_s: float = 20.0) -> int:
        """Send the remaining data for at most `patience_s` seconds; return the number of folders with unsent data."""
        self._rewatch_changed()
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
            last = self._closing  # an earlier round may have checked before the last lines were written
            try:
                arrived = self._round()
            except Exception:  # such as a failing disk; later runs need this thread
                _log.exception("Error while sending tracking data. Retrying.")
                arrived = False
            if arrived and last:
                return

    def _round(self) -> bool:
        """Send all unsent data, and return whether everything was sent."""
        arrived, sent = True, False
        for folder, sender in self._watched():
            if self._abandoned:
                return False
            size = sender.size  # read first: `_rewatch_changed` finds what is written later
            if not sender.has_unsent:
                if sender.ended and folder != self._parent:
                    self._leave(folder, size)
                continue
            try:
                complete = sender.send()
            except Exception as error:  # whatever fails is retried, and the thread must not end
                self._failed(folder, sender, error, alone=sent)
                return False
            arrived &= complete
            sent |= complete
        self._pause_s = self._period_s
        if sent and self._late:
            self._late = False
            _log.warning("%s accepts tracking data again. Nothing was lost.", redact(self._uri))
        return arrived

    def _failed(self, folder: Path, sender: Sender, error: Exception, *, alone: bool) -> None:
        with self._lock:
            # Try this run last in the next round, since its error may not concern the others.
            del self._senders[folder]
            self._senders[folder] = sender
        if not alone:
            self._pause_s = min(max(1.0, 2 * self._pause_s), PATIENCE.tracking_longest_pause_s)
        if not self._late:
            self._late = True
            _log.warning(
                "%s does not accept tracking data (%s). Keeping it in %s and retrying.",
                redact(self._uri),
                explain(self._uri, error),
                folder / "tracking",
            )

    def _leave(self, folder: Path, size: int) -> None:
        with self._lock:
            del self._senders[folder]
            self._ended[folder] = size

    def _rewatch_changed(self) -> None:
        """Watch the ended runs again whose spools have grown since."""
        with self._lock:
            ended = list(self._ended.items())
        for folder, size in ended:
            if Spool(folder / "tracking").size != size:
                self.watch(folder)

    def _watched(self) -> list[tuple[Path, Sender]]:
        with self._lock:
            return list(self._senders.items())
