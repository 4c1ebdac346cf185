"""Run `remix-study serve` or `remix-study ui` in a separate process"""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import commands

_ADDRESS = re.compile(r"(?:export MLFLOW_TRACKING_URI=|charts +)(\S+)\n")
_LAST_S = 5.0  # a killed process may take this long to end
USER, PASSWORD = "boss", "twelve letters % and more"


class Served:
    """A process that runs `remix-study serve` or `ui`.

    Args:
        folder: working directory; the output is written to files in it.
        arguments: arguments of the command.
        command: `serve` or `ui`.
        before: words before the command, such as `nohup`.
    """

    def __init__(self, folder: Path, *arguments: str, command: str = "serve", before: tuple[str, ...] = ()) -> None:
        self._stdout, self._stderr = folder / "serve.out", folder / "serve.err"
        self.process: commands.Command | subprocess.Popen[bytes]
        arguments, env = ("-m", "remix_study", command, "--port", "0", *arguments), os.environ | {"COLUMNS": "200"}
        with self._stdout.open("w") as out, self._stderr.open("w") as err:
            if before:
                self.process = subprocess.Popen(
                    [*before, sys.executable, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True, env=env,
                )  # fmt: skip
            else:
                self.process = commands.start(*arguments, cwd=folder, env=env, stdout=out, stderr=err)

    def __str__(self) -> str:
        return self._stdout.read_text() + self._stderr.read_text()

    def up(self) -> "Served":
        """Wait until the server has printed its address."""
        while not _ADDRESS.search(self._stdout.read_text()):
            try:
                # Polling: there is no event for a file that another process writes.
                self.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"ended with {self.process.returncode}: {self}")
        return self

    @property
    def url(self) -> str:
        """Return the tracking URI that `serve` prints, or the last link that `ui` prints."""
        found = _ADDRESS.search(self._stdout.read_text())
        assert found is not None
        return found[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def process_ids(self) -> list[int]:
        """Return the ids of the process and all its descendants: MLflow's server and its workers."""
        found = [self.process.pid]
        for pid in found:  # grows during the iteration
            found += [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def end(self, signal_: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the process, and return its exit status. Assert that no descendant is left."""
        descendants: dict[int, int] = {}  # process id by pidfd, which is ready when the process has ended
        if self.process.poll() is None:
            descendants = {os.pidfd_open(pid): pid for pid in self.process_ids if pid != self.process.pid}
            self.process.send_signal(signal_)
        status = self.process.wait(60)
        left = []
        for handle, pid in descendants.items():
            # Those that were killed last end a moment after the process.
            if not select.select([handle], [], [], _LAST_S)[0]:
                left.append(pid)
                os.kill(pid, signal.SIGKILL)
            os.close(handle)
        assert left == []
        return status


@contextmanager
def serving(folder: Path, *arguments: str, **options: Any) -> Iterator[Served]:
    """Run a server for the duration of the block. The arguments are those of `Served`."""
    folder.mkdir(exist_ok=True)
    served = Served(folder, *arguments, **options)
    try:
        yield served
    finally:
        served.end()
