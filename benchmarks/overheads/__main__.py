"""Command line: `python -m benchmarks.overheads --json FILE [--quick]`"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import this_machine
from benchmarks.overheads.all_costs import costs
from benchmarks.overheads.studies import EPOCHS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all costs and write them to the file given by `--json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overheads", description="Measure the costs that the simulation needs."
    )
    parser.add_argument("--quick", action="store_true", help="check that everything runs; the numbers mean nothing")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="write the costs to this file")
    given = parser.parse_args(arguments)
    found = {"machine": asdict(this_machine()), "epochs": EPOCHS, "quick": given.quick, **costs(given.quick)}
    given.json.write_text(json.dumps(_rounded(found), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case float():
            return float(f"{value:.4g}")
    return value


if __name__ == "__main__":
    main()
