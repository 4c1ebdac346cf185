"""Launching one run as a Ray Train TorchTrainer

A single worker runs in this process, in Ray Train's local mode, and starts in under a second. Several workers are
processes of a Ray cluster; they communicate through gloo on CPUs and NCCL on GPUs. In both cases all state is in the
run folder, and rerunning the command resumes the run.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from remix_study import ray_private
from remix_study.config.load import parse_run, with_needed
from remix_study.config.method import names_of, teachers_of
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import ConfigError, RemixStudyError, RunPreempted, TrackingError, cause_of
from remix_study.files.mirror import url_of
from remix_study.files.urls import corpus_at, shown
from remix_study.fit import require_fit
from remix_study.launch.folder import RunFolder
from remix_study.launch.needed import require_needed
from remix_study.launch.nodes import code_for_workers, on_cluster, require_identical_nodes
from remix_study.launch.other_run import named_runs
from remix_study.launch.preemption import node_is_draining, own_node
from remix_study.launch.ray_init import join_or_start, on_loopback, ray_resources
from remix_study.launch.worker import Job, work, worker_threads
from remix_study.launch.working_copy import working_copy
from remix_study.media.store import ClipStore
from remix_study.names import is_name, name_problem
from remix_study.networks import modalities_of
from remix_study.tracking.address import check as check_tracking
from remix_study.tracking.address import default_uri, explain, tracking_address
from remix_study.tracking.signals import restore_signal_handlers
from remix_study.tracking.spool import end_unfinished_run
from remix_study.training.run import EpochCallback
from remix_study.training.state import Record

OFF = "off"
log = logging.getLogger(__name__)
_WRITER_S = 30.0  # how long to wait for a worker that Ray is killing


def tracking_uri(config: RunConfig, workspace: Path) -> str | None:
    """Return the run's tracking URI, with `$NAME`s unresolved; None if the run is not tracked."""
    if config.tracking.uri == OFF:
        return None
    return tracking_address(config.tracking.uri, workspace)


def require_lasting_database(uri: str, workspace: Path) -> None:
    """Check that MLflow's database would not be in this machine's temporary copy of a remote workspace.

    Raises:
        TrackingError: the workspace is at a URL, and no tracking server is set.
    """
    url = url_of(workspace.resolve())
    if url is not None and uri == default_uri(workspace):
        raise TrackingError(
            f"Cannot keep MLflow's database in the remote workspace {shown(url)}: a database needs a local disk. Set "
            "MLFLOW_TRACKING_URI to a tracking server (see docs/tracking.md), or set `tracking: {uri: off}`."
        )


def make_job(
    config: RunConfig,
    data: str,
    workspace: Path,
    name: str | None = None,
    needed: Mapping[str, str] = MappingProxyType({}),
) -> Job:
    """Return the job that trains `config`.

    Args:
        data: the digest of the clip store.
        name: of the run folder below `runs/`. Default: method, seed and digest.
        needed: the digests of the runs that `config` names, as `require_needed` returns them.

    Raises:
        ConfigError: `name` is not a name as names.py defines it.
    """
    if name is not None and not is_name(name):
        raise ConfigError(f"`--name`{name_problem(name)}.")
    digest = config.digest(data, needed)
    if named := named_runs(config):  # workers have another working directory
        config = with_needed(config, {what: corpus_at(place) for what, place in named.items()})
    name = name or f"{'-'.join(names_of(config.method))}-seed{config.seed}-{digest}"
    folder = RunFolder(workspace / "runs" / name)
    return Job(
        config=config.model_copy(update={"corpus": corpus_at(config.corpus)}),  # workers have another working directory
        folder=str(folder.path),
        digest=digest,
        name=name,
        tracking_uri=tracking_uri(config, workspace),
        experiment=config.tracking.experiment,
        url=url_of(folder.path),
        log_model=config.tracking.model,
        needed=dict(needed),
        code=code_for_workers(),
    )


def run_one(
    config: RunConfig,
    workspace: Path,
    name: str | None = None,
    on_start: Callable[[str, RunFolder], None] = lambda name, folder: None,  # noqa: ARG005 - named for callers
) -> Record:
    """Check and train one run; resume an unfinished one; return the summary of a complete one without training.

    With `evaluation.ceilings: train`, or for a method with teachers, first train one unimodal run per modality. Both
    use the same runs.

    Args:
        on_start: called as `on_start(name, folder)` before each training.

    Raises:
        RemixStudyError: the configuration, data or environment is unusable. Raised before training where possible.
    """
    store = open_corpus(config.corpus)
    require_fit(config, store)
    if config.workers > 1 and on_cluster():
        join_or_start()
        require_identical_nodes(workspace.resolve(), config.corpus)
    uri = tracking_uri(config, workspace)
    if uri is not None:
        require_lasting_database(uri, workspace)
        check_tracking(uri)
    needed = require_needed(config, store)
    alone = _unimodal_jobs(config, store, workspace)
    if teachers_of(config.method) == "train":
        config = with_needed(config, {m: place_of(job) for m, job in alone.items()})
        needed |= {m: job.digest for m, job in alone.items()}
    job = make_job(config, store.digest, workspace, name, needed)
    trained = {m: _announce_and_launch(job, on_start) for m, job in alone.items()}
    return _announce_and_launch(replace(job, ceilings=_ceilings(config, trained)), on_start)


def _announce_and_launch(job: Job, on_start: Callable[[str, RunFolder], None]) -> Record:
    with working_copy(Path(job.folder), job.url) as copy:
        on_start(job.name, RunFolder(copy.folder))
        return launch(job)


def launch(job: Job, callback: EpochCallback | None = None) -> Record:
    """Train or resume the run of a checked job, and return its summary. A complete run is not trained again.

    Raises:
        RunPruned: the callback pruned the run, now or when it was launched before.
        RunPreempted: the process or its node is about to be preempted; or those of a worker, if there is a callback.
        StudyStopped: the callback stopped the run.
        RemixStudyError: workers failed repeatedly.
    """
    config = job.config
    with working_copy(Path(job.folder), job.url) as copy:
        copy.pull(checkpoints=False)
        folder = RunFolder(copy.folder)
        folder.prepare(config, job.digest)
        with folder.lock(wait=job.wait):
            done = folder.result()
            if done is not None:
                return done
            folder.clear_stop()
            if (pruned := folder.ended_early()) is not None:
                raise pruned
            if config.workers > 1 and job.threads is None:
                job = replace(job, threads=worker_threads(config.workers))
            copy.push()  # before workers pull it

            def epochs() -> int:
                copy.pull(checkpoints=False)
                return len(folder.history)

            def restartable() -> RunPreempted | None:
                copy.pull(checkpoints=False)
                early = folder.ended_early()
                # A study restarts the task itself, and says so in its log.
                if not isinstance(early, RunPreempted) or callback is not None or node_is_draining():
                    return None
                folder.clear_stop()
                copy.push()
                return early

            try:
                fit(job, callback, folder, epochs, restartable)
            except RemixStudyError as error:
                if config.workers > 1:
                    copy.pull(checkpoints=False)
                    _report_failure(job, folder, error)
                    copy.push()
                raise
            copy.pull(checkpoints=False)
            return _read_outcome(job, folder)


def _report_failure(job: Job, folder: RunFolder, error: RemixStudyError) -> None:
    """Mark a run whose workers failed as FAILED in MLflow.

    When one worker fails, Ray Train kills the others, possibly before rank 0 reported the failure. The runs of a study
    are reported by its driver instead. A worker that Ray is still killing could set the status to RUNNING again, so
    this function waits for its end.
    """
    if job.tracking_uri is None or job.spool:
        return
    from remix_study.tracking.mlflow import send

    end = time.monotonic() + _WRITER_S
    while folder.has_writer and time.monotonic() < end:
        threading.Event().wait(0.1)  # waiting for a lock has no time limit
    end_unfinished_run(folder.path, str(error), cause_of(error))
    try:
        send(job.tracking_uri, folder.path)
    except Exception as unsent:  # any error of MLflow or its database; the caller raises `error`
        log.warning("Cannot report to MLflow that %s failed: %s", job.name, explain(job.tracking_uri, unsent))


def unimodal_config(config: RunConfig, modality: str) -> RunConfig:
    """Return the same configuration with method `unimodal` and the labels as targets: its accuracy is the ceiling."""
    content = config.model_dump(mode="json")
    content["method"] = {"name": "unimodal", "modality": modality}
    content["targets"] = None
    content["evaluation"] |= {"ceilings": "none", "probe": False, "clash_every": 0}
    if config.control:  # the ceiling trains on the same samples
        content["control_fraction"] = config.control
    return parse_run(content, "the unimodal ceiling")


def place_of(job: Job) -> str:
    """Where other runs find a run: the URL of its folder in a remote workspace, else its path."""
    return job.url or job.folder


def _unimodal_jobs(config: RunConfig, store: ClipStore, workspace: Path) -> dict[str, Job]:
    """The unimodal run of each modality, if the run needs them as ceilings or as teachers.

    Their folder names contain the digest, so that other runs with this configuration reuse them.
    """
    if config.method.name == "unimodal" or "train" not in (config.evaluation.ceilings, teachers_of(config.method)):
        return {}
    return {m: make_job(unimodal_config(config, m), store.digest, workspace) for m in modalities_of(config, store)}


def _ceilings(config: RunConfig, trained: Mapping[str, Record]) -> Mapping[str, float] | None:
    """Modality -> accuracy of its unimodal run. `trained`: the summaries of unimodal runs."""
    given = config.evaluation.ceilings
    if given == "none" or config.method.name == "unimodal":
        return None
    if not isinstance(given, str):
        return given
    split = "test/accuracy" if config.evaluation.test else f"{config.evaluation.select}/val_accuracy"
    return {m: summary[split] for m, summary in trained.items()}


def fit(
    job: Job,
    callback: EpochCallback | None,
    folder: RunFolder,
    epochs: Callable[[], int],
    restartable: Callable[[], RunPreempted | None],
) -> None:
    """Train a job on its workers; the result is in the run folder afterwards.

    Args:
        epochs: returns the number of epochs completed so far.
        restartable: returns the preemption that ended the workers, if they can be restarted; None otherwise.

    Raises:
        RemixStudyError: the workers do not fit into the cluster, or failed repeatedly.
    """
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    local = config.workers == 1
    if local and callback is not None:
        # A single-process trial needs nothing of Ray Train, whose `fit` takes longer than a small epoch.
        work(job, callback)
        return
    gpus = 0.0
    if not local:
        join_or_start()
        gpus = _gpus(job)
        _require_room(config.workers, job.cpus, gpus)
    gpu = config.device != "cpu" and torch.cuda.is_available() if local else gpus > 0
    torch_config = ray_private.loopback_torch_config_class() if not local and on_loopback() else TorchConfig
    make_trainer = partial(
        TorchTrainer,
        _loop,
        # The process that starts the workers controls them, so they end when its node is preempted.
        train_loop_config={"job": job.to_json(), "callback": callback, "nodes": [] if local else [own_node()]},
        torch_config=torch_config(backend="nccl" if gpus >= 1 else "gloo"),  # NCCL refuses ranks that share a GPU
        scaling_config=ScalingConfig(
            num_workers=0 if local else config.workers,
            use_gpu=gpu and not local,
            resources_per_worker=None if local else {"CPU": job.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RayRunConfig(
            name=folder.path.name,
            storage_path=str(folder.path.parent.parent / "ray_train"),
            failure_config=FailureConfig(  # type: ignore[call-arg]  # V1's
                max_failures=2, controller_failure_limit=3, max_preemption_failures=-1
            ),
        ),
    )
    with restore_signal_handlers():
        if local:
            make_trainer().fit()  # in this process, so exceptions are not wrapped
        else:
            fit_with_restarts(make_trainer, epochs, restartable)


def _read_outcome(job: Job, folder: RunFolder) -> Record:
    """Return the summary that the workers wrote, or raise the reason why they ended the run early."""
    done = folder.result()
    if done is None:
        if (early := folder.ended_early()) is not None:
            raise early
        raise RemixStudyError(f"The workers of {job.name} ended without writing a result. See {folder.path}.")
    return done


def _loop(content: dict[str, Any]) -> None:
    # The driver reads the result from the run folder.
    work(Job.from_json(content["job"]), content["callback"], content["nodes"])


def _gpus(job: Job) -> float:
    """GPUs of each worker: what the job says, or one if there are any."""
    if job.config.device == "cpu":
        return 0.0
    if job.gpus is not None:
        return job.gpus
    return 1.0 if ray_resources().max_gpus > 0 else 0.0


def fit_with_restarts(
    make_trainer: Callable[[], Any],
    epochs: Callable[[], int],
    restartable: Callable[[], RunPreempted | None] = lambda: None,
) -> None:
    """Train, and start again after preemptions, and for as long as workers are lost but the run makes progress.

    Workers that got the notice of a preemption save a checkpoint and return, which Ray Train takes as their success.
    Workers that are lost without notice are restarted twice by Ray Train itself, but nodes may vanish more often. A run
    that completes an epoch between two losses is not their cause.

    Args:
        make_trainer: returns a new trainer, with a method `fit`.
        epochs: returns the number of epochs completed so far.
        restartable: returns the preemption that ended the workers, if they can be restarted; None otherwise.

    Raises:
        RemixStudyError: a worker failed by an exception, or was lost without progress since the last loss.
    """
    from ray.train import TrainingFailedError

    reached = epochs()
    while True:
        try:
            make_trainer().fit()
        except TrainingFailedError as error:
            before, reached = reached, epochs()
            if _is_loss(error) and reached > before:
                log.warning("Workers were lost again after epoch %d. Restarting them from its checkpoint.", reached - 1)
                continue
            cause = _root(error).rstrip(".")
            raise RemixStudyError(
                f"A worker failed, and failed again after restarts: {cause}. Rerun the command to resume from the last "
                "checkpoint."
            ) from error
        early = restartable()
        if early is None:
            return
        log.warning("The workers were %s. Restarting them.", early)


def _is_loss(error: Exception) -> bool:
    """Return whether workers were lost with their node or process, rather than by an exception in our code."""
    from ray.exceptions import RayActorError, WorkerCrashedError

    losses = (RayActorError, WorkerCrashedError, *ray_private.worker_health_errors())
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    return any(isinstance(each, losses) or isinstance(each.__cause__, losses) for each in failures)


def _root(error: BaseException) -> str:
    """Return the message of the worker that failed first, without Ray's wrapping, at most 600 characters."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        inner = getattr(failure, "cause", None) or failure
        return " ".join(str(inner).split())[:600]
    return " ".join(str(error).split())[:600]


def _require_room(workers: int, cpus: float, gpus: float) -> None:
    """Check that the cluster can ever hold all workers; Ray Train would wait forever.

    Raises:
        RemixStudyError: it cannot.
    """
    most = ray_resources()
    for what, have, each in (("CPU cores", most.max_cpus, cpus), ("GPUs", most.max_gpus, gpus)):
        need = workers * each
        if have < need:
            raise RemixStudyError(
                f"`workers: {workers}` needs {need:g} {what}, but Ray has {have:g}. Use fewer workers or a larger "
                "cluster."
            )
