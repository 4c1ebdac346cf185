"""The budget: what a study has used over all its starts, and whether one more run fits

Work is counted in seconds of runs, as their folders have them; hours of CPUs and GPUs follow from what a run takes. The
clock runs while somebody works on the study, and is written down as it goes, so that a kill forgets little.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

from remix_study.config.study import BudgetConfig
from remix_study.files.disk import write_atomically

CLOCK = "clock.json"
_HOUR = 3600.0
_WORDS = {"hours": "hours", "cpu_hours": "CPU hours", "gpu_hours": "GPU hours"}


class Used(NamedTuple):
    """Of a study, or of a part of it; hours."""

    hours: float
    cpu_hours: float
    gpu_hours: float

    def limits(self, budget: BudgetConfig) -> dict[str, tuple[float, float]]:
        """What of `budget` is limited: name -> (used, allowed)."""
        allowed = budget.model_dump()
        return {name: (value, allowed[name]) for name, value in self._asdict().items() if allowed[name] is not None}

    def plus(self, other: "Used") -> "Used":
        return Used(*(a + b for a, b in zip(self, other, strict=True)))

    def exceeds(self, budget: BudgetConfig) -> str | None:
        """The first limit that is reached, in words; None: none is."""
        for name, (value, allowed) in self.limits(budget).items():
            if value >= allowed:
                return (
                    f"{value:.2f} of {allowed:g} {name.replace('_', ' ').replace('cpu', 'CPU').replace('gpu', 'GPU')}"
                )
        return None


class Rates(NamedTuple):
    """What a second of one run costs: CPUs and GPUs of all its workers, and how many runs share the clock."""

    cpus: float
    gpus: float
    at_once: int

    def used(self, work_s: float, clock_s: float) -> Used:
        return Used(clock_s / _HOUR, work_s * self.cpus / _HOUR, work_s * self.gpus / _HOUR)

    def of_runs(self, runs: float, each_s: float) -> Used:
        """What so many runs will use, side by side."""
        return self.used(runs * each_s, runs * each_s / max(1, self.at_once))


class Clock:
    """Seconds that somebody has worked on a study, over all starts; `rates`: what its runs take since this start."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        self.rates = rates
        self._path = folder / CLOCK
        self._before, _ = read_clock(folder)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def write(self) -> None:
        write_atomically(self._path, json.dumps({"seconds": round(self.seconds, 1), **self.rates._asdict()}))


def read_clock(folder: Path) -> tuple[float, Rates]:
    """As it was written last, in seconds, with the rates; 0 for a study that has not begun."""
    path = folder / CLOCK
    if not path.exists():
        return 0.0, Rates(1.0, 0.0, 1)
    content = json.loads(path.read_text())
    return float(content["seconds"]), Rates(content["cpus"], content["gpus"], content["at_once"])
