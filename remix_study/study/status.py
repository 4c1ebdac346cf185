"""The status of a study, read from its storage and its run folders by any process

Writes nothing. Does not import Ray or torch, so that `remix-study status` answers quickly.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remix_study.config.load import with_needed
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import RunPreempted, StudyError
from remix_study.files.command_line import own_command
from remix_study.files.mirror import place_of, url_of
from remix_study.files.remote_folder import RemoteFolder
from remix_study.launch.folder import RunFolder
from remix_study.study.budget import Rates, Used, read_clock
from remix_study.study.extent import complete_replicates, recorded_state, used_by
from remix_study.study.ledger import SEARCH, Ledger, TrialRecord, read_ledger, retrained
from remix_study.study.needed import needed_methods
from remix_study.study.question import CONFIG
from remix_study.study.remote import driver_of, fetch_study, request_stop
from remix_study.study.search_space import configure
from remix_study.study.storage import STOP, study_folder


class RunningRun(NamedTuple):
    """A run that is training.

    Attributes:
        epoch: number of complete epochs.
        epochs: epochs of the run.
        val_accuracy: after the last epoch, in [0, 1]; None before the first.
        seconds_left: an estimate from the run's own epochs; None before the first.
        preempted: how the run was preempted, while it waits to be restarted; None while it trains.
        following: number of runs of the same trial that start after it, one for each further seed.
    """

    name: str
    epoch: int
    epochs: int
    val_accuracy: float | None
    seconds_left: float | None
    preempted: str | None = None
    following: int = 0


class MethodProgress(NamedTuple):
    """Trials and replicates of one method.

    Attributes:
        trials: number wanted; `complete`, `pruned`, `failed` and `running` count those of each state.
        replicates: number wanted.
        replicated: number of complete replicates of the chosen hyperparameters.
        best: objectives of the best trial, on validation; `best_number` and `best_params` are of the same trial.
    """

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
        """Number of trials that have ended."""
        return self.complete + self.pruned + self.failed


class StudyStatus(NamedTuple):
    """The status of a study.

    Attributes:
        state: `running`, `stopping`, `complete`, or `incomplete` (no process runs it).
        holder: the process that runs the study, or None.
        runs, runs_ended: runs wanted and ended: one for each seed of a trial, and one for each replicate.
        seconds_left: an estimate from the trials that have ended; None before the first, or if no process runs it.
        used: hours used so far.
        budget: limits of the budget: name -> (used, allowed), in hours.
        failures: what failed, with the reasons.
        retrained: complete runs of `retrain`, of the hyperparameters that are chosen now.
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
        """The status as JSON-compatible values: what `--json` prints."""
        nested = {
            "folder": str(self.folder),
            "used": self.used._asdict(),
            "methods": [m._asdict() for m in self.methods],
            "running": [r._asdict() for r in self.running],
        }
        return {**self._asdict(), **nested}


def existing(workspace: Path, name: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a study that was started before. Of a remote workspace, a copy is made first.

    Args:
        on_progress: called with the number of files that are copied, and of all.

    Raises:
        StudyError: the workspace has no study of this name.
        SourceError: the workspace's service does not answer or refuses.
    """
    folder = study_folder(workspace.resolve(), name)
    plain = name == folder.name  # not a path out of the workspace
    if plain:
        fetch_study(folder, on_progress=on_progress)
    if not plain or not (folder / CONFIG).exists():
        known = ", ".join(names(workspace)) or "none"
        raise StudyError(
            f"No study {name!r} in the workspace {place_of(workspace.resolve())}, which has: {known}. Start it with "
            f"`{own_command('run', 'FILE', workspace=workspace)}`, or set another --workspace."
        )
    return folder


def names(workspace: Path) -> list[str]:
    """Names of all studies of the workspace, in alphabetical order."""
    url = url_of(workspace.resolve())
    if url is not None:
        return sorted(path.split("/")[-2] for path in RemoteFolder(url).matching(f"studies/*/{CONFIG}"))
    return sorted(path.parent.name for path in workspace.glob(f"studies/*/{CONFIG}"))


def study_names(workspace: Path) -> list[str]:
    """Names of all studies, as of `names`, of a folder or URL that must be a workspace.

    Raises:
        StudyError: there is no workspace: the folder is missing, or holds only files of something else.
        SourceError: the workspace's service does not answer or refuses.
    """
    found = names(workspace)
    wrong = None if found else _why_no_workspace(workspace)
    if wrong is not None:
        raise StudyError(
            f"Cannot list studies: there is no workspace at {place_of(workspace.resolve())} ({wrong}). Start a study "
            f"with `{own_command('run', 'FILE', workspace=workspace)}`, or set another --workspace."
        )
    return found


def _why_no_workspace(workspace: Path) -> str | None:
    """Why a folder or URL without studies is no workspace; None if it is one, or an empty folder."""
    url = url_of(workspace.resolve())
    if url is not None:
        content = [*RemoteFolder(url).listing(flat=True), *RemoteFolder(url).matching("*")]
        if not content:
            return "nothing is stored there"
    elif workspace.is_dir():
        content = [path.name for path in workspace.iterdir()]
    else:
        return "it is a file" if workspace.exists() else "no such folder"
    if content and not {"studies", "runs"} & set(content):
        return "it has neither studies nor runs, but other files"
    return None


def study_status(folder: Path) -> StudyStatus:
    """The current status of the study in `folder`."""
    ledger = read_ledger(folder)
    study = ledger.study
    driver = driver_of(folder)
    methods = tuple(_progress(ledger, method) for method in study.methods)
    running = tuple(_running_runs(ledger)) if driver is not None else ()
    state, used = recorded_state(ledger), used_by(ledger)
    _, rates = read_clock(folder)
    return StudyStatus(
        name=study.name,
        question=study.question,
        objectives=study.metrics,
        folder=folder,
        state=_state(folder, driver, state.ended >= state.total),
        holder=driver,
        runs=state.total,
        runs_ended=state.ended,
        seconds_left=None if driver is None else _seconds_left(ledger, methods, running, rates),
        used=used,
        budget=used.limits(study.budget),
        methods=methods,
        running=running,
        failures=tuple(failures(ledger)),
        retrained=sum(r.state == "complete" for method in study.methods for r in retrained(ledger, method)),
    )


def failures(ledger: Ledger) -> list[str]:
    """Failed trials that were not retried and failed replicates, with their reasons."""
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
    best = ledger.chosen(method) if study.trials_of(method) else None
    return MethodProgress(
        name=method,
        trials=study.trials_of(method),
        complete=_count(trials, "complete"),
        pruned=_count(trials, "pruned"),
        failed=sum(t.state == "failed" and not t.retried for t in trials),
        running=_count(trials, "running"),
        replicates=study.replicates,
        replicated=len(complete_replicates(ledger, method)),
        best=None if best is None else best.values,
        best_number=None if best is None else best.number,
        best_params={} if best is None else best.params,
    )


def _count(trials: Sequence[TrialRecord], state: str) -> int:
    return sum(t.state == state for t in trials)


def _seconds_left(
    ledger: Ledger, methods: Sequence[MethodProgress], running: Sequence[RunningRun], rates: Rates
) -> float | None:
    """An estimate: further trials take as long as those that have ended, replicates as long as complete trials.

    It is at least the time of the runs that must follow each other: the longest trial, and then a replicate.
    """
    trials = [t for ts in ledger.trials.values() for t in ts if t.state in ("complete", "pruned") and t.seconds > 0]
    if not trials:
        return None
    seeds = ledger.study.seeds_per_trial
    each = statistics.fmean(t.seconds for t in trials)
    complete = statistics.fmean([t.seconds / seeds for t in trials if t.state == "complete"] or [each])
    under_way = sum(m.running for m in methods)
    to_come = max(0, sum(m.trials - m.ended for m in methods) - under_way)
    replicates = sum(m.replicates - m.replicated for m in methods)
    replicates = max(0, replicates - (len(running) - under_way))
    now = [(complete if run.seconds_left is None else run.seconds_left) + run.following * complete for run in running]
    in_turn = max([*now, each if to_come else 0.0], default=0.0) + (complete if replicates else 0.0)
    return max(in_turn, (to_come * each + replicates * complete + sum(now)) / max(1, rates.at_once))


def _running_runs(ledger: Ledger) -> list[RunningRun]:
    """The active run of each running trial and replicate. The seeds of a trial run one after the other."""
    found = []
    for method in ledger.study.methods:
        active = [
            (f"{method}-{SEARCH}-{t.number}", t.folders) for t in ledger.trials.get(method, ()) if t.state == "running"
        ]
        active += [
            (f"{method}-{r.stage}-{r.number}", (r.folder,))
            for r in ledger.replicates.get(method, ())
            if r.state == "running"
        ]
        found += [_running(label, folders) for label, folders in active]
    return found


def _running(label: str, folders: Sequence[str]) -> RunningRun:
    runs = [RunFolder(Path(folder)) for folder in folders]
    number, run = next(((n, r) for n, r in enumerate(runs) if r.result() is None), (len(runs) - 1, None))
    if run is None:
        return RunningRun(label, 0, 0, None, None)
    name = f"{label} (seed {number + 1} of {len(runs)})" if len(runs) > 1 else label
    history, epochs = run.history, int(run.config().get("epochs", 0))
    left = None if not history else (epochs - len(history)) * run.seconds / len(history)
    early = run.ended_early()
    return RunningRun(
        name, len(history), epochs, history[-1]["val/accuracy"] if history else None, left,
        str(early) if isinstance(early, RunPreempted) else None, len(runs) - number - 1,
    )  # fmt: skip


def ask_to_stop(folder: Path) -> str:
    """Ask the process that runs a study to stop: runs end after their current epoch, and no further run starts.

    Returns:
        The id of that process.

    Raises:
        StudyError: no process runs the study.
    """
    driver = driver_of(folder)
    if driver is None:
        raise StudyError(f"Cannot stop the study {folder.name}: no process runs it.")
    request_stop(folder)
    return driver


def method_of(study: StudyConfig, method: str | None) -> str:
    """`method`, or the study's reference if it is None.

    Raises:
        StudyError: the study has no such method.
    """
    name = study.reference if method is None else method
    if name not in study.methods:
        raise StudyError(f"`--method` must be one of {', '.join(study.methods)}, but is {name!r}.")
    return name


class Best(NamedTuple):
    """The best trial of a method.

    Attributes:
        run: configuration of a run with its hyperparameters, evaluated on the test set.
        values: its objectives, on validation.
        number: of the trial.
        params: its hyperparameters.
        searched: the method whose trial it is; another one if `method` replays it.
    """

    method: str
    run: RunConfig
    values: tuple[float, ...]
    number: int
    params: dict[str, Any]
    searched: str


def best_run(folder: Path, method: str | None) -> Best:
    """The best trial so far of a method (default: the reference).

    Raises:
        StudyError: the study has no such method, or none of its trials is complete.
    """
    ledger = read_ledger(folder)
    name = method_of(ledger.study, method)
    found = ledger.chosen(name)
    if found is None:
        searched = ledger.study.searched(name)
        raise StudyError(f"Cannot choose the best trial of `{searched}`: none is complete. Resume the study first.")
    last = {"evaluation.test": True, "evaluation.probe": True}
    run = configure(ledger.study, name, found.params, ledger.study.seed, last)
    if needs := needed_methods(ledger.study, {})[name]:
        chosen = {what: ledger.chosen(other) for what, other in needs.items()}
        folders = {what: Path(trial.folders[0]) for what, trial in chosen.items() if trial is not None}
        run = with_needed(run, {what: url_of(path) or str(path) for what, path in folders.items()})
    return Best(name, run, found.values, found.number, found.params, ledger.study.searched(name))


def _state(folder: Path, driver: str | None, complete: bool) -> str:
    if driver is None:
        return "complete" if complete else "incomplete"
    return "stopping" if (folder / STOP).exists() else "running"
