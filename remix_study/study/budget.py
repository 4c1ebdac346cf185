"""The budget of a study: hours used over all its starts, and whether a limit is reached

CPU and GPU hours follow from the durations of runs, which their folders record. The clock counts while a process runs
the study, and is written to a file regularly, so that a kill loses little.
"""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from remix_study.config.study import BudgetConfig
from remix_study.errors import StudyError
from remix_study.files.disk import write_atomically
from remix_study.patience import PATIENCE

CLOCK = "clock.json"
_HOUR = 3600.0
_NAMES = {"hours": "hours", "cpu_hours": "CPU hours", "gpu_hours": "GPU hours"}


class Used(NamedTuple):
    """Hours used by a study, or by a part of it."""

    hours: float
    cpu_hours: float
    gpu_hours: float

    def limits(self, budget: BudgetConfig) -> dict[str, tuple[float, float]]:
        """The limits of a budget: name -> (used, allowed), in hours."""
        allowed = budget.model_dump()
        return {name: (value, allowed[name]) for name, value in self._asdict().items() if allowed[name] is not None}

    def plus(self, other: "Used") -> "Used":
        """The sum of both."""
        return Used(*(a + b for a, b in zip(self, other, strict=True)))

    def exceeds(self, budget: BudgetConfig) -> str | None:
        """The first limit that is reached, as text; None if none is."""
        for name, (value, allowed) in self.limits(budget).items():
            if value >= allowed:
                return f"{value:.2f} of {allowed:g} {_NAMES[name]}"
        return None


class Rates(NamedTuple):
    """What one run takes: CPUs and GPUs of all its workers; and `at_once`: how many runs share the clock."""

    cpus: float
    gpus: float
    at_once: int

    def used(self, work_s: float, clock_s: float) -> Used:
        """Hours used by runs of `work_s` seconds in total, and by the clock."""
        return Used(clock_s / _HOUR, work_s * self.cpus / _HOUR, work_s * self.gpus / _HOUR)

    def of_runs(self, runs: float, each_s: float) -> Used:
        """Hours that a number of runs of `each_s` seconds will use, `at_once` at a time."""
        return self.used(runs * each_s, math.ceil(runs / max(1, self.at_once)) * each_s)


class Clock:
    """Seconds for which a process has run the study, over all starts; and the current rates of its runs."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        self.rates = rates
        self._path = folder / CLOCK
        self._before, _ = read_clock(folder)
        self._started = time.monotonic()
        self._writing = threading.Lock()

    @property
    def seconds(self) -> float:
        """Seconds over all starts."""
        return self._before + time.monotonic() - self._started

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """In this context, a thread writes the clock to its file every half a minute, also while a long run trains."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(PATIENCE.clock_s):
                with contextlib.suppress(OSError):  # the disk may be full, which the study itself reports
                    self.write()

        thread = threading.Thread(target=write, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def write(self) -> None:
        """Write the clock to its file. Any thread may call this."""
        with self._writing:  # two writers at once would rename the same temporary file
            write_atomically(self._path, json.dumps({"seconds": round(self.seconds, 1), **self.rates._asdict()}))


def read_clock(folder: Path) -> tuple[float, Rates]:
    """The seconds and rates that were written last; 0 seconds for a study that was not started."""
    path = folder / CLOCK
    if not path.exists():
        return 0.0, Rates(1.0, 0.0, 1)
    try:
        content = json.loads(path.read_text())
        return float(content["seconds"]), Rates(content["cpus"], content["gpus"], content["at_once"])
    except (ValueError, TypeError, KeyError) as error:
        raise StudyError(
            f"Cannot read {path}, which records the hours of the study: {error}. Restore it, or delete it; its former "
            "hours are then not counted."
        ) from error
