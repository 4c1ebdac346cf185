"""All trials, and all epochs of all runs, as plain tables for other tools"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from remix_study.config import load_study
from remix_study.launch.folder import RunFolder
from remix_study.study.survey import CONFIG, REPLICATE, SEARCH, open_trials

Row = dict[str, Any]


def rows_of(folder: Path) -> tuple[list[Row], list[Row]]:
    """One row per run (trials of every end, and replicates), and one row per epoch of each."""
    study = load_study(folder / CONFIG)
    runs: list[Row] = []
    for method, trials_of in open_trials(folder, study):
        for t in trials_of.get_trials(deepcopy=False):
            runs.append(
                {
                    "method": method,
                    "stage": SEARCH,
                    "number": t.number,
                    "state": _state(t),
                    "reason": t.user_attrs.get("reason"),
                    "objective": t.value if t.state == TrialState.COMPLETE else None,
                    "started": None if t.datetime_start is None else t.datetime_start.isoformat(),
                    "ended": None if t.datetime_complete is None else t.datetime_complete.isoformat(),
                    "folder": t.user_attrs.get("folder"),
                    **{f"params.{key}": value for key, value in t.params.items()},
                }
            )
        for key, told in trials_of.user_attrs.items():
            if key.startswith(f"{REPLICATE} "):
                row = {"method": method, "stage": REPLICATE, "number": int(key.split()[1]), "state": told["state"]}
                params = {f"params.{path}": value for path, value in told["params"].items()}
                runs.append({**row, "folder": told["folder"], **params})
    epochs: list[Row] = []
    for run in runs:
        if run.get("folder") is None:
            continue
        kept = RunFolder(Path(run["folder"]))
        run |= {f"summary.{key}": value for key, value in (kept.result() or {}).items()}
        epochs += [{**{key: run[key] for key in ("method", "stage", "number")}, **r} for r in kept.history]
    return runs, epochs


def _state(trial: FrozenTrial) -> str:
    """A trial that failed without a reason was interrupted, and its point was taken up again by a later trial."""
    if trial.state == TrialState.FAIL:
        return "failed" if "reason" in trial.user_attrs else "interrupted"
    return trial.state.name.lower()


def export(folder: Path, out: Path) -> list[Path]:
    """`trials` and `epochs`, each as Parquet and CSV, in `out`; the files written."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows in zip(("trials", "epochs"), rows_of(folder), strict=True):
        table = pa.table(columns(rows))
        parquet, csv = out / f"{name}.parquet", out / f"{name}.csv"
        pyarrow.parquet.write_table(table, parquet)
        pyarrow.csv.write_csv(table, csv)
        written += [parquet, csv]
    return written


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Every key of any row; what a row lacks is None. A column of several types, or of lists, becomes text."""
    found = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    return {key: _one_type(values) for key, values in found.items()}


def _one_type(values: list[Any]) -> list[Any]:
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(types) > 1 or types & {list, dict}:
        return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return values
