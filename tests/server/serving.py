"""`remix-study serve` or `ui` in a process of its own, as somebody at a terminal starts it"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import commands

_ADDRESS = re.compile(r"(?:export MLFLOW_TRACKING_URI=|charts +)(\S+)\n")
USER, PASSWORD = "boss", "twelve letters % and more"


class Served:
    """`url` is what it says its clients need; of `ui`, the last link."""

    def __init__(self, place: Path, *words: str, command: str = "serve", before: tuple[str, ...] = ()) -> None:
        self._told, self._complained = place / "serve.out", place / "serve.err"
        self.process: commands.Command | subprocess.Popen[bytes]
        words, env = ("-m", "remix_study", command, "--port", "0", *words), os.environ | {"COLUMNS": "200"}
        with self._told.open("w") as out, self._complained.open("w") as err:
            if before:
                self.process = subprocess.Popen(
                    [*before, sys.executable, *words], cwd=place, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True, env=env,
                )  # fmt: skip
            else:
                self.process = commands.start(*words, cwd=place, env=env, stdout=out, stderr=err)

    def __str__(self) -> str:
        return self._told.read_text() + self._complained.read_text()

    def up(self) -> "Served":
        """Returns when it has said its address."""
        while not _ADDRESS.search(self._told.read_text()):
            try:
                # Another process writes the file that is waited for: there is no event. Its end is awaited.
                self.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"ended with {self.process.returncode}: {self}")
        return self

    @property
    def url(self) -> str:
        found = _ADDRESS.search(self._told.read_text())
        assert found is not None
        return found[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def family(self) -> list[int]:
        """Its process, MLflow's, and those that answer."""
        found = [self.process.pid]
        for pid in found:  # grows while it is walked
            found += [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def end(self, way: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status; nothing of it is left."""
        family = []
        if self.process.poll() is None:
            family = self.family
            self.process.send_signal(way)
        status = self.process.wait(60)
        left = [pid for pid in family if Path(f"/proc/{pid}").exists()]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []
        return status


@contextmanager
def serving(place: Path, *words: str, **how: Any) -> Iterator[Served]:
    place.mkdir(exist_ok=True)
    served = Served(place, *words, **how)
    try:
        yield served
    finally:
        served.end()
