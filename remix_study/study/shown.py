"""When test results were shown, so that a study that was extended afterwards says so

Results that one has seen may decide whether one adds replicates or trials. That makes a false verdict more likely than
5 %. `shown.json` in the study's folder lists the planned numbers of trials and replicates at the times when the
comparison was written: at the end of the study, and with each report.
"""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from remix_study.config.study import StudyConfig
from remix_study.files.disk import write_atomically

SHOWN = "shown.json"


class _Plan(NamedTuple):
    """The planned numbers when results were first shown with them. `time`: ISO 8601, UTC."""

    time: str
    trials: int
    replicates: int


def note_shown(folder: Path, study: StudyConfig) -> None:
    """Record that test results of `study` are shown now, unless they were shown with the same plan before."""
    plans = _read(folder)
    if plans and (plans[-1].trials, plans[-1].replicates) == (study.trials, study.replicates):
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    plans.append(_Plan(now, study.trials, study.replicates))
    write_atomically(folder / SHOWN, json.dumps([plan._asdict() for plan in plans], indent=1))


def extensions(folder: Path, study: StudyConfig) -> list[str]:
    """What was added to the study after test results had been shown, one sentence each."""
    plans = [*_read(folder), _Plan("", study.trials, study.replicates)]
    found = []
    for before, after in itertools.pairwise(plans):
        when = f"after test results had been shown on {before.time[:10]}"
        if after.replicates > before.replicates:
            found.append(f"{_numbers('Replicate', before.replicates, after.replicates)} added {when}.")
        if after.trials > before.trials:
            found.append(f"{_numbers('Trial', before.trials, after.trials)} added to each method {when}.")
    return found


def _numbers(what: str, before: int, after: int) -> str:
    """`Replicates 6 to 10 were`, counted from 1."""
    if after == before + 1:
        return f"{what} {after} was"
    return f"{what}s {before + 1} to {after} were"


def _read(folder: Path) -> list[_Plan]:
    path = folder / SHOWN
    return [_Plan(**plan) for plan in json.loads(path.read_text())] if path.exists() else []
