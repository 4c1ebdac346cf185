"""One run as a TorchTrainer

One worker runs in Ray Train's local mode, in this process: it starts in under a second. More workers are processes of a
Ray cluster, with gloo on CPUs and NCCL on GPUs. Either way the run lives in its folder, and the same command resumes.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from remix_study import ray_private
from remix_study.assemble import modalities_of
from remix_study.config.load import parse_run
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import ConfigError, RemixStudyError, TrackingError, cause_of
from remix_study.files.mirror import url_of
from remix_study.files.urls import corpus_at, shown
from remix_study.fit import require_fit
from remix_study.launch.folder import RunFolder
from remix_study.launch.nodes import on_cluster, require_identical_nodes
from remix_study.launch.ray_init import join_or_start, ray_resources
from remix_study.launch.worker import Job, work, worker_threads
from remix_study.launch.working_copy import working_copy
from remix_study.media.store import ClipStore
from remix_study.tracking.address import check as check_tracking
from remix_study.tracking.address import default_uri, explain, tracking_address
from remix_study.tracking.signals import restore_signal_handlers
from remix_study.tracking.spool import end_unfinished_run
from remix_study.training.loop import EpochCallback
from remix_study.training.state import Record

OFF = "off"
log = logging.getLogger(__name__)


def tracking_uri(config: RunConfig, workspace: Path) -> str | None:
    """Where this run is tracked, as it is written down: the values of `$NAME`s are not in it. None: nowhere."""
    if config.tracking.uri == OFF:
        return None
    return tracking_address(config.tracking.uri, workspace)


def require_lasting_database(uri: str, workspace: Path) -> None:
    """
    Raises:
        TrackingError: the workspace is at a URL, and MLflow's database would lie in this machine's copy of it.
    """
    home = url_of(workspace.resolve())
    if home is not None and uri == default_uri(workspace):
        raise TrackingError(
            f"the workspace {shown(home)} cannot hold MLflow's database, so a tracking server must be named, but none "
            "is. Set MLFLOW_TRACKING_URI (docs/tracking.md starts one), or `tracking: {uri: off}`."
        )


def make_job(config: RunConfig, data: str, workspace: Path, name: str | None = None) -> Job:
    """The job of `config` on the store of digest `data`; its folder is named by method, seed and digest by default."""
    if name is not None and (name != Path(name).name or name in ("", ".", "..")):
        raise ConfigError(f"`--name` must be the name of a folder, without a path, but is {name!r}.")
    digest = config.digest(data)
    name = name or f"{config.method.name}-seed{config.seed}-{digest}"
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
    )


def run_one(
    config: RunConfig,
    workspace: Path,
    name: str | None = None,
    on_start: Callable[[str, RunFolder], None] = lambda name, folder: None,  # noqa: ARG005
) -> Record:
    """Check, train (or resume, or just report a complete run), and with `ceilings: train` each modality alone first.

    `on_start(name, folder)` is called before each training.

    Raises:
        RemixStudyError: anything that a person can mend, before training where possible.
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
    job = make_job(config, store.digest, workspace, name)
    job = replace(job, ceilings=_ceilings(config, store, workspace, on_start))
    return _watched(job, on_start)


def _watched(job: Job, on_start: Callable[[str, RunFolder], None]) -> Record:
    with working_copy(Path(job.folder), job.url) as copy:
        on_start(job.name, RunFolder(copy.folder))
        return launch(job)


def launch(job: Job, callback: EpochCallback | None = None) -> Record:
    """Train a job that has been checked; a complete run is not trained again.

    Raises:
        RunPruned, StudyStopped: the callback ended it early, now or (pruned) before.
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

            try:
                _fit(job, callback, folder, epochs)
            except RemixStudyError as error:
                if config.workers > 1:
                    copy.pull(checkpoints=False)
                    _tell_the_end(job, folder, error)
                    copy.push()
                raise
            copy.pull(checkpoints=False)
            return _found(job, folder)


def _tell_the_end(job: Job, folder: RunFolder, error: RemixStudyError) -> None:
    """To MLflow, of workers that have failed: where one fails, Ray Train ends the others, maybe before they told it.

    In a study its driver does so.
    """
    if job.tracking_uri is None or job.spool:
        return
    from remix_study.tracking.mlflow import send

    end_unfinished_run(folder.path, str(error), cause_of(error))
    try:
        send(job.tracking_uri, folder.path)
    except Exception as unsent:  # MLflow's, or of whatever database it keeps; what fails the run is `error`
        log.warning("MLflow is not told that %s has failed: %s", job.name, explain(job.tracking_uri, unsent))


def unimodal_config(config: RunConfig, modality: str) -> RunConfig:
    """The same recipe for one modality alone: what its encoder could learn."""
    content = config.model_dump(mode="json")
    content["method"] = {"name": "unimodal", "modality": modality}
    content["evaluation"] |= {"ceilings": "none", "probe": False, "clash_every": 0}
    return parse_run(content, "the unimodal ceiling")


def _ceilings(
    config: RunConfig,
    store: ClipStore,
    workspace: Path,
    on_start: Callable[[str, RunFolder], None],
) -> Mapping[str, float] | None:
    given = config.evaluation.ceilings
    if given == "none" or config.method.name == "unimodal":
        return None
    if not isinstance(given, str):
        return given
    split = "test/accuracy" if config.evaluation.test else "best/val_accuracy"
    found = {}
    for m in modalities_of(config, store):
        # Its folder is named by its digest: other runs of the same recipe find it complete.
        job = make_job(unimodal_config(config, m), store.digest, workspace)
        found[m] = _watched(job, on_start)[split]
    return found


def _fit(job: Job, callback: EpochCallback | None, folder: RunFolder, epochs: Callable[[], int]) -> None:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    local = config.workers == 1
    if local and callback is not None:
        # Nothing of Ray Train is needed in one process of a study, and its fit takes longer than a small epoch.
        work(job, callback)
        return
    gpus = 0.0
    if not local:
        join_or_start()
        gpus = _gpus(job)
        _require_room(config.workers, job.cpus, gpus)
    gpu = config.device != "cpu" and torch.cuda.is_available() if local else gpus > 0
    make_trainer = partial(
        TorchTrainer,
        _loop,
        train_loop_config={"job": job.to_json(), "callback": callback},
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),  # NCCL refuses ranks that share a GPU
        scaling_config=ScalingConfig(
            num_workers=0 if local else config.workers,
            use_gpu=gpu and not local,
            resources_per_worker=None if local else {"CPU": job.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RayRunConfig(
            name=folder.path.name,
            storage_path=str(folder.path.parent.parent / "ray_train"),
            # Its types are those of Train V1, which lacks the second limit.
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )
    with restore_signal_handlers():
        if local:
            make_trainer().fit()  # in this process: exceptions come as they are
        else:
            _fit_workers(make_trainer, epochs)


def _found(job: Job, folder: RunFolder) -> Record:
    """What the workers left behind."""
    done = folder.result()
    if done is None:
        if (early := folder.ended_early()) is not None:
            raise early
        raise RemixStudyError(f"the run {job.name} must leave a result, but did not; see {folder.path}.")
    return done


def _loop(content: dict[str, Any]) -> None:
    work(
        Job.from_json(content["job"]), content["callback"]
    )  # its result lies in the run's folder: a new driver finds it, too


def _gpus(job: Job) -> float:
    """GPUs of each worker: what the job says, or one if there are any."""
    if job.config.device == "cpu":
        return 0.0
    if job.gpus is not None:
        return job.gpus
    return 1.0 if ray_resources().max_gpus > 0 else 0.0


def _fit_workers(make_trainer: Callable[[], Any], epochs: Callable[[], int]) -> None:
    """Ray Train restarts workers twice; machines that are lent may be taken away more often than that.

    As long as the run comes further between losses, it is not the run that kills its workers.
    """
    from ray.train import TrainingFailedError

    reached = epochs()
    while True:
        try:
            make_trainer().fit()
        except TrainingFailedError as error:
            before, reached = reached, epochs()
            if _is_loss(error) and reached > before:
                log.warning("workers were lost again after epoch %d; others go on from there", reached - 1)
                continue
            cause = _root(error).rstrip(".")
            raise RemixStudyError(
                f"a worker failed, and again when restarted: {cause}. Its last checkpoint is kept; run the same "
                "command to go on from it."
            ) from error
        return


def _is_loss(error: Exception) -> bool:
    """Whether workers died with their machine or process, rather than of an exception of ours."""
    from ray.exceptions import RayActorError, WorkerCrashedError

    losses = (RayActorError, WorkerCrashedError, *ray_private.worker_health_errors())
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    return any(isinstance(each, losses) or isinstance(each.__cause__, losses) for each in failures)


def _root(error: BaseException) -> str:
    """The words of the worker that failed first, without Ray's wrapping."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        inner = getattr(failure, "cause", None) or failure
        return " ".join(str(inner).split())[:600]
    return " ".join(str(error).split())[:600]


def _require_room(workers: int, cpus: float, gpus: float) -> None:
    """Ray Train waits for ever where there is no room for its workers; we say so."""
    most = ray_resources()
    for what, have, each in (("CPU cores", most.max_cpus, cpus), ("GPUs", most.max_gpus, gpus)):
        need = workers * each
        if have < need:
            raise RemixStudyError(
                f"`workers: {workers}` needs {need:g} {what}, but Ray sees {have:g}. Use fewer workers, or a cluster."
            )
