"""The connection to a cluster's dashboard, and running Ray's command-line tools"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console

from remix_study.errors import RemixStudyError
from remix_study.patience import PATIENCE
from remix_study.ports import reserved

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import ClusterFile
    from remix_study.cluster.dashboard import Dashboard

err = Console(stderr=True)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NO_HEAD = re.compile(r"Head node of cluster \(.*?\) not found", re.DOTALL)
_FORWARD_TIMEOUT_S = PATIENCE.port_forward_s  # Ray retries ssh for two minutes
_POLL_S = 0.2
_TERMINATE_TIMEOUT_S = 5.0


class Connection:
    """A connection to a cluster's dashboard, as a context manager.

    With a cluster file, it forwards the dashboard's port from the head to this machine. The forwarding process ends
    with the context.

    Args:
        cluster_file: the cluster; None to use `address`.
        address: URL of a dashboard that is reachable already.
    """

    def __init__(self, cluster_file: "ClusterFile | None", address: str | None) -> None:
        self.cluster_file = cluster_file
        self.url = "" if address is None else address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Connection":
        self.reconnect()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def dashboard(self) -> "Dashboard":
        from remix_study.cluster.dashboard import Dashboard

        return Dashboard(self.url)

    def reconnect(self) -> None:
        """Start forwarding the port, unless it is forwarded and the dashboard responds.

        Raises:
            RemixStudyError: the cluster is not running, or cannot be reached.
        """
        if self.cluster_file is None:
            return
        if self._process is not None and self._process.poll() is None and _responds(self.url):
            return
        self._close()
        from remix_study.cluster.commands import forward_command

        with reserved("127.0.0.1", 0) as port, tempfile.TemporaryFile() as output:
            words = forward_command(self.cluster_file, port)
            show_command(words)
            self.url = f"http://127.0.0.1:{port}"
            self._forward(words, output)

    def _forward(self, words: Sequence[str], output: IO[bytes]) -> None:
        assert self.cluster_file is not None
        with err.status("connecting to the head"):
            self._process = subprocess.Popen(
                resolve(words), env=ray_environment(), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                reached = self._wait_for_dashboard(self._process)
            except BaseException:  # such as Ctrl-C: do not leave the process behind
                self._close()
                raise
            if not reached:
                ended = self._process.poll() is not None
                self._close()
                output.seek(0)
                text = output.read().decode(errors="replace")
                raise RemixStudyError(unreachable_message(self.cluster_file, text, ended=ended))

    def _wait_for_dashboard(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether the dashboard responds; polls, because the forwarding process does not report that it is ready."""
        pause, end = threading.Event(), time.monotonic() + _FORWARD_TIMEOUT_S
        while process.poll() is None and time.monotonic() < end:
            if _responds(self.url):
                return True
            pause.wait(_POLL_S)
        return False

    def _close(self) -> None:
        if self._process is not None:
            terminate(self._process)
            self._process = None


def unreachable_message(cluster_file: "ClusterFile", output: str, *, ended: bool) -> str:
    """The error message for a head that cannot be reached.

    Args:
        cluster_file: the cluster.
        output: output of Ray's command.
        ended: whether that command has ended, rather than been stopped after the timeout.
    """
    if NO_HEAD.search(output):
        return f"Cluster {cluster_file.name} has no running head. Start it with: {cluster_file.up}"
    if not ended:
        return (
            f"The dashboard did not respond within {_FORWARD_TIMEOUT_S:.0f} s on port {cluster_file.dashboard_port} of "
            f"the head of cluster {cluster_file.name}. Check `ray exec {cluster_file.argument} 'ray status'`, or "
            f"restart the cluster with: {cluster_file.up}"
        )
    return (
        f"Cannot reach the head of cluster {cluster_file.name} over ssh. `ray dashboard` failed: "
        f"{last_message(output)} Fix that, or start the cluster with: {cluster_file.up}"
    )


def _responds(url: str) -> bool:
    """Whether a dashboard responds, even with an error such as a missing token."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=_TERMINATE_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as refused:
        refused.close()
        return True
    except OSError:
        return False
    return True


def show_command(words: Sequence[str]) -> None:
    """Print a command to standard error as a line that can be pasted into a terminal."""
    from remix_study.cluster.commands import shell_line

    err.print(f"$ {shell_line(words, os.environ)}", markup=False, highlight=False, soft_wrap=True, style="dim")


def tell(message: str) -> None:
    """Print a message to standard error, without formatting."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def resolve(words: Sequence[str]) -> list[str]:
    """The command with the path of its executable, from PATH or from the folder of this Python interpreter.

    Raises:
        RemixStudyError: it is in neither.
    """
    beside_python = Path(sys.executable).with_name(words[0])
    found = shutil.which(words[0]) or (str(beside_python) if beside_python.exists() else None)
    if found is None:
        raise RemixStudyError(
            f"Command `{words[0]}` not found on the PATH. Activate the environment in which remix_study is installed."
        )
    return [found, *words[1:]]


def ray_environment() -> dict[str, str]:
    """The environment for Ray's commands: unbuffered, and without variables that would override `--address`."""
    from remix_study.cluster.dashboard import OVERRIDING_VARIABLES

    return {**{k: v for k, v in os.environ.items() if k not in OVERRIDING_VARIABLES}, "PYTHONUNBUFFERED": "1"}


def terminate(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """End a process that has its own session, with all its children: SIGTERM, then SIGKILL."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(_TERMINATE_TIMEOUT_S)
                return
            except subprocess.TimeoutExpired:
                continue


def last_message(*outputs: str) -> str:
    """The last informative line of the first output that has one, without the frames of a traceback."""
    for output in outputs:
        lines = [line.strip() for line in ANSI.sub("", output).splitlines()]
        messages = [line for line in lines if re.search(r"\w", line) and not line.startswith(("File ", "^", "~"))]
        if messages:
            return f"{messages[-1][:400].rstrip('.')}."
    return "no output."
