"""Costs of Ray Tune for trials that do nothing"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.overheads.studies import METHOD
from remix_study.study.placement import Needs
from remix_study.study.tasks import Outcome, Task, execute


def ray_tune(folder: Path, counts: Sequence[int]) -> list[dict[str, float]]:
    """Measure the driver's time per trial for each number of trials, with two reused processes.

    Returns:
        driver_s: CPU seconds per trial. elapsed_s: wall-clock seconds per trial. Both are means over the second half.
    """
    times: list[dict[str, float]] = []
    for trials in counts:
        numbers = iter(range(trials))
        ends: list[tuple[float, float]] = []

        def ask(numbers: Iterator[int] = numbers) -> Task:
            number = next(numbers, None)
            if number is None:
                raise StopIteration
            return Task("search", METHOD, number, (), ())

        def tell(_task: Task, _outcome: Outcome, ends: list[tuple[float, float]] = ends) -> None:
            ends.append((time.perf_counter(), time.process_time()))

        inside = folder / f"tune-{trials}"
        inside.mkdir()
        execute(ask, tell, Needs(concurrency=2), inside, _ignore_place, lambda _: 0, lambda: False)
        assert len(ends) == trials, f"{trials} trials must end, but {len(ends)} did"
        last = ends[len(ends) // 2 :]
        wall, cpu = (end - begin for begin, end in zip(last[0], last[-1], strict=True))
        times.append({"trials": trials, "driver_s": cpu / (len(last) - 1), "elapsed_s": wall / (len(last) - 1)})
    return times


def _ignore_place(_: object) -> None:
    """Take the place where `execute` runs its tasks, which is not measured."""
