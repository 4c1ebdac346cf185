"""Ray's own commands, shown as they may be copied into a terminal, and the way to a cluster's dashboard"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from remix_study.errors import RemixStudyError

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import Launcher
    from remix_study.cluster.dashboard import Dashboard

err = Console(stderr=True)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NO_HEAD = re.compile(r"Head node of cluster \(.*?\) not found", re.DOTALL)
_FORWARD_PATIENCE_S = 150.0  # Ray's ssh tries for two minutes
_LOOK_S, _END_S = 0.2, 5.0


class Link:
    """The way to a cluster's dashboard: an address, or a forward to its head that lasts as long as the block."""

    def __init__(self, launcher: "Launcher | None", address: str | None) -> None:
        self.launcher = launcher
        self.url = "" if address is None else address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Link":
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def dashboard(self) -> "Dashboard":
        from remix_study.cluster.dashboard import Dashboard

        return Dashboard(self.url)

    def renew(self) -> None:
        """Make the forward, or make it again where it has ended.

        Raises:
            RemixStudyError: the cluster is not up, or cannot be reached.
        """
        if self.launcher is None or (self._process is not None and self._process.poll() is None and _answers(self.url)):
            return
        self._close()
        from remix_study.cluster.commands import forward_words

        port = _free_port()
        words = forward_words(self.launcher, port)
        show(words)
        self.url = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryFile() as said, err.status("reaching the head"):
            self._process = subprocess.Popen(
                executable(words), env=ray_environment(), stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                reached = self._await(self._process)
            except BaseException:  # Ctrl-C, say: the forward ends with us
                self._close()
                raise
            if not reached:
                ended = self._process.poll() is not None
                self._close()
                said.seek(0)
                raise RemixStudyError(unreached(self.launcher, said.read().decode(errors="replace"), ended=ended))

    def _await(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether the forward leads to a dashboard; a process of another program says so by answering alone."""
        pause, end = threading.Event(), time.monotonic() + _FORWARD_PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            if _answers(self.url):
                return True
            pause.wait(_LOOK_S)
        return False

    def _close(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None


def unreached(launcher: "Launcher", said: str, *, ended: bool) -> str:
    if NO_HEAD.search(said):
        return f"the cluster {launcher.name} must be up, but has no head that runs. Start it with: {launcher.up}"
    if not ended:
        return (
            f"the dashboard must answer at port {launcher.dashboard_port} of the head of {launcher.name}, but does not "
            f"within {_FORWARD_PATIENCE_S:.0f} s. See `ray exec {launcher.word} 'ray status'`, or start the cluster "
            f"again with: {launcher.up}"
        )
    return (
        f"the head of {launcher.name} must be reached by ssh, but `ray dashboard` ends: {last_words(said)} Mend "
        f"that, or start the cluster with: {launcher.up}"
    )


def _answers(url: str) -> bool:
    """Whether a dashboard is there, even one that asks for a token."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=_END_S).close()
    except urllib.error.HTTPError as refused:
        refused.close()
        return True
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(words: Sequence[str]) -> None:
    from remix_study.cluster.commands import shown_words

    err.print(f"$ {shown_words(words, os.environ)}", markup=False, highlight=False, soft_wrap=True, style="dim")


def say(words: str) -> None:
    err.print(words, markup=False, highlight=False, soft_wrap=True)


def executable(words: Sequence[str]) -> list[str]:
    """With `ray` as its file: that of the PATH, or that beside our Python where no environment is activated.

    Raises:
        RemixStudyError: there is neither.
    """
    beside = Path(sys.executable).with_name(words[0])
    found = shutil.which(words[0]) or (str(beside) if beside.exists() else None)
    if found is None:
        raise RemixStudyError(
            f"the command `{words[0]}` must be on the PATH, but is not. Activate the environment of remix_study."
        )
    return [found, *words[1:]]


def ray_environment() -> dict[str, str]:
    """Ours, but for what would be stronger than the address that we give, and with lines that come as they are said."""
    from remix_study.cluster.dashboard import OVERRIDING

    return {**{k: v for k, v in os.environ.items() if k not in OVERRIDING}, "PYTHONUNBUFFERED": "1"}


def end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """With all that it started: it has a session of its own."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(_END_S)
                return
            except subprocess.TimeoutExpired:
                continue


def last_words(*said: str) -> str:
    """The last line that tells something, without a traceback's frames."""
    for text in said:
        lines = [line.strip() for line in ANSI.sub("", text).splitlines()]
        told = [line for line in lines if re.search(r"\w", line) and not line.startswith(("File ", "^", "~"))]
        if told:
            return f"{told[-1][:400].rstrip('.')}."
    return "it says nothing."
