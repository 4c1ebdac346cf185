"""The plan: what `run` would do with a study file, and what that would cost; nothing is started

The cost comes from epochs that are really trained, in a temporary folder, on a part of the clips where there are many.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from remix_study.assemble import assemble
from remix_study.config.load import parse_run
from remix_study.config.run import RemixConfig, RunConfig
from remix_study.config.study import NoPrunerConfig, StudyConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.files.mirror import url_of
from remix_study.files.urls import is_url, shown
from remix_study.fit import require_fit
from remix_study.launch.worker import worker_threads
from remix_study.media.store import ClipStore
from remix_study.study.budget import Rates, Used, read_clock
from remix_study.study.ledger import Ledger, chosen_replicates, read_ledger
from remix_study.study.preflight import needs_of
from remix_study.study.question import CONFIG, require_same_question
from remix_study.study.remote import look_in
from remix_study.study.search_space import SpaceRow, configure, effective_space, grid, space_of
from remix_study.study.storage import check_storage, study_folder
from remix_study.study.study_file import check_study
from remix_study.study.tasks import slots
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import train
from remix_study.world import Solo

_BATCHES = 4  # timed of an epoch where the corpus has more
_CLIPS = 256


class RunCost(NamedTuple):
    """Of one run of a method at an ordinary point. trial_s, replicate_s: seconds; a replicate also looks at test."""

    epoch_s: float
    trial_s: float
    replicate_s: float
    bytes: int


class MethodPlan(NamedTuple):
    """trials_left: to begin or to go on with; resumed: of those, how many go on, with the epochs they have.

    points: what is tried before the sampler is asked (of a grid, all of it), choices by their labels.
    example: a trial's run, fully resolved. cost: None where nothing was timed.
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
    example: RunConfig
    cost: RunCost | None


class Plan(NamedTuple):
    """seconds: of the clock; at_most: a pruner or a budget may end it sooner.

    bytes_free: where it would write; None at a URL.
    """

    name: str
    question: str
    corpus: str
    sampler: str
    pruner: str
    concurrency: int
    methods: tuple[MethodPlan, ...]
    runs_left: int
    seconds: float | None
    cost: Used | None
    used: Used
    budget: dict[str, tuple[float, float]]
    at_most: bool
    bytes: int | None
    bytes_free: int | None

    def plain(self) -> dict[str, Any]:
        """For machines: what `--json` prints."""
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
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Plan:
    """What `run` would do now.

    Raises:
        ConfigError, StudyError: what `run` would refuse.
    """
    folder = study_folder(workspace.resolve(), config.name)
    check_storage(config.storage, url_of(folder))
    look_in(folder)
    configs = check_study(config, settings)
    where = configs[0].corpus
    store = open_corpus(where)
    for run in configs:
        require_fit(run, store)
    require_same_question(config, store.digest, folder)
    needs = needs_of(config, configs)
    at_once, gpus = slots(needs, worker_threads(1), torch.cuda.device_count())
    # The file that is planned, on the record of the one that was run: it may have more trials.
    ledger = (
        read_ledger(folder)._replace(study=config) if (folder / CONFIG).exists() else Ledger(config, folder, {}, {})
    )
    methods = []
    for done, method in enumerate(config.methods):
        example = configure(config, method, _first_point(config, method), config.seed, settings)
        cost = cost_of(example, store, worker_threads(at_once)) if timed else None
        methods.append(_method_plan(ledger, method, example, cost))
        progress(done + 1, len(config.methods))
    rates = Rates(needs.workers * needs.cpus, needs.workers * gpus, at_once)
    clock_s, _ = read_clock(folder)
    used = rates.used(sum(t.seconds for ts in ledger.trials.values() for t in ts), clock_s)
    seeds = config.seeds_per_trial
    work_s = disk = None
    if timed:
        left = [(m.trials_left * seeds, m.replicates_left, m.cost) for m in methods if m.cost is not None]
        work_s = sum(trials * cost.trial_s + replicates * cost.replicate_s for trials, replicates, cost in left)
        disk = sum((trials + replicates) * cost.bytes for trials, replicates, cost in left)
    return Plan(
        name=config.name,
        question=config.question,
        corpus=f"{shown(where) if is_url(where) else store.path}: {len(store.rows('train'))} training clips",
        sampler=config.sampler,
        pruner=config.pruner.name,
        concurrency=at_once,
        methods=tuple(methods),
        runs_left=sum(m.trials_left * seeds + m.replicates_left for m in methods),
        seconds=None if work_s is None else work_s / at_once,
        cost=None if work_s is None else rates.used(work_s, work_s / at_once),
        used=used,
        budget=used.limits(config.budget),
        at_most=not isinstance(config.pruner, NoPrunerConfig) or bool(used.limits(config.budget)),
        bytes=disk,
        bytes_free=None if url_of(folder) is not None else shutil.disk_usage(_existing(folder)).free,
    )


def _method_plan(ledger: Ledger, method: str, example: RunConfig, cost: RunCost | None) -> MethodPlan:
    config = ledger.study
    trials = ledger.trials.get(method, ())
    ended = sum(t.state in ("complete", "pruned") or (t.state == "failed" and not t.retried) for t in trials)
    replicated = sum(r.state == "complete" for r in chosen_replicates(ledger, method))
    unfinished = [t for t in trials if t.state in ("running", "stopped")]
    points = list(config.methods[method].first)
    if config.sampler == "grid":
        points += [point for point in grid(space_of(config, config.methods[method])) if point not in points]
    return MethodPlan(
        name=method,
        space=tuple(effective_space(config, method)),
        points=tuple(points[: config.trials]),
        trials=config.trials,
        trials_left=max(0, config.trials - ended),
        resumed=tuple(f"{method}-search-{t.number}" for t in unfinished),
        ended=ended,
        replicates=config.replicates,
        # More trials may choose another point, which is then replicated anew.
        replicates_left=config.replicates - (replicated if ended >= config.trials else 0),
        example=example,
        cost=cost,
    )


def _first_point(config: StudyConfig, method: str) -> Mapping[str, Any]:
    """A known-good point, or what is set anyway."""
    first = config.methods[method].first
    return first[0] if first else {}


def cost_of(config: RunConfig, store: ClipStore, threads: int) -> RunCost:
    """Train a few epochs of `config` in a temporary folder, with torch's `threads` as in the study."""
    at_most = max(_CLIPS, _BATCHES * config.global_batch)
    short, warmup = _shortened(config)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
            run = assemble(short, store, Solo(), device, NullTracker(), folder, at_most=at_most)
            result = train(run)
            checkpoints = sum(path.stat().st_size for path in folder.rglob("*.pt"))
            line = (folder / "history.jsonl").stat().st_size / len(result.history)
    finally:
        torch.set_num_threads(before)
    longer = {split: len(store.rows(split)) / len(rows) for split, rows in run.rows.items()}
    epochs = [_epoch_s(config, record, longer) for record in result.history]
    ordinary = epochs[-1]
    first = epochs[1] if warmup else ordinary  # the very first also pays for what is done once
    training = warmup * first + (config.epochs - warmup) * ordinary
    evidence = result.summary["time/evidence_s"] * longer["train"]
    return RunCost(
        epoch_s=statistics.fmean([first] * warmup + [ordinary] * (config.epochs - warmup)),
        trial_s=training,
        replicate_s=training + evidence,
        bytes=checkpoints + round(line * config.epochs),
    )


def _shortened(config: RunConfig) -> tuple[RunConfig, int]:
    """Three epochs (of a run that has them), a warm-up's own epoch among them; and the warm-up of the whole run."""
    content = config.model_dump(mode="json")
    content["epochs"] = min(3, config.epochs)
    content["evaluation"] |= {"probe": True, "test": False, "ceilings": "none"}
    content["rate"] = {"name": "constant"}
    warmup = config.method.warmup if isinstance(config.method, RemixConfig) else 0
    if warmup:
        content["method"]["warmup"] = min(2, warmup, content["epochs"] - 1)
    return parse_run(content, "the timed run"), warmup


def _epoch_s(config: RunConfig, record: Mapping[str, float], longer: Mapping[str, float]) -> float:
    """Of the whole corpus and all workers, which share training and scoring."""
    every = config.method.rescore_every if isinstance(config.method, RemixConfig) else 1
    work = record["time/train_s"] + record["time/score_s"] / every
    return (work * longer["train"] + record["time/evaluate_s"] * longer["val"]) / config.workers


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
