"""How a study stands, read from its storage and its run folders by any process; nothing is written, nothing trains

Imports no Ray and no torch: `remix-study status` answers at once, also while the study runs.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import load
from remix_study.errors import StudyError
from remix_study.files.mirror import place_of, url_of
from remix_study.files.remote_folder import RemoteFolder
from remix_study.launch.folder import RunFolder
from remix_study.study.budget import Rates, Used, read_clock
from remix_study.study.ledger import FINAL, SEARCH, Ledger, TrialRecord, chosen_replicates, read_ledger
from remix_study.study.question import CONFIG
from remix_study.study.remote import driver_of, leave_stop, look_in
from remix_study.study.search_space import configure
from remix_study.study.storage import STOP, study_folder


class RunningRun(NamedTuple):
    """A run that is being trained: `epoch` of `epochs` are complete; accuracy in [0, 1], None before the first.

    seconds_left: of this run, from its own epochs; None before the first.
    """

    name: str
    epoch: int
    epochs: int
    val_accuracy: float | None
    seconds_left: float | None


class MethodProgress(NamedTuple):
    """Counts of one method's trials and replicates; `best`: of the objectives, on validation."""

    name: str
    trials: int
    complete: int
    pruned: int
    failed: int
    running: int
    replicates: int
    replicated: int
    best: tuple[float, ...] | None
    best_number: int | None
    best_params: dict[str, Any]

    @property
    def ended(self) -> int:
        """Trials that had their turn."""
        return self.complete + self.pruned + self.failed


class StudyStatus(NamedTuple):
    """`state`: `running`, `stopping`, `complete`, or `incomplete` (nobody works on it).

    budget: what of the budget is limited: name -> (used, allowed), hours.
    seconds_left: an estimate from the runs that have ended; None before the first of them, or if nobody works.
    retrained: runs of `retrain` that are complete.
    """

    name: str
    question: str
    objectives: tuple[str, ...]
    folder: Path
    state: str
    holder: str | None
    runs: int
    runs_ended: int
    seconds_left: float | None
    used: Used
    budget: dict[str, tuple[float, float]]
    methods: tuple[MethodProgress, ...]
    running: tuple[RunningRun, ...]
    failures: tuple[str, ...]
    retrained: int

    def plain(self) -> dict[str, Any]:
        """For machines: what `--json` prints."""
        nested = {
            "folder": str(self.folder),
            "used": self.used._asdict(),
            "methods": [m._asdict() for m in self.methods],
            "running": [r._asdict() for r in self.running],
        }
        return {**self._asdict(), **nested}


def existing(workspace: Path, name: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a study that has begun; of a workspace at a URL a copy, as it is now.

    Raises:
        StudyError: there is none of this name in the workspace.
        SourceError: the workspace's service does not answer or refuses.
    """
    folder = study_folder(workspace.resolve(), name)
    look_in(folder, on_progress=on_progress)
    if not (folder / CONFIG).exists():
        known = ", ".join(names(workspace)) or "none"
        raise StudyError(
            f"the study must have begun in the workspace {place_of(workspace.resolve())}, but there is no {name!r}; "
            f"there: {known}. "
            "Start it with `remix-study run FILE`, or name another --workspace."
        )
    return folder


def names(workspace: Path) -> list[str]:
    """Of all studies of the workspace, in alphabetical order."""
    home = url_of(workspace.resolve())
    if home is not None:
        return sorted(path.split("/")[-2] for path in RemoteFolder(home).matching(f"studies/*/{CONFIG}"))
    return sorted(path.parent.name for path in workspace.glob(f"studies/*/{CONFIG}"))


def study_status(folder: Path) -> StudyStatus:
    """How the study in `folder` stands now."""
    ledger = read_ledger(folder)
    study = ledger.study
    by = driver_of(folder)
    methods = tuple(_progress(ledger, method) for method in study.methods)
    running = tuple(_running_runs(ledger)) if by is not None else ()
    runs = len(study.methods) * (study.trials + study.replicates)
    ended = sum(min(m.ended, study.trials) + m.replicated for m in methods)
    clock_s, rates = read_clock(folder)
    work_s = sum(t.seconds for trials in ledger.trials.values() for t in trials)
    work_s += sum(r.seconds for replicates in ledger.replicates.values() for r in replicates)
    used = rates.used(work_s, clock_s)
    return StudyStatus(
        name=study.name,
        question=study.question,
        objectives=study.metrics,
        folder=folder,
        state=_state(folder, by, ended >= runs),
        holder=by,
        runs=runs,
        runs_ended=ended,
        seconds_left=None if by is None else _seconds_left(ledger, methods, running, rates),
        used=used,
        budget=used.limits(study.budget),
        methods=methods,
        running=running,
        failures=tuple(failures(ledger)),
        retrained=sum(r.stage == FINAL and r.state == "complete" for rs in ledger.replicates.values() for r in rs),
    )


def failures(ledger: Ledger) -> list[str]:
    """What failed, with its reason; of trials those whose point was not tried again."""
    found = []
    for method in ledger.study.methods:
        found += [
            f"{method}-{SEARCH}-{t.number}: {t.reason}"
            for t in ledger.trials.get(method, ())
            if t.state == "failed" and not t.retried
        ]
        found += [
            f"{method}-{r.stage}-{r.number}: {r.reason}"
            for r in ledger.replicates.get(method, ())
            if r.state == "failed"
        ]
    return found


def _progress(ledger: Ledger, method: str) -> MethodProgress:
    study, trials = ledger.study, ledger.trials.get(method, ())
    best = ledger.chosen(method)
    return MethodProgress(
        name=method,
        trials=study.trials,
        complete=_count(trials, "complete"),
        pruned=_count(trials, "pruned"),
        failed=sum(t.state == "failed" and not t.retried for t in trials),
        running=_count(trials, "running"),
        replicates=study.replicates,
        replicated=sum(
            r.state == "complete" and r.number < study.replicates for r in chosen_replicates(ledger, method)
        ),
        best=None if best is None else best.values,
        best_number=None if best is None else best.number,
        best_params={} if best is None else best.params,
    )


def _count(trials: Sequence[TrialRecord], state: str) -> int:
    return sum(t.state == state for t in trials)


def _seconds_left(
    ledger: Ledger, methods: Sequence[MethodProgress], running: Sequence[RunningRun], rates: Rates
) -> float | None:
    """Trials to come take what the trials that ended took, replicates what the complete ones took."""
    trials = [t for ts in ledger.trials.values() for t in ts if t.state in ("complete", "pruned") and t.seconds > 0]
    if not trials:
        return None
    seeds = ledger.study.seeds_per_trial
    each = statistics.fmean(t.seconds for t in trials)
    whole = statistics.fmean([t.seconds / seeds for t in trials if t.state == "complete"] or [each])
    under_way = sum(m.running for m in methods)
    to_come = max(0, sum(m.trials - m.ended for m in methods) - under_way)
    replicates = sum(m.replicates - m.replicated for m in methods)
    replicates = max(0, replicates - (len(running) - under_way))
    now = sum(whole if run.seconds_left is None else run.seconds_left for run in running)
    return (to_come * each + replicates * whole + now) / max(1, rates.at_once)


def _running_runs(ledger: Ledger) -> list[RunningRun]:
    """Of what trains, the run that is under way: seeds of a trial follow one another."""
    found = []
    for method in ledger.study.methods:
        at_work = [
            (f"{method}-{SEARCH}-{t.number}", t.folders) for t in ledger.trials.get(method, ()) if t.state == "running"
        ]
        at_work += [
            (f"{method}-{r.stage}-{r.number}", (r.folder,))
            for r in ledger.replicates.get(method, ())
            if r.state == "running"
        ]
        found += [_running(label, folders) for label, folders in at_work]
    return found


def _running(label: str, folders: Sequence[str]) -> RunningRun:
    runs = [RunFolder(Path(folder)) for folder in folders]
    number, run = next(((n, r) for n, r in enumerate(runs) if r.result() is None), (len(runs) - 1, None))
    if run is None:
        return RunningRun(label, 0, 0, None, None)
    name = f"{label} (seed {number + 1} of {len(runs)})" if len(runs) > 1 else label
    history, epochs = run.history, _epochs(run.path / "config.yaml")
    left = None if not history else (epochs - len(history)) * run.seconds / len(history)
    return RunningRun(name, len(history), epochs, history[-1]["val/accuracy"] if history else None, left)


def _epochs(config: Path) -> int:
    """0 before the run has written its configuration down."""
    return int(load(config.read_text())["epochs"]) if config.exists() else 0


def ask_to_stop(folder: Path) -> str:
    """Runs end after their epoch, and none begins. Who drives the study: its process.

    Raises:
        StudyError: nobody works on the study.
    """
    by = driver_of(folder)
    if by is None:
        raise StudyError(f"the study must be running to be stopped, but nobody works on {folder.name} now.")
    leave_stop(folder)
    return by


def method_of(study: StudyConfig, method: str | None) -> str:
    """`method`, or the study's reference.

    Raises:
        StudyError: the study has no such method.
    """
    name = study.reference if method is None else method
    if name not in study.methods:
        raise StudyError(f"`--method` must be one of {', '.join(study.methods)}, but is {name!r}.")
    return name


class Best(NamedTuple):
    """The chosen point of a method as a run; its objectives on validation; its trial's number."""

    method: str
    run: RunConfig
    values: tuple[float, ...]
    number: int
    params: dict[str, Any]


def best_run(folder: Path, method: str | None) -> Best:
    """The chosen point of a method (default: the reference), so far.

    Raises:
        StudyError: no such method, or none of its trials is complete.
    """
    ledger = read_ledger(folder)
    name = method_of(ledger.study, method)
    found = ledger.chosen(name)
    if found is None:
        raise StudyError(f"at least one trial of `{name}` must be complete, but none is. Let the study run on.")
    last = {"evaluation.test": True, "evaluation.probe": True}
    run = configure(ledger.study, name, found.params, ledger.study.seed, last)
    return Best(name, run, found.values, found.number, found.params)


def _state(folder: Path, by: str | None, complete: bool) -> str:
    if by is None:
        return "complete" if complete else "incomplete"
    return "stopping" if (folder / STOP).exists() else "running"
