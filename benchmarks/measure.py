"""Two things in turns, their ratio, and whether it is what was asked for"""

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
    """One line of the table; `measured` None: it could not be measured, and `note` says why.

    One without a bound (`at_most`, `at_least`) is told because it explains another. `unit`: ratio, 1e9 bytes, seconds.
    """

    name: str
    measured: float | None
    at_most: float | None = None
    at_least: float | None = None
    unit: Literal["x", "GB", "s"] = "x"
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not measured"
        if self.at_most is None and self.at_least is None:
            return "not asked"
        above = self.at_least is None or self.measured >= self.at_least
        below = self.at_most is None or self.measured <= self.at_most
        return "met" if above and below else "missed"


@dataclass(frozen=True)
class Machine:
    """What the ratios were measured on. `load`: running processes over the last minute, before the benchmarks began."""

    processor: str
    cores: int
    threads: int
    torch: str
    python: str
    load: float


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


def in_turns(methods: Sequence[Callable[[], T]], rounds: int) -> list[tuple[T, ...]]:
    """What each method returned in each round, after one round that does not count.

    Every other round goes backwards: none always follows the same one.
    """
    found = []
    for number in range(rounds + 1):
        order = range(len(methods)) if number % 2 == 0 else reversed(range(len(methods)))
        results = {index: methods[index]() for index in order}
        found.append(tuple(results[index] for index in range(len(methods))))
    return found[1:]


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """The median time of `calls` calls."""
    return statistics.median(_once(work) for _ in range(calls))


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123 - not a path of ours
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
