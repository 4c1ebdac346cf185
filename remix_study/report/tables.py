"""The comparison of a study as a table of plain data"""

# M modalities

import csv
import io
from typing import NamedTuple

from remix_study.modality import canonical_order
from remix_study.study.results import Contender, Spread, StudyResult


class Table(NamedTuple):
    """Cells are text, fit to be shown as they are."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def comparison_table(result: StudyResult) -> Table:
    """Everything in one table, for files: one row per contender, all numbers in percent."""
    one, two = accuracy_table(result), sufficiency_table(result)
    rows = (first + second[1:] for first, second in zip(one.rows, two.rows, strict=True))
    return Table(result.question, one.header + two.header[1:], tuple(rows))


def accuracy_table(result: StudyResult) -> Table:
    """Does it win? Best mean first, then the unimodal ceilings."""
    header = ("method", "test accuracy", f"{result.reference} ahead by", "wins", "late sum", "training time")
    slowest = max(_seconds(c) for c in result.contenders)
    rows = (
        (
            c.name,
            _shown(c.spread("test/accuracy", 100)),
            "" if c.ahead is None else f"{c.ahead.mean:+.1f} ± {c.ahead.std:.1f}",
            "" if c.ahead is None else f"{c.ahead.wins}/{c.ahead.seeds}",
            _shown(c.spread("test/accuracy_late_sum", 100)),
            f"{_seconds(c) / slowest:.2f}x",
        )
        for c in _ordered(result)
    )
    return Table("Accuracy on the test split in %, mean ± std over seeds", header, tuple(rows))


def sufficiency_table(result: StudyResult) -> Table:
    """Is each modality learnt? Linear probes of the encoders, and their part of what the modality reaches alone."""
    modalities = _modalities(result)
    header = ("method", *(name for m in modalities for name in (f"{m} probe", f"{m} sufficiency")))
    rows = (
        (
            c.name,
            *(
                cell
                for m in modalities
                for cell in (
                    _shown(c.spread(f"probe/accuracy/{m}", 100)),
                    "" if c.ceiling_of else _shown(c.spread(f"sufficiency/probe_ratio/{m}", 100)),
                )
            ),
        )
        for c in _ordered(result)
    )
    return Table(
        "Accuracy of a linear probe in %, and the part of it that the modality reaches alone", header, tuple(rows)
    )


def _ordered(result: StudyResult) -> list[Contender]:
    return sorted(result.contenders, key=lambda c: (c.ceiling_of is not None, -float(c.values("test/accuracy").mean())))


def _modalities(result: StudyResult) -> tuple[str, ...]:
    prefix = "probe/accuracy/"
    keys = {key for c in result.rivals for summary in c.seeds.values() for key in summary}
    return canonical_order({key.removeprefix(prefix) for key in keys if key.startswith(prefix)})


def _seconds(c: Contender) -> float:
    """Training and scoring; evaluation is the same for all."""
    return float((c.values("time/total_train_s") + c.values("time/total_score_s")).mean())


def _shown(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.mean:.1f} ± {spread.std:.1f}"


def to_csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.rows)]) + "\n"
