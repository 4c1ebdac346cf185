"""A study whose workspace is at a URL: what its driver, and whoever looks on, have to do about that

The driver holds a lease, a small file at the URL that says who drives the study, and counts on. It pulls what runs push
(working_copy.py), pushes what it writes itself, and sees a stop that was asked for elsewhere. Of all this nothing
happens where the study's folder is its own: there a lock does it, and everybody sees the same files.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from remix_study.errors import SourceError, StudyError
from remix_study.files.disk import holder
from remix_study.files.mirror import LEASE, Mirror, patiently, url_of
from remix_study.files.remote_folder import RemoteFolder
from remix_study.files.urls import shown
from remix_study.launch.folder import CHECKPOINTS
from remix_study.study.storage import STOP

Say = Callable[[str], None]
_PERIOD_S, _BEAT_S = 5.0, 10.0
_SILENCE_S = 3 * _BEAT_S  # of a driver that is watched: then it is gone
_FRESH_S = 90.0  # for who only looks, and must rely on clocks
_RUNS = "runs"
_ELSEWHERE = ("tune/", "ray_train/")  # Ray's own notes, of no use to anybody else
_log = logging.getLogger(__name__)


def _is_left_out(path: str) -> bool:
    return path.startswith(_ELSEWHERE) or f"/{CHECKPOINTS}/" in path


class RemoteWorkspace:
    """The study in `folder`, while this process drives it; `remote_workspace` makes one."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder, self.url = folder, url
        self._mirror = None if url is None else Mirror(url, folder, skip=_is_left_out)
        self._token = uuid.uuid4().hex
        self._beat = 0
        self._beat_s = 0.0
        self._at_work: list[str] = []  # names of runs
        self._ended = threading.Event()
        self._taken_by: str | None = None
        self._late = False
        self._thread = threading.Thread(target=self._work, name="home", daemon=True)

    # --- for the driver ----------------------------------------------------------------------------------------------

    def watch(self, run_folder: Path) -> None:
        """A run is at work somewhere: what it pushes is pulled from now on."""
        if self._mirror is not None and run_folder.name not in self._at_work:
            self._at_work.append(run_folder.name)

    def fetch(self, run_folder: Path) -> None:
        """A run has ended: all of it is here when this returns, but for its checkpoints.

        Raises:
            SourceError: the service does not answer or refuses, for minutes.
        """
        if self._mirror is None:
            return
        if run_folder.name in self._at_work:
            self._at_work.remove(run_folder.name)
        patiently(partial(self._mirror.pull, f"{_RUNS}/{run_folder.name}"), self._ended.wait)

    def require_ours(self) -> None:
        """
        Raises:
            StudyError: another process drives the study now; this one was out of reach for too long.
        """
        if self._taken_by is not None:
            raise StudyError(
                f"this process must drive the study, but process {self._taken_by} does: this one did not reach "
                f"{shown(str(self.url))} for {_SILENCE_S:.0f} s. What is done is kept; the other one goes on."
            )

    def push(self) -> None:
        """All that has changed here.

        Raises:
            SourceError: the service does not take it, for minutes.
        """
        if self._mirror is not None:
            patiently(self._mirror.push, self._ended.wait)

    # --- its life ----------------------------------------------------------------------------------------------------

    def begin(self, say: Say) -> None:
        """
        Raises:
            StudyError: another process drives the study.
            SourceError: the service does not answer or refuses.
        """
        assert self._mirror is not None
        self._take(say)
        self._mirror.remove(STOP)  # which ended the start before; from now on it is looked for
        self._mirror.pull()
        self._thread.start()

    def end(self) -> None:
        assert self._mirror is not None
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._taken_by is None:
            self._ended.clear()  # the pauses between tries of the last push are real ones
            self.push()
            self._mirror.remove(LEASE)
        self._mirror.close()

    def _take(self, say: Say) -> None:
        assert self._mirror is not None
        found = self._mirror.read(LEASE)
        known = _lease(found)
        if known is not None and known.get("machine") != _machine(self.folder):  # of this machine the lock tells
            say(f"process {known['by']} drove this study; looking for {_SILENCE_S:.0f} s whether it still does")
            end = time.monotonic() + _SILENCE_S
            # It is another machine's, which writes a file now and then: there is no event to await.
            while time.monotonic() < end and not self._ended.wait(min(1.0, _BEAT_S / 4)):
                now = self._mirror.read(LEASE)
                if now is None:
                    break
                if now != found:
                    raise StudyError(
                        f"one process at a time may drive the study at {shown(str(self.url))}, and process "
                        f"{known['by']} does. Wait for it, or `remix-study stop` it."
                    )
        self._tell()

    def _tell(self) -> None:
        assert self._mirror is not None
        self._beat += 1
        machine, at = _machine(self.folder), time.time()
        content = {"by": _me(), "machine": machine, "token": self._token, "beat": self._beat, "at": at}
        self._mirror.write(LEASE, json.dumps(content).encode())
        self._beat_s = time.monotonic() + _BEAT_S

    def _work(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            try:
                self._round()
                self._late = False
            except SourceError as error:
                if not self._late:
                    _log.warning("%s The study goes on, and is pushed later.", error)
                self._late = True
            except Exception:  # a disk that fails, say: whatever it is, the runs still to come need this thread
                _log.exception("looking after the study at %s stumbled, and goes on", shown(str(self.url)))

    def _round(self) -> None:
        assert self._mirror is not None
        self._say_that_we_live()
        if not (self.folder / STOP).exists() and self._mirror.read(STOP) is not None:
            (self.folder / STOP).touch()
        for name in list(self._at_work):
            self._say_that_we_live()  # a thousand runs take a while
            if self._ended.is_set():
                return
            self._mirror.pull(f"{_RUNS}/{name}")
            self._mirror.push(f"{_RUNS}/{name}")  # what the sender noted
        for below in ("tracking", "report"):
            self._mirror.push(below)
        self._mirror.push(flat=True)

    def _say_that_we_live(self) -> None:
        assert self._mirror is not None
        if time.monotonic() < self._beat_s:
            return
        found = _lease(self._mirror.read(LEASE))
        if found is not None and found.get("token") != self._token:
            self._taken_by = str(found.get("by"))
            self._ended.set()
            return
        self._tell()


@contextmanager
def remote_workspace(folder: Path, say: Say) -> Iterator[RemoteWorkspace]:
    """For the process that holds the lock in `folder`.

    Raises:
        StudyError: another machine's process drives the study.
        SourceError: the workspace's service does not answer or refuses.
    """
    home = RemoteWorkspace(folder, url_of(folder))
    if home.url is None:
        yield home
        return
    home.begin(say)
    try:
        yield home
    finally:
        home.end()


# --- for who looks on --------------------------------------------------------------------------------------------


def look_in(folder: Path, *, whole: bool = True, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Bring here what of a study is to be read. whole: also its runs, but for their checkpoints and tracking.

    Raises:
        SourceError: the workspace's service does not answer or refuses.
    """
    url = url_of(folder)
    if url is None or holder(folder / "lock") is not None:  # whoever drives it here keeps the copy up to date
        return
    mirror = Mirror(url, folder, skip=lambda path: _is_left_out(path) or path.startswith("tracking/"))
    mirror.pull(skip=lambda path: "/tracking/" in path, flat=not whole, restore=True, on_progress=on_progress)
    mirror.close()


def driver_of(folder: Path) -> str | None:
    """Who drives the study in `folder` now: a process id of this machine, or machine and process; None: nobody."""
    here = holder(folder / "lock")
    url = url_of(folder)
    if here is not None or url is None:
        return here
    found = _lease(RemoteFolder(url).content(LEASE))
    if found is None or time.time() - float(found.get("at", 0)) > _FRESH_S:
        return None
    return str(found.get("by"))


def leave_stop(folder: Path) -> None:
    """Ask the driver, wherever it is, to stop."""
    url = url_of(folder)
    if url is None:
        (folder / STOP).touch()
    else:
        RemoteFolder(url).put(STOP, b"")


def stop_asked(folder: Path, url: str | None) -> bool:
    """Whether the study in `folder`, or at `url`, was asked to stop; a service that does not answer says nothing."""
    if url is None:
        return (folder / STOP).exists()
    try:
        return RemoteFolder(url).content(STOP) is not None
    except SourceError as error:
        _log.warning("whether the study shall stop cannot be seen now: %s", error)
        return False


def _lease(content: bytes | None) -> dict[str, Any] | None:
    try:
        found = None if content is None else json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _me() -> str:
    return f"{os.getpid()} of {socket.gethostname()}"


def _machine(folder: Path) -> str:
    """The same for all processes that share the lock in this machine's copy."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else uuid.getnode()} {folder}"
