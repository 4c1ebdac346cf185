"""Studies in a remote workspace: copies of the study's files, and requests to stop

The driver, the process that runs the study, holds its lease (lease.py). It pulls what runs push (working_copy.py),
pushes what it writes itself, and checks for requests to stop. In a workspace on a disk only the lease is needed,
because all processes see the same files.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from remix_study.errors import SourceError
from remix_study.files.disk import lock_holder
from remix_study.files.mirror import LEASE, Mirror, url_of, with_retries
from remix_study.files.remote_folder import RemoteFolder
from remix_study.files.urls import shown
from remix_study.launch.folder import CHECKPOINTS
from remix_study.patience import PATIENCE
from remix_study.study.lease import FolderPlace, Lease, Say, fresh, lease_on_disk, machine_id
from remix_study.study.storage import STOP

_PERIOD_S = PATIENCE.lease_period_s
_RUNS = "runs"
_RAY_FOLDERS = ("tune/", "ray_train/")  # only used by Ray on this machine
_log = logging.getLogger(__name__)


def _is_left_out(path: str) -> bool:
    return path.startswith(_RAY_FOLDERS) or f"/{CHECKPOINTS}/" in path


class RemoteWorkspace:
    """The lease and the remote files of the study in `folder`, while this process runs it. See `remote_workspace`.

    Args:
        lease: the lease of this process.
        mirror: of the study's folder at its URL; None if the workspace is on a disk. Then there is only the lease.
    """

    def __init__(self, folder: Path, lease: Lease, mirror: Mirror | None = None) -> None:
        self.folder, self._lease, self._mirror = folder, lease, mirror
        self._active: list[str] = []  # names of active runs
        self._ended = threading.Event()
        self._late = False
        self._thread = threading.Thread(target=self._work, name="remote-workspace", daemon=True)

    # --- for the driver ----------------------------------------------------------------------------------------------

    def watch(self, run_folder: Path) -> None:
        """Pull what an active run pushes, from now on."""
        if self._mirror is not None and run_folder.name not in self._active:
            self._active.append(run_folder.name)

    def fetch(self, run_folder: Path) -> None:
        """Pull all files of a run, except its checkpoints, and no longer watch it.

        Raises:
            SourceError: the service has not answered, or has refused, for minutes.
        """
        if self._mirror is None:
            return
        if run_folder.name in self._active:
            self._active.remove(run_folder.name)
        with_retries(partial(self._mirror.pull, f"{_RUNS}/{run_folder.name}"), self._ended.wait)

    def require_lease(self) -> None:
        """Check that this process still runs the study.

        Raises:
            UnavailableError: another process has taken over the study, because this one could not renew its lease.
        """
        if self._mirror is None:
            self._lease.check()  # a disk answers at once
        self._lease.require()

    def push(self) -> None:
        """Push all files that have changed.

        Raises:
            SourceError: the service has not accepted them for minutes.
        """
        if self._mirror is not None:
            with_retries(self._mirror.push, self._ended.wait)

    # --- life cycle --------------------------------------------------------------------------------------------------

    def begin(self, say: Say) -> None:
        """Take the lease, pull the study and start to synchronise it in a thread.

        Raises:
            UnavailableError: another process runs the study.
            SourceError: the service does not answer or refuses.
        """
        assert self._mirror is not None
        self._lease.take(say)
        self._mirror.remove(STOP)  # of the last start
        self._mirror.pull()
        self._thread.start()

    def end(self) -> None:
        """Push the last changes and give up the lease."""
        assert self._mirror is not None
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._lease.taken_by is None:
            self._ended.clear()  # so that the last push waits between its retries
            self.push()
            self._lease.give_up()
        self._mirror.close()

    def _work(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            try:
                self._round()
                self._late = False
            except SourceError as error:
                if not self._late:
                    _log.warning("%s The study continues; its files are pushed later.", error)
                self._late = True
            except Exception:  # whatever fails, later runs need this thread
                _log.exception("Synchronising the study %s with its URL failed; it is retried", self.folder.name)

    def _round(self) -> None:
        assert self._mirror is not None
        self._keep_lease()
        if not (self.folder / STOP).exists() and self._mirror.read(STOP) is not None:
            (self.folder / STOP).touch()
        for name in list(self._active):
            self._keep_lease()  # pulling a thousand runs takes a while
            if self._ended.is_set():
                return
            self._mirror.pull(f"{_RUNS}/{name}")
            self._mirror.push(f"{_RUNS}/{name}")  # what the MLflow syncer recorded there
        for below in ("tracking", "report"):
            self._mirror.push(below)
        self._mirror.push(flat=True)

    def _keep_lease(self) -> None:
        if not self._lease.keep():
            self._ended.set()


@contextmanager
def remote_workspace(folder: Path, say: Say) -> Iterator[RemoteWorkspace]:
    """Hold the lease of the study in `folder` during the block, and keep a workspace at a URL up to date.

    For the process that holds the study's lock.

    Raises:
        UnavailableError: a process on another machine runs the study.
        SourceError: the workspace's service does not answer or refuses.
    """
    url = url_of(folder)
    if url is None:
        with lease_on_disk(folder, say) as lease:
            yield RemoteWorkspace(folder, lease)
        return
    mirror = Mirror(url, folder, skip=_is_left_out)
    remote = RemoteWorkspace(folder, Lease(folder, mirror, shown(url)), mirror)
    remote.begin(say)
    try:
        yield remote
    finally:
        remote.end()


# --- for other processes -----------------------------------------------------------------------------------------


def fetch_study(folder: Path, *, whole: bool = True, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Copy the study of a remote workspace to `folder`, for reading.

    Args:
        whole: also copy its runs, without their checkpoints and tracking files.
        on_progress: called with the number of files that are copied, and of all.

    Raises:
        SourceError: the workspace's service does not answer or refuses.
    """
    url = url_of(folder)
    if url is None or lock_holder(folder / "lock") is not None:  # its driver on this machine keeps the copy up to date
        return
    mirror = Mirror(url, folder, skip=lambda path: _is_left_out(path) or path.startswith("tracking/"))
    mirror.pull(skip=lambda path: "/tracking/" in path, flat=not whole, restore=True, on_progress=on_progress)
    mirror.close()


def driver_of(folder: Path) -> str | None:
    """The process that runs the study in `folder`: its id, followed by its host if that is another one; or None."""
    here = lock_holder(folder / "lock")
    url = url_of(folder)
    if here is not None:
        return here
    found = fresh(FolderPlace(folder).read(LEASE) if url is None else RemoteFolder(url).content(LEASE))
    if found is None or (url is None and found.get("machine") == machine_id(folder)):  # the lock has decided
        return None
    return str(found.get("by"))


def request_stop(folder: Path) -> None:
    """Ask the process that runs the study to stop."""
    url = url_of(folder)
    if url is None:
        (folder / STOP).touch()
    else:
        RemoteFolder(url).put(STOP, b"")


def stop_asked(folder: Path, url: str | None) -> bool:
    """Whether the study in `folder`, or at `url`, was asked to stop; False if the service does not answer."""
    if url is None:
        return (folder / STOP).exists()
    try:
        return RemoteFolder(url).content(STOP) is not None
    except SourceError as error:
        _log.warning("Cannot check whether the study was asked to stop: %s", error)
        return False
