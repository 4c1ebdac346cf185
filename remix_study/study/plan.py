"""The plan of a study: what `run` would do, and how long it would take

The duration is extrapolated from a few epochs that are trained in a temporary folder, on a part of a large corpus.
"""

import logging
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import remix_study
from remix_study.assemble import assemble, split_rows
from remix_study.config.assignment import ReducibleLossConfig
from remix_study.config.load import parse_run
from remix_study.config.method import RemixConfig, replayed_of
from remix_study.config.run import RunConfig
from remix_study.config.study import NoPrunerConfig, StudyConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.files.mirror import url_of
from remix_study.files.urls import is_url, shown
from remix_study.launch.run import tracking_uri
from remix_study.launch.teachers import untrained_teachers
from remix_study.launch.worker import worker_threads
from remix_study.media.store import ClipStore
from remix_study.statistics import seeds_for_sign_flip
from remix_study.study.budget import Rates, Used
from remix_study.study.combinations import configs_of, planned
from remix_study.study.extent import complete_replicates, recorded_state, used_by
from remix_study.study.ledger import Ledger, ended_trials, read_ledger
from remix_study.study.needed import needed_methods
from remix_study.study.outcomes import FEWEST_SEEDS
from remix_study.study.placement import slots
from remix_study.study.preflight import needs_of, require_study_fit, require_tracking
from remix_study.study.question import CONFIG, require_same_question
from remix_study.study.remote import fetch_study
from remix_study.study.search_space import SpaceRow, configure, effective_space, grid, space_of
from remix_study.study.sentences import counted
from remix_study.study.storage import JOURNAL, check_storage, open_to_read, require_driver, study_folder
from remix_study.study.study_file import check_study
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import train
from remix_study.world import Solo

_BATCHES = 4  # at most so many batches, or `_CLIPS` clips, of an epoch are timed
_CLIPS = 256
_log = logging.getLogger(__name__)


class RunCost(NamedTuple):
    """Estimated cost of one run of a method.

    Attributes:
        epoch_s: seconds of an epoch, on average.
        trial_s: seconds of a run of a trial.
        replicate_s: seconds of a replicate, which is also evaluated on the test set and probed.
        bytes: disk space of a run.
    """

    epoch_s: float
    trial_s: float
    replicate_s: float
    bytes: int


class MethodPlan(NamedTuple):
    """The plan of one method.

    Attributes:
        space: its search space.
        points: hyperparameters that are tried first: the known-good ones, then the grid, if any.
        trials: trials wanted; `ended` have ended, and `trials_left` are started or resumed.
        resumed: names of the trials that are resumed.
        replicates: replicates wanted; `replicates_left` are started.
        replicates_again: complete replicates that are started again if further trials change the choice.
        example: the full configuration of a trial's run.
        cost: None if nothing was timed.
        needs: the methods whose runs it needs; they are searched and replicated before it.
        counted_s: seconds of all its runs and of all runs of the methods that it needs; None if nothing was timed.
    """

    name: str
    space: tuple[SpaceRow, ...]
    points: tuple[Mapping[str, Any], ...]
    trials: int
    trials_left: int
    resumed: tuple[str, ...]
    ended: int
    replicates: int
    replicates_left: int
    replicates_again: int
    example: RunConfig
    cost: RunCost | None
    needs: tuple[str, ...] = ()
    counted_s: float | None = None

    def all_s(self, seeds: int) -> float | None:
        """Seconds of all its runs, with `seeds` runs of a trial; None if nothing was timed."""
        if self.cost is None:
            return None
        return self.trials * seeds * self.cost.trial_s + self.replicates * self.cost.replicate_s


class Plan(NamedTuple):
    """The plan of a study.

    Attributes:
        corpus: its place and size.
        concurrency: runs at once.
        comparisons: planned comparisons: of the reference with other methods, of combinations with their parts, and
            with controls.
        seeds_per_trial: runs of a trial.
        replicates: of each method.
        replicates_for_verdict: replicates that a verdict needs.
        replicates_for_sign_flip: replicates with which the exact sign-flip test can be significant after the correction
            for the number of comparisons.
        runs_left: runs to start or to resume, as `status` counts them.
        runs_again: complete replicates that are started again if further trials change the choice; the duration, the
            hours and the disk include them.
        seconds: wall-clock duration; None if nothing was timed.
        cost: hours that the runs would use; None if nothing was timed.
        used: hours used by earlier starts.
        budget: limits: name -> (used, allowed), in hours.
        at_most: whether a pruner or the budget may end the study earlier, or `runs_again` may not be started.
        bytes: disk space of all runs; None if nothing was timed.
        bytes_free: free space of the workspace; None at a URL.
    """

    name: str
    question: str
    corpus: str
    sampler: str
    pruner: str
    concurrency: int
    methods: tuple[MethodPlan, ...]
    comparisons: int
    seeds_per_trial: int
    replicates: int
    replicates_for_verdict: int
    replicates_for_sign_flip: int
    runs_left: int
    runs_again: int
    seconds: float | None
    cost: Used | None
    used: Used
    budget: dict[str, tuple[float, float]]
    at_most: bool
    bytes: int | None
    bytes_free: int | None

    def plain(self) -> dict[str, Any]:
        """The plan as JSON-compatible values: what `--json` prints."""
        methods = [
            {
                **m._asdict(),
                "space": [row._asdict() for row in m.space],
                "example": m.example.model_dump(mode="json"),
                "cost": None if m.cost is None else m.cost._asdict(),
            }
            for m in self.methods
        ]
        used = {"cost": None if self.cost is None else self.cost._asdict(), "used": self.used._asdict()}
        return {**self._asdict(), **used, "methods": methods}


def make_plan(
    config: StudyConfig,
    settings: Mapping[str, Any],
    workspace: Path,
    *,
    timed: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005 - default of a callback
) -> Plan:
    """The plan of what `run` would do now. Starts no run of the study and writes nothing to the workspace.

    Args:
        settings: dotted keys that override the study's `base`.
        timed: train up to three epochs of each method in a temporary folder to estimate its cost.
        progress: called with the number of methods that are timed, and of all.

    Raises:
        ConfigError, StudyError: `run` would refuse to start.
    """
    folder = study_folder(workspace.resolve(), config.name)
    check_storage(config.storage, url_of(folder))
    require_driver(config.storage)
    fetch_study(folder)
    configs = check_study(config, settings)
    where = configs[0].corpus
    store = open_corpus(where)
    require_study_fit(config, settings, store)
    require_same_question(config, store.digest, folder)
    _require_reachable(config, configs[0], workspace, folder)
    needs = needs_of(config, configs)
    at_once, gpus = slots(needs, worker_threads(1), torch.cuda.device_count())
    # The planned file with the trials of the one that was run, which may have wanted fewer trials.
    ledger = (
        read_ledger(folder)._replace(study=config) if (folder / CONFIG).exists() else Ledger(config, folder, {}, {})
    )
    methods = []
    for done, method in enumerate(config.methods):
        example = configure(config, method, _first_point(config, method), config.seed, settings)
        cost = cost_of(example, store, worker_threads(at_once)) if timed else None
        methods.append(_method_plan(ledger, method, example, cost))
        progress(done + 1, len(config.methods))
    methods = _with_needs(config, settings, methods)
    rates = Rates(needs.workers * needs.cpus, needs.workers * gpus, at_once)
    used, state = used_by(ledger), recorded_state(ledger)
    again = sum(m.replicates_again for m in methods)
    comparisons = len(planned(config, configs_of(config)))
    work_s, disk = _work_left(methods, config.seeds_per_trial) if timed else (None, None)
    seconds = None if work_s is None else max(work_s / at_once, _longest_s(methods, config.seeds_per_trial))
    return Plan(
        name=config.name,
        question=config.question,
        corpus=f"{shown(where) if is_url(where) else store.path}: {_training_clips(configs, store)}",
        sampler=config.sampler,
        pruner=config.pruner.name,
        concurrency=at_once,
        methods=tuple(methods),
        comparisons=comparisons,
        seeds_per_trial=config.seeds_per_trial,
        replicates=config.replicates,
        replicates_for_verdict=FEWEST_SEEDS,
        replicates_for_sign_flip=seeds_for_sign_flip(max(1, comparisons)),
        runs_left=state.total - state.ended,
        runs_again=again,
        seconds=seconds,
        cost=None if work_s is None or seconds is None else rates.used(work_s, seconds),
        used=used,
        budget=used.limits(config.budget),
        at_most=not isinstance(config.pruner, NoPrunerConfig) or bool(used.limits(config.budget)) or again > 0,
        bytes=disk,
        bytes_free=None if url_of(folder) is not None else shutil.disk_usage(_existing(folder)).free,
    )


def _training_clips(configs: Sequence[RunConfig], store: ClipStore) -> str:
    """How many clips the runs of trials train on, and how many are control clips."""
    sizes = [{name: len(found) for name, found in split_rows(config, store).items()} for config in configs]
    parts = [f"{counted([size['train'] for size in sizes])} training clips"]
    if any("control" in size for size in sizes):
        parts.append(f"{counted([size.get('control', 0) for size in sizes])} control clips")
    return ", ".join(parts)


def _with_needs(config: StudyConfig, settings: Mapping[str, Any], methods: Sequence[MethodPlan]) -> list[MethodPlan]:
    """The same methods, with those whose runs they need and what they cost with them."""
    needs, found = needed_methods(config, settings), []
    own_s = {method.name: method.all_s(config.seeds_per_trial) or 0.0 for method in methods}
    for method in methods:
        others = tuple(needs[method.name].values())
        counted_s = None if method.cost is None else sum(own_s[name] for name in (method.name, *others))
        found.append(method._replace(needs=others, counted_s=counted_s))
    return found


def _work_left(methods: Sequence[MethodPlan], seeds: int) -> tuple[float, int]:
    """Seconds and bytes of all runs that are left, one after the other. `seeds`: runs of a trial."""
    work_s, disk = 0.0, 0
    for method in methods:
        if method.cost is not None:
            trials, replicates = method.trials_left * seeds, method.replicates_left + method.replicates_again
            work_s += trials * method.cost.trial_s + replicates * method.cost.replicate_s
            disk += (trials + replicates) * method.cost.bytes
    return work_s, disk


def _longest_s(methods: Sequence[MethodPlan], seeds: int) -> float:
    """Seconds of the runs that must follow each other, however many run at once: of a method and those it needs."""
    own = {
        method.name: (seeds * method.cost.trial_s if method.trials_left else 0.0)
        + (method.cost.replicate_s if method.replicates_left + method.replicates_again else 0.0)
        for method in methods
        if method.cost is not None
    }
    return max(
        (own.get(method.name, 0.0) + max((own.get(name, 0.0) for name in method.needs), default=0.0))
        for method in methods
    )


def _require_reachable(config: StudyConfig, run: RunConfig, workspace: Path, folder: Path) -> None:
    """Refuse what `run` would refuse: a storage or a tracking server that does not answer. Creates no file."""
    if config.storage not in (None, JOURNAL) and not f"{config.storage}".startswith("sqlite"):
        open_to_read(config.storage, folder)
    if not f"{tracking_uri(run, workspace)}".startswith("sqlite"):
        require_tracking(run, workspace, folder, lambda message: None)  # noqa: ARG005 - `run` says it


def _method_plan(ledger: Ledger, method: str, example: RunConfig, cost: RunCost | None) -> MethodPlan:
    config = ledger.study
    trials = ledger.trials.get(method, ())
    ended, searched = (ended_trials(ledger.trials.get(name, ())) for name in (method, config.searched(method)))
    replicated = len(complete_replicates(ledger, method))
    unfinished = [t for t in trials if t.state in ("running", "stopped")]
    points, wanted = list(config.methods[method].first), config.trials_of(method)
    if config.sampler == "grid":
        points += [point for point in grid(space_of(config, config.methods[method])) if point not in points]
    return MethodPlan(
        name=method,
        space=tuple(effective_space(config, method)),
        points=tuple(points[:wanted]),
        trials=wanted,
        trials_left=max(0, wanted - ended),
        resumed=tuple(f"{method}-search-{t.number}" for t in unfinished),
        ended=ended,
        replicates=config.replicates,
        replicates_left=config.replicates - replicated,
        replicates_again=replicated if searched < config.trials else 0,
        example=example,
        cost=cost,
    )


def _first_point(config: StudyConfig, method: str) -> Mapping[str, Any]:
    """The first known-good hyperparameters, or none."""
    first = config.methods[config.searched(method)].first
    return first[0] if first else {}


def cost_of(config: RunConfig, store: ClipStore, threads: int) -> RunCost:
    """Estimate the cost of a run from a few epochs in a temporary folder, with the torch threads of the study."""
    at_most = max(_CLIPS, _BATCHES * config.global_batch)
    short, warmup = _shortened(config)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
            with without_warnings():  # of a shortened run, on a part of the corpus, they do not hold for the study's
                teachers = untrained_teachers(short, store)
                run = assemble(short, store, Solo(), device, NullTracker(), folder, teachers=teachers, at_most=at_most)
                result = train(run, checked=False)
            checkpoints = sum(path.stat().st_size for path in folder.rglob("*.pt"))
            line = (folder / "history.jsonl").stat().st_size / len(result.history)
    finally:
        torch.set_num_threads(before)
    whole = split_rows(config, store)  # with the control split, which the corpus does not have
    longer = {split: len(whole[split]) / len(rows) for split, rows in run.rows.items()}
    epochs = [_epoch_s(config, record, longer) for record in result.history]
    ordinary = epochs[-1]
    # The first epoch also includes one-time costs, but it may be the only one of the warm-up.
    several = isinstance(short.method, RemixConfig) and short.method.warmup > 1
    first = epochs[int(several)] if warmup else ordinary
    training = warmup * first + (config.epochs - warmup) * ordinary
    training += _before_s(config, len(epochs), result.history[0]["time/score_s"]) * longer["train"] / config.workers
    evidence = result.summary["time/evidence_s"] * longer["train"]
    return RunCost(
        epoch_s=statistics.fmean([first] * warmup + [ordinary] * (config.epochs - warmup)),
        trial_s=training,
        replicate_s=training + evidence,
        bytes=checkpoints + round(line * config.epochs),
    )


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide this package's and Python's warnings, unless the libraries' log messages are shown (`--debug`)."""
    if _log.isEnabledFor(logging.INFO):
        yield
        return
    ours = logging.getLogger(remix_study.__name__)
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(before)


def _shortened(config: RunConfig) -> tuple[RunConfig, int]:
    """A run of at most three epochs, of which one is a warm-up epoch; and the number of warm-up epochs of `config`."""
    content = config.model_dump(mode="json")
    content["epochs"] = min(3, config.epochs)
    content["evaluation"] |= {"probe": True, "test": False, "ceilings": "none"}
    content["rate"] = {"name": "constant"}
    if replayed_of(config.method) is not None:  # of a run that does not exist yet; any numbers cost the same
        content["method"]["filter"] = {"rule": "random"}
    warmup = config.method.warmup if isinstance(config.method, RemixConfig) else 0
    if isinstance(config.method, RemixConfig):
        content["method"]["rescore_every"] = 1  # so that the timed epoch has a scoring pass
    if warmup:
        content["method"]["warmup"] = min(2, warmup, content["epochs"] - 1)
    return parse_run(content, "the timed run"), warmup


def _epoch_s(config: RunConfig, record: Mapping[str, float], longer: Mapping[str, float]) -> float:
    """Seconds of an epoch on the whole corpus. All workers share training and scoring."""
    every = config.method.rescore_every if isinstance(config.method, RemixConfig) else 1
    work = record["time/train_s"] + record["time/score_s"] / every
    return (work * longer["train"] + record["time/evaluate_s"] * longer["val"]) / config.workers


def _before_s(config: RunConfig, timed: int, score_s: float) -> float:
    """Seconds of the models that `reducible_loss` trains before the first epoch; 0 for any other rule.

    Args:
        timed: epochs of the timed run.
        score_s: seconds before its first epoch, which has no other pass, or one that is shorter than these models.
    """
    if not isinstance(config.method, RemixConfig) or not isinstance(config.method.filter, ReducibleLossConfig):
        return 0.0
    wanted = config.method.filter.reference_epochs
    return score_s * min(wanted, config.epochs) / min(wanted, timed)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
