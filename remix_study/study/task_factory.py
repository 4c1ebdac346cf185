"""Trials and replicates as tasks: their run configurations, run folders, tags and pruning callbacks"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from remix_study.config.load import with_needed
from remix_study.config.method import REPLAYED, replayed_of, teachers_of
from remix_study.config.study import NoPrunerConfig, StudyConfig
from remix_study.errors import StudyError
from remix_study.files.mirror import url_of
from remix_study.launch.other_run import digest_of, named_runs
from remix_study.launch.run import make_job, place_of
from remix_study.launch.worker import Job
from remix_study.study.ledger import FINAL, SEARCH
from remix_study.study.pruning import PruningCallback, pruning_callback
from remix_study.study.replicates import replicate_seed
from remix_study.study.search_space import Params, configure
from remix_study.study.storage import optuna_name, study_folder
from remix_study.study.tasks import Task

Needed = Mapping[str, Job]  # what for (study/needed.py) -> the run; empty for a run that needs none
NOTHING: Needed = MappingProxyType({})


@dataclass(frozen=True)
class TaskFactory:
    """Makes the tasks of one study.

    Args:
        settings: dotted keys that override the study's `base`.
        workspace: an absolute path.
        corpus_digest: digest of the corpus that the runs train on.
        epochs: epochs of the study's longest run.
        with_control: whether the runs of `retrain` train on the control clips, too.
        parent_run_id: returns the id of the study's own MLflow run, or None before a tracking server knows the study.
    """

    config: StudyConfig
    settings: Mapping[str, Any]
    workspace: Path
    corpus_digest: str
    epochs: int
    parent_run_id: Callable[[], str | None]
    with_control: bool = False

    def trial(self, method: str, number: int, params: Params, trial_id: int, needed: Sequence[Needed] = ()) -> Task:
        """A trial: one run for each of its seeds.

        Args:
            trial_id: Optuna's id of it.
            needed: for each seed, the runs that its run needs; empty if none needs any.
        """
        jobs = self.trial_jobs(method, number, params, needed)
        pruned = not isinstance(self.config.pruner, NoPrunerConfig)
        # Only the run of the first seed reports to the pruner, because a trial has one value per epoch.
        ids = [trial_id if pruned and n == 0 else None for n in range(len(jobs))]
        callbacks = tuple(self._callback(job, method, each) for job, each in zip(jobs, ids, strict=True))
        return Task(SEARCH, method, number, jobs, callbacks)

    def trial_jobs(self, method: str, number: int, params: Params, needed: Sequence[Needed] = ()) -> tuple[Job, ...]:
        """The runs of a trial; see `trial`."""
        seeds = [self.config.seed + n for n in range(self.config.seeds_per_trial)]
        each = needed or [NOTHING] * len(seeds)
        return tuple(self._job(SEARCH, method, number, params, *of) for of in zip(seeds, each, strict=True))

    def replicate(self, stage: str, method: str, number: int, params: Params, needed: Needed = NOTHING) -> Task:
        """A replicate: one run with a seed of its own, which no pruner ends early."""
        job = self.replicate_job(stage, method, number, params, needed)
        return Task(stage, method, number, (job,), (self._callback(job, method, None),))

    def require_retrainable(self, method: str, params: Params) -> None:
        """Check that a method with these hyperparameters can train on the clips that `retrain` gives it.

        Raises:
            StudyError: it reads the control clips while it trains, so it cannot train on them.
        """
        reading = configure(self.config, method, params, 0, self.settings).reading_control
        if self.with_control and reading:
            raise StudyError(
                f"Cannot retrain `{method}` with its control clips, because {' and '.join(reading)} "
                f"{'needs' if len(reading) == 1 else 'need'} clips that are not trained on. Leave out `--with-control`."
            )

    def replicate_job(self, stage: str, method: str, number: int, params: Params, needed: Needed = NOTHING) -> Job:
        """The run of a replicate. `needed`: the runs that it needs."""
        return self._job(stage, method, number, params, replicate_seed(self.config.seed, stage, number), needed)

    def _callback(self, job: Job, method: str, trial_id: int | None) -> PruningCallback:
        return pruning_callback(
            self.config,
            study_folder(self.workspace, self.config.name),
            optuna_name=optuna_name(self.config.name, method),
            trial=trial_id,
            epochs=self.epochs,
            last=job.config.epochs,
        )

    def _job(self, stage: str, method: str, number: int, params: Params, seed: int, needed: Needed) -> Job:
        """One run. Only replicates evaluate on the held-out test set."""
        final = stage != SEARCH
        evaluation = {"evaluation.test": final, "evaluation.probe": final}
        whole = {"control_fraction": 0.0} if self.with_control and stage == FINAL else {}
        config = configure(self.config, method, params, seed, {**self.settings, **evaluation, **whole})
        trial = f"{method}-{stage}-{number}"
        several = stage == SEARCH and self.config.seeds_per_trial > 1
        name = f"{trial}-seed{seed - self.config.seed}" if several else trial
        digests = {what: digest_of(place) for what, place in named_runs(config).items()}  # trained outside the study
        trains, replays = teachers_of(config.method) == "train", replayed_of(config.method) is not None
        needed = {what: run for what, run in needed.items() if (replays if what == REPLAYED else trains)}
        config = with_needed(config, {what: place_of(run) for what, run in needed.items()})
        digests |= {what: run.digest for what, run in needed.items()}
        job = make_job(config, self.corpus_digest, self.workspace, needed=digests)
        folder = study_folder(self.workspace, self.config.name) / "runs" / f"{name}-{job.digest}"
        first = final and number == 0  # only the first replicate logs its figures and its model
        return replace(
            job,
            folder=str(folder),
            url=url_of(folder),
            name=name,
            tags={
                "remix_study.study": self.config.name,
                "remix_study.stage": stage,
                "remix_study.contender": method,
                "remix_study.number": str(number),
                "remix_study.trial": trial,
            },
            params={f"point.{path}": value for path, value in params.items() if value is not None},
            parent_run_id=self.parent_run_id(),
            cpus=self.config.resources.cpus,
            figures=first,
            log_model=first and config.tracking.model,
            wait=True,
            spool=True,
        )
