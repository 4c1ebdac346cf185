"""All trials, and all epochs of all runs, as plain tables for other tools"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.files.disk import replacing
from remix_study.launch.decisions import DECISIONS
from remix_study.launch.folder import RunFolder
from remix_study.launch.predictions import PREDICTIONS
from remix_study.study.ledger import (
    SEARCH,
    Ledger,
    ReplicateRecord,
    TrialRecord,
    chosen_replicates,
    read_ledger,
    retrained,
)
from remix_study.units import cell_as_text

Row = dict[str, Any]
Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


def trial_rows(ledger: Ledger) -> list[Row]:
    """One row per trial (of every end), replicate and retrained run, without what only its folder knows.

    `chosen` is true for the chosen trial, and for replicates and retrained runs of its hyperparameters. The others are
    of an earlier choice, before the study was extended.
    """
    rows: list[Row] = []
    for method in ledger.study.methods:
        chosen, current = ledger.chosen(method), (*chosen_replicates(ledger, method), *retrained(ledger, method))
        rows += [_trial_row(ledger, trial, trial == chosen) for trial in ledger.trials.get(method, ())]
        rows += [_replicate_row(each, each in current) for each in ledger.replicates.get(method, ())]
    return rows


def _trial_row(ledger: Ledger, t: TrialRecord, chosen: bool) -> Row:
    return {
        "method": t.method,
        "stage": SEARCH,
        "number": t.number,
        "state": t.state,
        "chosen": chosen,
        "diverged": t.diverged,
        "cause": t.cause,
        "reason": t.reason,
        "retried": t.retried,
        "seconds": t.seconds,
        "started": None if t.started is None else t.started.isoformat(timespec="seconds"),
        "ended": None if t.ended is None else t.ended.isoformat(timespec="seconds"),
        "folders": list(t.folders),
        **_work(t.work),
        **{f"values.{name}": t.values[n] if n < len(t.values) else None for n, name in enumerate(ledger.study.metrics)},
        **{f"params.{path}": value for path, value in t.params.items()},
    }


def _replicate_row(r: ReplicateRecord, chosen: bool) -> Row:
    return {
        "method": r.method,
        "stage": r.stage,
        "number": r.number,
        "state": r.state,
        "chosen": chosen,
        "diverged": r.diverged,
        "cause": r.cause,
        "reason": r.reason,
        "seconds": r.seconds,
        "folders": [r.folder],
        **_work(r.work),
        **{f"params.{path}": value for path, value in r.params.items()},
    }


def _work(work: Mapping[str, float]) -> Row:
    """Epochs, updates and samples of each encoder, and multiply-adds, over all runs of a trial."""
    return {f"work.{key}": value for key, value in work.items()}


def epoch_rows(rows: Sequence[Row], progress: Progress = lambda done, total: None) -> Iterator[Row]:  # noqa: ARG005 - default of a callback
    """One row per epoch of every run of `rows`. The column `seed` counts the runs of a trial."""
    for done, row in enumerate(rows):
        for seed, folder in enumerate(row["folders"]):
            for record in RunFolder(Path(folder)).history:
                yield {**{key: row[key] for key in ("method", "stage", "number")}, "seed": seed, **record}
        progress(done + 1, len(rows))


def with_summaries(rows: Sequence[Row]) -> list[Row]:
    """The rows with the summary of their first complete run (`summary.*`)."""
    found = []
    for row in rows:
        results = [result for folder in row["folders"] if (result := RunFolder(Path(folder)).result()) is not None]
        found.append({**row, **{f"summary.{key}": value for key, value in (results[0] if results else {}).items()}})
    return found


def export(
    folder: Path,
    out: Path,
    progress: Progress = lambda done, total: None,  # noqa: ARG005 - default of a callback
) -> list[Path]:
    """Write `trials` and `epochs` as Parquet and CSV, and `decisions` and `predictions` of replicates as Parquet.

    In CSV, a text that a spreadsheet would run as a formula begins with `'`.

    Args:
        folder: the study.
        out: folder for the files.

    Returns:
        The files written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    rows = trial_rows(read_ledger(folder))
    written = []
    for name, content in (("trials", with_summaries(rows)), ("epochs", list(epoch_rows(rows, progress)))):
        found = columns(content) or {key: [] for key in ("method", "stage", "number", "seed", "epoch")}
        table = pa.table(found)
        parquet, csv = out / f"{name}.parquet", out / f"{name}.csv"
        quoted = {key: _as_text(values) for key, values in found.items()}
        with replacing(parquet) as file:
            pyarrow.parquet.write_table(table, file)
        with replacing(csv) as file:
            pyarrow.csv.write_csv(pa.table(quoted), file)
        written += [parquet, csv]
    for name in (DECISIONS, PREDICTIONS):
        collected = of_replicates(rows, name)
        if collected is not None:
            with replacing(out / name) as file:
                pyarrow.parquet.write_table(collected, file)
            written.append(out / name)
    return written


def of_replicates(rows: Sequence[Row], name: str) -> Any | None:
    """Return the rows of a Parquet file of all replicates (launch/decisions.py, launch/predictions.py) as one table.

    Replicates of an earlier choice are left out.

    Damaged files are left out with a warning.
    """
    import pyarrow as pa
    import pyarrow.parquet

    tables = []
    for row in rows:
        path = Path(row["folders"][0]) / name if row["folders"] else None
        if row["stage"] != SEARCH and row["chosen"] and path is not None and path.exists():
            try:
                table = pyarrow.parquet.read_table(path)
            except (pa.ArrowInvalid, OSError) as error:
                _log.warning("Leaving out %s, which cannot be read: %s", path, str(error).splitlines()[0])
                continue
            for place, column in enumerate(table.schema):
                if pa.types.is_fixed_size_list(column.type):
                    # Methods without a view have null there, which Arrow cannot read as a fixed-size list (#35692).
                    of_any_size = pa.field(column.name, pa.list_(column.type.value_type))
                    table = table.set_column(place, of_any_size, table[column.name].cast(of_any_size.type))
            named = {"method": row["method"], "stage": row["stage"], "number": row["number"]}
            for place, (key, value) in enumerate(named.items()):
                table = table.add_column(place, key, pa.array([value] * len(table)))
            tables.append(table)
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _as_text(values: list[Any]) -> list[Any]:
    return [cell_as_text(value) if isinstance(value, str) else value for value in values]


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A column for every key of any row, None if a row lacks it. Mixed types and lists are converted to text."""
    found = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    return {key: _one_type(values) for key, values in found.items()}


def _one_type(values: list[Any]) -> list[Any]:
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(types) > 1 or types & {list, dict, tuple}:
        return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return values
