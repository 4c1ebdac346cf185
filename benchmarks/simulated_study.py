"""Simulated study of 100,000 trials on 1,000 workers: which component saturates first

    python -m benchmarks.simulated_study [--measured FILE] [--picture docs/scaling.png] [--quick]

The costs of each component were measured (benchmarks/overheads/). Their queues are simulated (benchmarks/simulation/).
docs/scaling.md describes the results.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result
from benchmarks.simulation.costs import MEASURED, Costs, read
from benchmarks.simulation.study import PARTS, Setting, Simulation, SimulationResult, bounds

WORKERS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
_PICTURED = ("driver", "sender", "storage", "mlflow")
_COLOURS = {"driver": "#1b6ca8", "sender": "#c0392b", "storage": "#2e8b57", "mlflow": "#8e6bbf", "training": "#444444"}


class Case(NamedTuple):
    """A setting of the simulation, named by its difference from the default."""

    name: str
    setting: Setting
    sampler: str = "tpe"


def cases(quick: bool = False) -> list[Case]:
    """Return the default study and variants with one or more changes each."""
    usual = Setting(workers=20, trials=400) if quick else Setting()
    short = replace(usual, epoch_s=usual.epoch_s / 10)
    return [
        Case("an epoch takes 1 min", usual),
        Case("... every ask reads every running trial (before)", replace(usual, remembered=False)),
        Case("... no tracking", replace(usual, tracked=False)),
        Case("... no pruner", replace(usual, pruned=False, trials=usual.trials // 5)),
        Case("... random instead of tpe", usual, "random"),
        Case("... database and MLflow 5 ms away", replace(usual, round_trip_s=0.005)),
        Case("... every worker lost every two hours", replace(usual, losses_per_hour=0.5)),
        Case("an epoch takes 6 s", short),
        Case("... no tracking", replace(short, tracked=False)),
        Case("... no tracking, random", replace(short, tracked=False), "random"),
        Case("... no tracking, random, a tenth of the workers",
             replace(short, tracked=False, workers=max(2, short.workers // 10), trials=short.trials // 10), "random"),
    ]  # fmt: skip


def simulate(case: Case, measured: dict[str, object]) -> SimulationResult:
    """Simulate one case with the measured costs of its sampler."""
    return Simulation(case.setting, Costs.of(measured, sampler=case.sampler)).run()


def by_workers(measured: dict[str, object], epoch_s: float, quick: bool = False) -> list[SimulationResult]:
    """Simulate the last trials of a study of 100,000, when an ask costs most, for several numbers of workers."""
    found = []
    for workers in WORKERS[:3] if quick else WORKERS:
        trials = 200 if quick else min(40_000, max(2_000, 12 * workers))
        setting = Setting(workers=workers, trials=trials, epoch_s=epoch_s, on_record=100_000 - trials)
        found.append(Simulation(setting, Costs.of(measured), stretch_s=epoch_s).run())
    return found


def measure(quick: bool) -> Iterator[Result]:
    """Yield shares of one simulated study, for the table of `benchmarks.run`."""
    case = cases(quick)[0]
    result = simulate(case, read())
    what = f"simulated, {case.setting.trials:,} trials on {case.setting.workers:,} workers"
    yield Result(f"{what}: of the workers' time spent training", result.training_share)
    for part in PARTS:
        yield Result(f"{what}: the {part} is busy", result.steady[part])


def table(rows: Sequence[tuple[Case, SimulationResult, dict[str, float]]]) -> Table:
    """Return the table of all cases: setting, result, and workers at which each component saturates."""
    drawn = Table(title="Simulated study; components: utilisation while most workers train")
    for column in ("setting", "workers", "trials", "days", "training", *PARTS, "first", "up to workers"):
        drawn.add_column(column, justify="left" if column in ("setting", "first") else "right")
    for case, result, limits in rows:
        s = case.setting
        first = min(limits, key=lambda part: limits[part])
        drawn.add_row(
            case.name, f"{s.workers:,}", f"{s.trials:,}", f"{result.seconds / 86400:.2f}",
            f"{result.training_share:.0%}", *(f"{result.steady[part]:.0%}" for part in PARTS),
            first, f"{limits[first]:,.0f}",
        )  # fmt: skip
    return drawn


def picture(study: SimulationResult, sweeps: dict[str, list[SimulationResult]], path: Path) -> None:
    """Draw utilisation over the study (left) and by the number of workers (one panel per length of an epoch)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(sweeps), figsize=(4.4 * (1 + len(sweeps)), 3.6), sharey=True)
    hours = (np.arange(len(study.over_time["driver"])) + 0.5) * study.stretch_s / 3600
    for part in _PICTURED:
        axes[0].plot(hours, 100 * study.over_time[part], color=_COLOURS[part], label=part)
    axes[0].set_xlabel("hours")
    axes[0].set_ylabel("busy, %")
    axes[0].set_title(f"{study.setting.trials:,} trials, {study.setting.workers:,} workers, 1 min epochs", fontsize=9)
    for axis, (name, sweep) in zip(axes[1:], sweeps.items(), strict=True):
        workers = [result.setting.workers for result in sweep]
        for part in _PICTURED:
            axis.plot(workers, [100 * result.steady[part] for result in sweep], color=_COLOURS[part], marker=".")
        shares = [100 * result.steady_training for result in sweep]
        axis.plot(workers, shares, color=_COLOURS["training"], linestyle="--", label="workers training")
        axis.set_xscale("log")
        axis.set_xlabel("workers")
        axis.set_title(f"the last trials of 100,000, {name} epochs", fontsize=9)
    axes[0].legend(fontsize=8, loc="lower left")
    axes[-1].legend(fontsize=8, loc="center left")
    for axis in axes:
        axis.set_ylim(0, 105)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate all cases and print their table; optionally draw the figure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated_study", description=__doc__.split("\n")[0])
    parser.add_argument("--measured", type=Path, default=MEASURED, help="file written by benchmarks.overheads")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw utilisation to this file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="check that everything runs; the numbers mean nothing")
    given = parser.parse_args(arguments)
    measured = read(given.measured)
    console = Console(width=170)
    rows = []
    for case in cases(given.quick):
        with console.status(case.name):
            result = simulate(case, measured)
        limits = bounds(case.setting, Costs.of(measured, sampler=case.sampler), case.setting.trials)
        rows.append((case, result, limits))
    console.print(table(rows))
    if given.picture is not None:
        sweeps = {"1 min": by_workers(measured, 60, given.quick), "6 s": by_workers(measured, 6, given.quick)}
        picture(rows[0][1], sweeps, given.picture)
    if given.json is not None:
        content = [
            {"name": case.name, "sampler": case.sampler, "setting": asdict(case.setting), "seconds": result.seconds,
             "training_share": result.training_share, "steady": result.steady, "ended": result.ended,
             "lost": result.lost, "mlflow_behind_s": result.mlflow_behind_s, "up_to_workers": limits}
            for case, result, limits in rows
        ]  # fmt: skip
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
