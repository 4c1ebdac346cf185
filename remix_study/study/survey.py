"""How a study stands, read from its storage and its run folders by any process; nothing is written, nothing trains

Imports no Ray and no torch: `remix-study status` answers at once, also while the study runs.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from remix_study.config import RunConfig, StudyConfig, load_study
from remix_study.errors import StudyError
from remix_study.launch.folder import RunFolder
from remix_study.media.disk import holder
from remix_study.study.search_space import configure

SEARCH, REPLICATE = "search", "replicate"
CONFIG = "study.yaml"  # the study as it was last run, its corpus included
STOP = "stop"  # while this file is there, no new run begins


class RunningRun(NamedTuple):
    """A run that is being trained: `epoch` of `epochs` are complete; accuracy in [0, 1], None before the first."""

    name: str
    epoch: int
    epochs: int
    val_accuracy: float | None


class MethodProgress(NamedTuple):
    """Counts of one method's trials and replicates; `best`: of the objective, on validation."""

    name: str
    trials: int
    complete: int
    failed: int
    replicates: int
    replicated: int
    best: float | None
    best_number: int | None
    best_params: dict[str, Any]


class Survey(NamedTuple):
    """`state`: `running`, `stopping`, `complete`, or `incomplete` (nobody works on it).

    `seconds_left`: an estimate from the runs that are complete; None before the first of them, or if nobody works.
    """

    name: str
    question: str
    objective: str
    folder: Path
    state: str
    holder: str | None
    runs: int
    runs_complete: int
    seconds_left: float | None
    methods: tuple[MethodProgress, ...]
    running: tuple[RunningRun, ...]
    failures: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For machines: what `--json` prints."""
        nested = {
            "folder": str(self.folder),
            "methods": [m._asdict() for m in self.methods],
            "running": [r._asdict() for r in self.running],
        }
        return {**self._asdict(), **nested}


def study_folder(workspace: Path, name: str) -> Path:
    return workspace / "studies" / name


def storage_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'optuna.db'}"


def unretried_failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that failed of their own accord, and whose point was not tried again since."""
    retried = {trial.user_attrs.get("retries") for trial in trials}
    return [t for t in trials if "reason" in t.user_attrs and t.number not in retried]


def existing(workspace: Path, name: str) -> Path:
    """The folder of a study that has begun.

    Raises:
        StudyError: there is none of this name in the workspace.
    """
    folder = study_folder(workspace.resolve(), name)
    if not (folder / CONFIG).exists():
        known = ", ".join(names(workspace)) or "none"
        raise StudyError(
            f"the study must have begun in the workspace {workspace}, but there is no {name!r}; there: {known}. "
            "Start it with `remix-study run FILE`, or name another --workspace."
        )
    return folder


def names(workspace: Path) -> list[str]:
    """Of all studies of the workspace, in alphabetical order."""
    return sorted(path.parent.name for path in workspace.glob(f"studies/*/{CONFIG}"))


def open_trials(folder: Path, study: StudyConfig) -> Iterator[tuple[str, optuna.Study]]:
    """The Optuna study of each method that has begun."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.get_storage(storage_url(folder))
    begun = {summary.study_name for summary in storage.get_all_studies()}
    for name in study.methods:
        if name in begun:
            yield name, optuna.load_study(study_name=name, storage=storage)


def survey(folder: Path) -> Survey:
    """How the study in `folder` stands now."""
    study = load_study(folder / CONFIG)
    methods, running, failures, seconds = [], [], [], []
    by = holder(folder / "lock")
    for name, trials_of in open_trials(folder, study):
        trials = trials_of.get_trials(deepcopy=False)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        failed = unretried_failures(trials)
        best = max(complete, key=lambda t: (t.value or 0.0, -t.number), default=None)
        replicates = [
            (number, told)
            for number in range(study.replicates)
            if (told := trials_of.user_attrs.get(f"{REPLICATE} {number}")) is not None
            and best is not None
            and told["params"] == best.params
        ]
        methods.append(
            MethodProgress(
                name=name,
                trials=study.trials,
                complete=len(complete),
                failed=len(failed),
                replicates=study.replicates,
                replicated=sum(told["state"] == "complete" for _, told in replicates),
                best=None if best is None else best.value,
                best_number=None if best is None else best.number,
                best_params={} if best is None else best.params,
            )
        )
        failures += [f"{name}-{SEARCH}-{t.number}: {t.user_attrs['reason']}" for t in failed]
        seconds += [_seconds(t.datetime_start, t.datetime_complete) for t in complete]
        if by is not None:
            at_work = [(f"{name}-{SEARCH}-{t.number}", t.user_attrs) for t in trials if t.state == TrialState.RUNNING]
            at_work += [(f"{name}-{REPLICATE}-{n}", told) for n, told in replicates if told["state"] == "running"]
            running += [_running(label, Path(told["folder"])) for label, told in at_work if "folder" in told]
    runs = len(study.methods) * (study.trials + study.replicates)
    done = sum(m.complete + m.failed + m.replicated for m in methods)
    left = None
    if by is not None and seconds:
        left = (runs - done) * sum(seconds) / len(seconds) / max(1, len(running))
    return Survey(
        name=study.name,
        question=study.question,
        objective=study.objective,
        folder=folder,
        state=_state(folder, by, done >= runs),
        holder=by,
        runs=runs,
        runs_complete=done,
        seconds_left=left,
        methods=tuple(methods),
        running=tuple(running),
        failures=tuple(failures),
    )


def ask_to_stop(folder: Path) -> str:
    """No new run begins; what runs now runs to its end. The process id of the study's driver.

    Raises:
        StudyError: nobody works on the study.
    """
    by = holder(folder / "lock")
    if by is None:
        raise StudyError(f"the study must be running to be stopped, but nobody works on {folder.name} now.")
    (folder / STOP).touch()
    return by


def best_run(folder: Path, method: str | None) -> tuple[RunConfig, float, int]:
    """The best point of a method (default: the reference) as a run; its value on validation; its trial's number.

    Raises:
        StudyError: no such method, or none of its trials is complete.
    """
    study = load_study(folder / CONFIG)
    name = study.reference if method is None else method
    if name not in study.methods:
        raise StudyError(f"`--method` must be one of {', '.join(study.methods)}, but is {name!r}.")
    found = next((m for m in survey(folder).methods if m.name == name), None)
    if found is None or found.best is None or found.best_number is None:
        raise StudyError(f"at least one trial of `{name}` must be complete, but none is. Let the study run on.")
    last = {"evaluation.test": True, "evaluation.probe": True}
    return configure(study, name, found.best_params, study.seed, last), found.best, found.best_number


def _state(folder: Path, by: str | None, complete: bool) -> str:
    if by is None:
        return "complete" if complete else "incomplete"
    return "stopping" if (folder / STOP).exists() else "running"


def _seconds(start: datetime | None, end: datetime | None) -> float:
    return 0.0 if start is None or end is None else (end - start).total_seconds()


def _running(label: str, folder: Path) -> RunningRun:
    run = RunFolder(folder)
    config = run.path / "config.yaml"
    history = run.history
    return RunningRun(
        name=label,
        epoch=len(history),
        epochs=_epochs(config),
        val_accuracy=history[-1]["val/accuracy"] if history else None,
    )


def _epochs(config: Path) -> int:
    """0 before the run has written its configuration down."""
    return int(yaml.safe_load(config.read_text())["epochs"]) if config.exists() else 0
