"""The lease of a study's driver, the process that runs it: only one of several drivers on several machines continues

A lease is a small file in the study's folder, or at its URL. It names the driver, which rewrites it regularly. The lock
of the folder (files/disk.py) admits one driver per machine. It also works between machines on most shared disks, but
not on all, and a machine that loses its connection to the disk may lose the lock without noticing.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from remix_study.errors import UnavailableError
from remix_study.files.command_line import own_command
from remix_study.files.disk import write_atomically
from remix_study.files.mirror import LEASE
from remix_study.patience import PATIENCE
from remix_study.study.storage import workspace_of

Say = Callable[[str], None]
_BEAT_S = PATIENCE.lease_beat_s
_SILENCE_S = PATIENCE.lease_silence_s  # without a heartbeat, after which another process may take over
_FRESH_S = PATIENCE.lease_fresh_s  # age of a lease that readers, who compare clocks, still believe
_log = logging.getLogger(__name__)


class Place(Protocol):
    """Where a lease is kept: a folder, or a remote folder (`Mirror`)."""

    def read(self, path: str) -> bytes | None:
        """The content of a file; None if it does not exist."""

    def write(self, path: str, content: bytes) -> None:
        """Replace a file."""

    def remove(self, path: str) -> None:
        """Delete a file, if it exists."""


class FolderPlace:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        write_atomically(self._folder / path, content)

    def remove(self, path: str) -> None:
        (self._folder / path).unlink(missing_ok=True)


class Lease:
    """The lease of this process.

    Args:
        folder: the study's folder on this machine.
        place: where the lease is kept.
        shown: the location of the study, for messages.
        wait: called with seconds to wait.
    """

    def __init__(self, folder: Path, place: Place, shown: str, wait: Callable[[float], object] = time.sleep) -> None:
        self._folder, self._place, self._shown, self._wait = folder, place, shown, wait
        self._token = uuid.uuid4().hex
        self._beat = 0
        self._beat_s = 0.0
        self.taken_by: str | None = None

    def take(self, say: Say) -> None:
        """Take the lease. If a process of another machine holds it, first check for a while whether it renews it.

        Raises:
            UnavailableError: another process runs the study.
        """
        found = self._place.read(LEASE)
        known = parse(found)
        if known is not None and known.get("machine") != machine_id(self._folder):  # on this machine the lock decides
            say(f"Process {known['by']} has run this study. Checking for {_SILENCE_S:.0f} s whether it still does.")
            end = time.monotonic() + _SILENCE_S
            # Polls, because a file that another machine rewrites is no event that can be awaited.
            while time.monotonic() < end:
                self._wait(min(1.0, _BEAT_S / 4))
                now = self._place.read(LEASE)
                if now is None:
                    break
                if now != found:
                    stop = own_command("stop", self._folder.name, workspace=workspace_of(self._folder))
                    raise UnavailableError(
                        f"Cannot run the study at {self._shown}: process {known['by']} runs it. Wait for it, or stop "
                        f"it with `{stop}`."
                    )
        self._renew()

    def keep(self) -> bool:
        """Renew the lease if it is due; return False if another process has taken it."""
        if self.taken_by is None and time.monotonic() >= self._beat_s and self.check():
            self._renew()
        return self.taken_by is None

    def check(self) -> bool:
        """Return whether this process still holds the lease."""
        found = parse(self._place.read(LEASE))
        if found is not None and found.get("token") != self._token:
            self.taken_by = str(found.get("by"))
        return self.taken_by is None

    def require(self) -> None:
        """Check that no other process was found to hold the lease.

        Raises:
            UnavailableError: another process has taken over the study, because this one could not renew its lease.
        """
        if self.taken_by is not None:
            raise UnavailableError(
                f"Process {self.taken_by} has taken over the study, because this process did not reach "
                f"{self._shown} for {_SILENCE_S:.0f} s. Finished runs are kept; the other process continues."
            )

    def give_up(self) -> None:
        """Remove the lease, unless another process has taken it."""
        if self.taken_by is None:
            self._place.remove(LEASE)

    def _renew(self) -> None:
        self._beat += 1
        content = {
            "by": f"{os.getpid()} of {socket.gethostname()}",
            "machine": machine_id(self._folder),
            "token": self._token,
            "beat": self._beat,
            "at": time.time(),
        }
        self._place.write(LEASE, json.dumps(content).encode())
        self._beat_s = time.monotonic() + _BEAT_S


@contextmanager
def lease_on_disk(folder: Path, say: Say) -> Iterator[Lease]:
    """Hold the lease of the study in `folder` during the block, and renew it in a thread.

    Raises:
        UnavailableError: a process of another machine runs the study.
    """
    ended = threading.Event()
    lease = Lease(folder, FolderPlace(folder), str(folder))

    def work() -> None:
        late = False
        while not ended.wait(_BEAT_S):
            try:
                if not lease.keep():
                    return
                late = False
            except OSError as error:
                if not late:
                    _log.warning("Cannot renew the lease of the study in %s: %s. It is tried again.", folder, error)
                late = True

    lease.take(say)
    thread = threading.Thread(target=work, name="study-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):  # a lost disk must not hide how the study ended; the lease then expires
            if lease.check():
                lease.give_up()


def parse(content: bytes | None) -> dict[str, Any] | None:
    """The content of a lease; None if it is missing or damaged."""
    try:
        found = None if content is None else json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def fresh(content: bytes | None) -> dict[str, Any] | None:
    """The content of a lease, unless it is too old for a driver that still runs."""
    found = parse(content)
    if found is None or time.time() - float(found.get("at", 0)) > _FRESH_S:
        return None
    return found


def machine_id(folder: Path) -> str:
    """An id that is equal for all processes that share the lock in this machine's folder."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else uuid.getnode()} {folder}"
