"""Tables of docs/combinations.md, from the report of a complete study of search_spaces/combinations*.yaml

`python -m benchmarks.combinations workspace/studies/combinations_small` prints them in Markdown. A method m of such a
study has its combination with Remix, `remix_m`, and the same with a random assignment, `permuted_m`.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

REFERENCE, CONTROL = "remix", "permuted"

Row = Mapping[str, str]


def accuracies(methods: Mapping[str, Row], differences: Mapping[str, Row]) -> list[list[str]]:
    """The table of all methods: test accuracy alone, with Remix and with the control, and what Remix alone gains.

    Args:
        methods: method -> its row of `methods.csv`.
        differences: method -> its row of `differences.csv`.
    """
    head = ["method", "alone", "with Remix", "with random assignment", "`remix` minus method alone", "wins", "p (Holm)"]
    alone = sorted(
        (
            name
            for name, row in methods.items()
            if row["test accuracy"]  # which separately trained networks do not have
            and not name.startswith((f"{REFERENCE}_", f"{CONTROL}_"))
        ),
        # Without the note on diverged runs.
        key=lambda name: -float(methods[name]["test accuracy"].split()[0]),
    )
    return [head, *(_accuracy_row(name, methods, differences.get(name)) for name in alone)]


def _accuracy_row(name: str, methods: Mapping[str, Row], remix_ahead: Row | None) -> list[str]:
    forms = (methods.get(f"{form}_{name}") for form in (REFERENCE, CONTROL))
    row = [
        f"`{name}`",
        methods[name]["test accuracy"],
        *("" if form is None else form["test accuracy"] for form in forms),
    ]
    if remix_ahead is None:
        return [*row, "", "", ""]
    difference = _with_interval(remix_ahead["remix ahead by"], remix_ahead["95 % interval"])
    return [*row, difference, remix_ahead["wins"], remix_ahead["p (Holm)"]]


def additions(combinations: Sequence[Row]) -> list[list[str]]:
    """The table of `remix_m` minus each of its parts and minus its control, with interval, wins and p.

    Args:
        combinations: the rows of `combinations.csv`.
    """
    head = ["combination", "minus", "difference in points (95 % interval)", "wins", "p (Holm)"]
    return [
        head,
        *(
            [
                f"`{row['method']}`",
                f"`{row['minus']}`",
                _with_interval(row["difference"], row["95 % interval"]),
                row["wins"],
                row["p (Holm)"],
            ]
            for row in combinations
        ),
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def _with_interval(difference: str, interval: str) -> str:
    return f"{difference} ({interval})"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a complete study")
    tables = parser.parse_args().study / "report" / "tables"
    methods, differences = (
        {row["method"]: row for row in _read(tables / name)} for name in ("methods.csv", "differences.csv")
    )
    print(markdown(accuracies(methods, differences)), end="\n\n")
    print(markdown(additions(_read(tables / "combinations.csv"))))


if __name__ == "__main__":
    main()
