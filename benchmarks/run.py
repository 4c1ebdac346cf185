"""Command line of the benchmarks: `python -m benchmarks.run [NAME ...] [--quick] [--json FILE]`"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    decisions,
    epoch_vs_joint,
    epoch_vs_released,
    methods,
    overheads,
    preparing,
    reading_vs_decoding,
    rules,
    shares,
    simulated_study,
    studies,
    two_workers_vs_one,
)
from benchmarks.measure import Machine, Result, this_machine

BENCHMARKS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "epoch_vs_released": epoch_vs_released.measure,
    "decisions": decisions.measure,
    "reading_vs_decoding": reading_vs_decoding.measure,
    "epoch_vs_joint": epoch_vs_joint.measure,
    "two_workers_vs_one": two_workers_vs_one.measure,
    "preparing": preparing.measure,
    "methods": methods.measure,
    "shares": shares.measure,
    "rules": rules.measure,
    "studies": studies.measure,
    "overheads": overheads.measure,
    "simulated_study": simulated_study.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named benchmarks and print a table of their results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Run benchmarks and print results.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="check that everything runs; the results mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(BENCHMARKS)):
        parser.error(f"NAME must be one of {', '.join(BENCHMARKS)}, but is {', '.join(unknown)}")
    console = Console()
    machine = this_machine()
    results: list[Result] = []
    for name in given.names or BENCHMARKS:
        with console.status(f"{name} (minutes)"):
            results += BENCHMARKS[name](given.quick)
    if given.quick:
        results = [replace(result, at_most=None, at_least=None) for result in results]
    console.print(table(results, machine, given.quick))
    if given.json is not None:
        given.json.write_text(json.dumps(as_json(results, machine, given.quick), indent=1) + "\n")


def as_json(results: Iterable[Result], machine: Machine, quick: bool) -> dict[str, object]:
    """Return the content of the file given by `--json`."""
    return {
        "machine": asdict(machine),
        "quick": quick,
        "results": [{**asdict(result), "verdict": result.verdict} for result in results],
    }


def table(results: Iterable[Result], machine: Machine, quick: bool) -> Table:
    """Return a table with one row per result, and the machine as its caption."""
    where = f"{machine.processor}, {machine.cores} cores, torch {machine.torch} with {machine.threads} threads"
    drawn = Table(title="Quick run: its numbers mean nothing" if quick else "Benchmarks")
    drawn.caption = f"{where}, Python {machine.python}, load {machine.load} at the start"
    for column, justify in (("what", "left"), ("measured", "right"), ("required", "right"), ("verdict", "left")):
        drawn.add_column(column, justify=justify)  # type: ignore[arg-type]  # inferred as str instead of a Literal
    colours = {"met": "green", "missed": "bold red"}
    for result in results:
        name = f"{result.name}\n  [dim]{result.note}[/dim]" if result.note else result.name
        measured = "" if result.measured is None else _number(result.measured, result.unit)
        drawn.add_row(name, measured, _required(result), result.verdict, style=colours.get(result.verdict, ""))
    return drawn


def _required(result: Result) -> str:
    bounds = [("<=", result.at_most), (">=", result.at_least)]
    return ", ".join(f"{sign} {_number(bound, result.unit)}" for sign, bound in bounds if bound is not None)


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{digits} {unit}" if unit != "x" else f"{digits}x"


if __name__ == "__main__":
    main()
