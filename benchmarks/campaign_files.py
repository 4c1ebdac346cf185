"""A campaign of mutated study files: `python -m benchmarks.campaign_files [--count 200] [--seed 0]`

Each file is a copy of one of search_spaces/ with one to three mutations. It must be valid, or refused in one sentence
with its line. The exit status is 1 if a file raised another error, took longer than a second of processor time, or was
refused without a line.
"""

import argparse
import re
import string
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from remix_study.errors import ConfigError
from remix_study.study.study_file import read_study

FILES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))
AT_MOST_S = 1.0
OUTCOMES = ("valid", "refused", "without a line", "crash", "slow")
_VALUES = (
    "yes", "true", "null", "010", "1:30", ".nan", ".inf", "-.inf", "1e400", "-1", "0", "2.5", "'3'", str(2**32),
    "9" * 400, "[]", "{}", "[yes]", "[1, 1]", "{a: {b: 1}}", "../../x", "a/b", "'a|b=c'", "x" * 300, "''", "*x",
    "&x [*x]", "!!set {a}", "!!int abc", "!!timestamp 2026-11-29", "2026-11-29", '"\\0"', '"\\ud800"', "@a", "%a",
    "\u00e9\u4e2d", "bayes", "|", "- a", "{", "'", "# b", "\t", "\x07", "<<", "? a", "---",
)  # fmt: skip

Mutation = Callable[[list[str], Random], list[str]]


def _at(lines: Sequence[str], random: Random) -> int:
    """A line that is neither empty nor a comment, if there is one."""
    written = [n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    return random.choice(written or [0])


def another_value(lines: list[str], random: Random) -> list[str]:
    """Replace a value behind a colon."""
    places = [(n, m) for n, line in enumerate(lines) for m in re.finditer(r"(?<=: )[^\s,{}\[\]]+", line)]
    if not places:
        return lines
    n, found = random.choice(places)
    lines[n] = f"{lines[n][: found.start()]}{random.choice(_VALUES)}{lines[n][found.end() :]}"
    return lines


def another_key(lines: list[str], random: Random) -> list[str]:
    """Replace a key, or misspell it."""
    places = [(n, m) for n, line in enumerate(lines) for m in re.finditer(r"[\w.]+(?=:)", line)]
    if not places:
        return lines
    n, found = random.choice(places)
    key = random.choice([found[0][:-1], found[0] + "x", found[0][::-1], *_VALUES])
    lines[n] = f"{lines[n][: found.start()]}{key}{lines[n][found.end() :]}"
    return lines


def another_character(lines: list[str], random: Random) -> list[str]:
    """Insert, delete or replace a character."""
    n = _at(lines, random)
    place = random.randrange(len(lines[n]) + 1)
    new = random.choice(
        ["", random.choice(string.printable), random.choice("{}[]:,'\"*&!|>%@`#-\t\x00\x1b\ufeff\ud7ff")]
    )
    lines[n] = lines[n][:place] + new + lines[n][place + random.randrange(2) :]
    return lines


def another_order(lines: list[str], random: Random) -> list[str]:
    """Delete, repeat or move a line, or change its indentation."""
    n = _at(lines, random)
    line = lines.pop(n)
    return random.choice([
        lines, [*lines[:n], line, line, *lines[n:]], [*lines[: (m := _at(lines, random))], line, *lines[m:]],
        [*lines[:n], " " * random.randrange(1, 4) + line, *lines[n:]], [*lines[:n], line.lstrip(), *lines[n:]],
        lines[:n],
    ])  # fmt: skip


def another_size(lines: list[str], random: Random) -> list[str]:
    """Append what would take all memory, or thousands of levels, methods, dimensions or values."""
    aliases = [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    n = next(n for n, line in enumerate(lines) if line.startswith("methods:"))
    return random.choice([
        ["a: &a [x,x,x,x,x,x,x,x,x]", *aliases, *lines],
        [*lines, f"x: {'[' * 3000}{']' * 3000}"],
        [*lines, *(f"{' ' * deep}x:" for deep in range(1500))],
        [*lines[: n + 1], *(f"  m{k}: {{}}" for k in range(12_000)), *lines[n + 1 :]],
        [*lines[:n], "space:", *(f"  x{k}: {{kind: int, low: 1, high: 2}}" for k in range(3000)), *lines[n:]],
        [line.replace("sampler: tpe", "sampler: grid").replace(", log: true", ", step: 1.0e-12") for line in lines],
        [re.sub(r"of: \[[^\]]*\]", f"of: [{', '.join(map(str, range(20_000)))}]", line) for line in lines],
    ])  # fmt: skip


MUTATIONS: Sequence[Mutation] = (another_value, another_key, another_character, another_order, another_size)


class Case(NamedTuple):
    """A mutated file, and what `read_study` said."""

    kind: str
    text: str
    outcome: str
    said: str


def outcome_of(path: Path) -> tuple[str, str]:
    """One of `OUTCOMES`, and the message."""
    started = time.process_time()
    try:
        read_study(path, {})
        outcome, said = "valid", ""
    except ConfigError as error:
        said = str(error)
        head, *problems = said.splitlines()
        place = re.compile(rf"(  - |Cannot read )?{re.escape(str(path))}:\d+")
        placed = all(map(place.match, problems)) if problems else place.match(head) is not None
        outcome = "refused" if placed else "without a line"
    except Exception as error:  # any is a crash, which the campaign counts
        outcome, said = "crash", f"{type(error).__name__}: {error}"
    return ("slow", said) if time.process_time() - started > AT_MOST_S else (outcome, said)


def cases(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """`count` mutated files and their outcomes; the same for the same seed."""
    path = folder / "study.yaml"
    for number in range(count):
        random = Random(f"{seed} {number}")
        lines = random.choice(FILES).read_text().splitlines()
        kind = MUTATIONS[number % len(MUTATIONS)]
        for _ in range(1 if kind is another_size else random.randrange(1, 4)):
            lines = kind(lines, random) or [" "]
        text = "\n".join(lines) + "\n"
        path.write_text(text)
        yield Case(kind.__name__, text, *outcome_of(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts and every unexpected case, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print every message")
    options = parser.parse_args(arguments)
    console = Console()
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases(options.count, options.seed, Path(folder))):
            counts[case.kind, case.outcome] += 1
            if options.show or case.outcome not in ("valid", "refused"):
                said = case.said.replace(f"{folder}/", "")
                console.print(f"{number} {case.kind}: {case.outcome}: {said}", markup=False, highlight=False)
    table = Table("mutation", *OUTCOMES, title=f"{options.count} mutated study files, seed {options.seed}")
    for kind in (mutation.__name__ for mutation in MUTATIONS):
        table.add_row(kind.replace("_", " "), *(str(counts[kind, outcome]) for outcome in OUTCOMES))
    table.add_row("all", *(str(sum(n for (_, o), n in counts.items() if o == outcome)) for outcome in OUTCOMES))
    console.print(table)
    return int(any(outcome not in ("valid", "refused") for _, outcome in counts))


if __name__ == "__main__":
    raise SystemExit(main())
