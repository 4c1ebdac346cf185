"""Measuring in turns, results with their bounds, and a description of the machine"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

T = TypeVar("T")
Verdict = Literal["met", "missed", "not asked", "not measured"]


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        measured: None if it could not be measured; `note` then gives the reason.
        at_most: upper bound. A result without a bound is reported because it explains another one.
        at_least: lower bound.
        unit: `x` for a ratio, `GB` for 1e9 bytes, `s` for seconds.
    """

    name: str
    measured: float | None
    at_most: float | None = None
    at_least: float | None = None
    unit: Literal["x", "GB", "s"] = "x"
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the measured value is within its bounds."""
        if self.measured is None:
            return "not measured"
        if self.at_most is None and self.at_least is None:
            return "not asked"
        above = self.at_least is None or self.measured >= self.at_least
        below = self.at_most is None or self.measured <= self.at_most
        return "met" if above and below else "missed"


@dataclass(frozen=True)
class Machine:
    """The machine that runs the benchmarks.

    Attributes:
        threads: threads of torch.
        load: average number of running processes in the minute before the benchmarks started.
    """

    processor: str
    cores: int
    threads: int
    torch: str
    python: str
    load: float


def this_machine() -> Machine:
    """Describe this machine and its current load."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


def in_turns(methods: Sequence[Callable[[], T]], rounds: int) -> list[tuple[T, ...]]:
    """Call all methods `rounds` times in turns, after one warm-up round, and return their results by round.

    Every other round runs in reverse order, so that no method always follows the same one.
    """
    found = []
    for number in range(rounds + 1):
        order = range(len(methods)) if number % 2 == 0 else reversed(range(len(methods)))
        results = {index: methods[index]() for index in order}
        found.append(tuple(results[index] for index in range(len(methods))))
    return found[1:]


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """Return the median wall-clock seconds of `calls` calls of `work`."""
    return statistics.median(_once(work) for _ in range(calls))


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    """Return the median of `values`."""
    return statistics.median(values)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123 - a file of the system, not a path of the project
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
