"""What every worker of a run does

A worker gets everything from its `Job`, which travels as JSON to another process or another node. Ray Train has set up
the process group. In local mode there is none, and the worker is this process.
"""

# N training samples, M modalities

import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from remix_study.assemble import assemble
from remix_study.config.method import names_of
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import RunPreempted, RunPruned, StudyStopped, TrainingError
from remix_study.files.urls import is_url, shown
from remix_study.launch.decisions import write_decisions
from remix_study.launch.folder import RunFolder
from remix_study.launch.needed import load_needed
from remix_study.launch.nodes import require_code
from remix_study.launch.predictions import write_predictions
from remix_study.launch.preemption import preemption_notice
from remix_study.launch.working_copy import WorkingCopy, working_copy
from remix_study.media.store import ClipStore
from remix_study.remix import RemixPlan
from remix_study.tracking.spool import SpoolTracker
from remix_study.tracking.tracker import NullTracker, RunInfo, Tracker, finishing
from remix_study.training.checkpoint import BEST, LAST
from remix_study.training.loop import train
from remix_study.training.run import EpochCallback, Run, RunResult
from remix_study.training.state import Record
from remix_study.version import __version__
from remix_study.world import Collectives, Solo, TorchCollectives

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run, with everything that its workers need to know.

    Args:
        config: the validated configuration.
        folder: the run folder.
        digest: of the configuration and its corpus.
        name: of the run.
        tracking_uri: the MLflow tracking URI; None: do not track the run.
        experiment: the MLflow experiment.
        url: of the run folder in a remote workspace, of which `folder` is then this machine's copy.
        threads: torch threads of each worker.
        wait: wait until another process that works on the same run ends, instead of raising an error.
        spool: write tracking data to files only; the study's driver sends them to MLflow.
        params: further MLflow parameters; of a trial, its hyperparameters.
        cpus: CPUs that Ray reserves for each worker.
        gpus: GPUs that Ray reserves for each worker; None: one if Ray has GPUs and `config.device` allows one.
        needed: the digests of the runs that `config` names, as `require_needed` returns them.
        code: digest of the code that its workers must run; None: not checked.
    """

    config: RunConfig
    folder: str
    digest: str
    name: str
    tracking_uri: str | None
    experiment: str
    url: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_run_id: str | None = None
    ceilings: Mapping[str, float] | None = None
    threads: int | None = None
    log_model: bool = True
    figures: bool = True
    wait: bool = False
    spool: bool = False
    params: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    cpus: float = 1
    gpus: float | None = None
    needed: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None

    def to_json(self) -> str:
        """The job as JSON text, for a worker in another process or on another node."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps(content | {"config": self.config.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        content = json.loads(text)
        return cls(**content | {"config": RunConfig.model_validate(content["config"])})


def work(job: Job, callback: EpochCallback | None = None, nodes: Collection[str] = ()) -> Record | None:
    """Train the job's run on this worker and return its summary, the same on every rank.

    Args:
        nodes: ids of Ray nodes that the run cannot do without, besides those of its workers.

    Returns:
        The summary; None if the callback or a preemption ended the run early, because an exception would make Ray Train
        restart it.

    Raises:
        StudyError: this process runs other code than the driver.
    """
    require_code(job.code)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    with preemption_notice(nodes) as preempted, working_copy(Path(job.folder), job.url) as copy:
        copy.pull()
        return _work(replace(job, folder=str(copy.folder)), callback, copy, preempted)


def _work(job: Job, callback: EpochCallback | None, copy: WorkingCopy, preempted: Callable[[], bool]) -> Record | None:
    config = job.config
    device = _device(config)
    collectives: Collectives = TorchCollectives(_collectives_device(device)) if dist.is_initialized() else Solo()
    folder = RunFolder(copy.folder)
    store = open_corpus(config.corpus)
    leads = collectives.world.leads
    tracker: Tracker = NullTracker()
    if leads:
        copy.claim()
        callback = copy.wrap_callback(callback)
        if job.tracking_uri is not None:
            tracker = _tracker(job, folder)
    writing = folder.writing() if leads and config.workers > 1 else nullcontext()
    try:
        with writing, _deterministic(config.deterministic):
            if leads:
                tracker.start(_info(job, store), folder.mlflow_run_id())
            with finishing(tracker):
                needed = load_needed(config, store, device, job.needed)
                run = assemble(
                    config, store, collectives, device, tracker, folder.path, digest=job.digest,
                    teachers=needed.teachers, course=needed.course, ceilings=job.ceilings,
                    callback=callback, preempted=preempted,
                )  # fmt: skip
                result = train(run)
                if leads:
                    _report(job, run, result, tracker)
                    folder.write_result(result.summary)
    except (RunPreempted, RunPruned, StudyStopped) as early:
        if leads:
            folder.write_ended_early(early)
            copy.push()
        return None
    except BaseException:
        if leads:
            copy.push_if_due(at_once=True)  # the reason, and the epochs so far
        raise
    if leads:
        copy.push()
    return result.summary


def _tracker(job: Job, folder: RunFolder) -> Tracker:
    if job.spool:
        return SpoolTracker(folder.path, job.experiment)
    from remix_study.tracking.mlflow import MLflowTracker  # here, because trials start sooner without it

    assert job.tracking_uri is not None
    return MLflowTracker(job.tracking_uri, job.experiment, folder=folder.path)


def _report(job: Job, run: Run, result: RunResult, tracker: Tracker) -> None:
    folder = Path(job.folder)
    tracker.log_metrics(result.summary, len(result.history) - 1)
    plan = run.method.plan
    if isinstance(plan, RemixPlan) and (job.figures or run.settings.test):  # replicates, not trials
        write_decisions(folder, plan, run.reader.store, run.rows["train"], run.model.modalities)
    if result.predictions:
        write_predictions(folder, result.predictions, result.predicted, run.reader.store, run.rows)
    if job.figures:
        from remix_study.launch.run_figures import run_figures  # matplotlib, which most runs do not need

        for name, figure in run_figures(job.config, run, result).items():
            tracker.log_figure(figure, name)
    if job.log_model:
        selected = run.checkpoints.load(BEST if run.settings.select == "best" else LAST)
        assert selected is not None
        run.model.load_state_dict(selected["model"])
        rows = run.rows["val"][:2]
        example = run.reader.read(rows, np.ones((len(rows), len(run.model.modalities)), np.bool_))
        exponents = None
        if run.method.trains_heads:  # without, they are those of probes, which the model does not have
            exponents = {m: result.summary[f"late_calibrated/exponent/{m}"] for m in run.model.modalities}
        tracker.log_model(run.model, example, exponents)


def _info(job: Job, store: ClipStore) -> RunInfo:
    config = job.config
    tags = {
        "remix_study.version": __version__,
        "remix_study.method": "+".join(names_of(config.method)),
        "remix_study.seed": str(config.seed),
        "remix_study.folder": job.url or job.folder,
        "remix_study.host": socket.gethostname(),
        "remix_study.digest": job.digest,
        **job.tags,
    }
    return RunInfo(
        name=job.name,
        tags=tags,
        params=flat(config.model_dump(mode="json", exclude={"tracking", "evaluation"})) | dict(job.params),
        config_yaml=config.to_yaml(),
        dataset_name=store.name,
        dataset_digest=store.digest,
        dataset_source=shown(config.corpus) if is_url(config.corpus) else str(store.path),
        dataset_profile=store.card,
        parent_run_id=job.parent_run_id,
    )


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested keys as `a.b.c`, lists as comma-separated text. Values of None are left out."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            found[prefix + key] = ", ".join(map(str, value))
        elif value is not None:
            found[prefix + key] = value
    return found


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic kernels only, until the run ends.

    Raises:
        TrainingError: an operation has no deterministic kernel.
    """
    if not wanted:
        yield
        return
    # Read when a process first uses cuBLAS, whose results otherwise depend on the streams in use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise TrainingError(
            "`deterministic: true` cannot be kept, because an operation has no deterministic kernel here "
            f"({str(error).splitlines()[0]}). Set `deterministic: false`, or use another encoder."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _collectives_device(device: torch.device) -> torch.device:
    """Return the device used for collectives. Gloo, used when ranks share a GPU, gathers on the CPU only."""
    return device if dist.get_backend() == "nccl" else torch.device("cpu")


def _device(config: RunConfig) -> torch.device:
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if dist.is_initialized():
        from ray.train.torch import get_device

        return torch.device(get_device())
    return torch.device("cuda")


def worker_threads(at_once: int) -> int:
    """Return the number of torch threads for each of `at_once` processes that share this machine."""
    return max(1, len(os.sched_getaffinity(0)) // at_once)
