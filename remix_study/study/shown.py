"""When test results were shown, so that a study that was extended afterwards says so

If results decide whether replicates or trials are added, or how much of a plan is carried out, a false verdict is more
likely than 5 %. `shown.json` in the study's folder lists the plans (trials, replicates, budget) at the times when the
comparison was shown: at the end of the study, with each report, and by `Study.result`.
"""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError
from remix_study.files.disk import write_atomically

SHOWN = "shown.json"


class _Plan(NamedTuple):
    """The plan when results were first shown with it. `time`: ISO 8601, UTC. `budget`: None if it was not recorded."""

    time: str
    trials: int
    replicates: int
    budget: dict[str, float | None] | None = None


def note_shown(folder: Path, study: StudyConfig) -> None:
    """Record that test results of `study` are shown now, unless they were shown with the same plan before."""
    plans, plan = _read(folder), _plan(datetime.now(UTC).isoformat(timespec="seconds"), study)
    if plans and plans[-1][1:] == plan[1:]:
        return
    plans.append(plan)
    write_atomically(folder / SHOWN, json.dumps([plan._asdict() for plan in plans], indent=1))


def extensions(folder: Path, study: StudyConfig) -> list[str]:
    """How the plan of the study changed after test results had been shown, one sentence each.

    Raises:
        StudyError: `shown.json` is damaged.
    """
    plans = [*_read(folder), _plan("", study)]
    found = []
    for before, after in itertools.pairwise(plans):
        when = f"after test results had been shown on {before.time[:10]}"
        if after.replicates > before.replicates:
            found.append(f"{_numbers('Replicate', before.replicates, after.replicates)} added {when}.")
        if after.trials > before.trials:
            found.append(f"{_numbers('Trial', before.trials, after.trials)} added to each method {when}.")
        if after.replicates < before.replicates or after.trials < before.trials:
            planned, left = (f"{plan.trials} trials and {plan.replicates} replicates" for plan in (before, after))
            found.append(f"The plan was reduced from {planned} to {left} {when}.")
        if None not in (before.budget, after.budget) and after.budget != before.budget:
            found.append(f"The budget was changed {when}.")
    return found


def _plan(time: str, study: StudyConfig) -> _Plan:
    return _Plan(time, study.trials, study.replicates, study.budget.model_dump(mode="json"))


def _numbers(what: str, before: int, after: int) -> str:
    """`Replicates 6 to 10 were`, counted from 1."""
    if after == before + 1:
        return f"{what} {after} was"
    return f"{what}s {before + 1} to {after} were"


def _read(folder: Path) -> list[_Plan]:
    path = folder / SHOWN
    if not path.exists():
        return []
    try:
        return [_Plan(**plan) for plan in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise StudyError(
            f"Cannot read {path}, which records when test results were shown: {error}. Restore it, or delete it; "
            "later extensions are then not reported."
        ) from error
