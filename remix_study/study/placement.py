"""How many runs of a study fit at once, and with which resources, on this machine or a Ray cluster"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import ray
import torch
from ray import tune

from remix_study.errors import StudyError
from remix_study.launch.ray_init import join_or_start, ray_resources
from remix_study.launch.worker import worker_threads
from remix_study.patience import PATIENCE

SLOT = "trial_slot"
_CLUSTER_POLL_S = PATIENCE.cluster_size_s


@dataclass(frozen=True)
class Needs:
    """Resources that the runs of a study need.

    Args:
        concurrency: runs at once; None: as many as fit.
        workers: of each run.
        cpus: of each worker.
        gpus: of each worker; None: one if there are any.
        may_use_gpu: whether any run may use a GPU.
    """

    concurrency: int | None = None
    workers: int = 1
    cpus: float = 1
    gpus: float | None = None
    may_use_gpu: bool = True


@dataclass(frozen=True)
class Place:
    """Where tasks run.

    Args:
        concurrency: tasks at once, after an autoscaler has added nodes.
        share: resources that Tune reserves for each task, and the node.
        threads: torch threads of each worker.
        gpus: GPUs of each worker.
        now: tasks at once with the nodes there are.
        machines: nodes of the Ray cluster; 0 if this process started Ray itself.
    """

    concurrency: int
    share: dict[str, float] | tune.PlacementGroupFactory
    threads: int
    gpus: float
    now: int
    machines: int = 0


def slots(needs: Needs, cpus: float, gpus: float) -> tuple[int, float]:
    """How many runs fit at once into `cpus` CPU cores and `gpus` GPUs, and the GPUs of each of their workers.

    Raises:
        StudyError: not even one run fits.
    """
    each = (1.0 if gpus > 0 else 0.0) if needs.gpus is None else needs.gpus
    each = each if needs.may_use_gpu else 0.0
    fit = fitting(needs, cpus, gpus, each)
    if fit < 1 and needs.concurrency is None:
        raise StudyError(
            f"One run needs {needs.workers} x {needs.cpus:g} CPU cores and {needs.workers} x {each:g} GPUs, but there "
            f"are {cpus:g} and {gpus:g}. Lower `base.workers` or `resources`, or run on a cluster. On a cluster with "
            "an autoscaler, set `concurrency` to the number of runs at once."
        )
    return needs.concurrency or fit, each


def fitting(needs: Needs, cpus: float, gpus: float, each: float) -> int:
    """How many runs fit at once if each of their workers needs `each` GPUs."""
    fit = math.floor(cpus / (needs.workers * needs.cpus))
    if each > 0:
        fit = min(fit, math.floor(gpus / (needs.workers * each) + 1e-9))
    return fit


@contextlib.contextmanager
def placed(needs: Needs) -> Iterator[Place]:
    """Join the Ray cluster that RAY_ADDRESS names, or start Ray with one slot for each run."""
    cores = float(len(os.sched_getaffinity(0)))
    at_once, gpus = 0, 0.0
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        at_once, gpus = slots(needs, cores, torch.cuda.device_count())
    ours = join_or_start(
        # The user may ask for more runs at once than there are cores; Ray would never start them.
        num_cpus=max(int(cores), math.ceil(at_once * needs.workers * needs.cpus)),
        resources={SLOT: at_once},
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore"}},
    )
    share: dict[str, float] | tune.PlacementGroupFactory
    try:
        if ours:
            now, machines = at_once, 0
            share = {SLOT: 1.0} if needs.workers > 1 or gpus == 0 else {SLOT: 1.0, "gpu": gpus}
            threads = max(1, worker_threads(at_once * needs.workers))
        else:
            have = ray_resources()
            growable = needs if needs.concurrency is not None or not have.may_grow else replace(needs, concurrency=1)
            at_once, gpus = slots(growable, have.max_cpus, have.max_gpus)
            if growable is not needs:
                at_once = max(1, fitting(needs, have.max_cpus, have.max_gpus, gpus))
            now, machines = min(at_once, fitting(needs, have.cpus, have.gpus, gpus)), have.machines
            share = _on_this_node() if needs.workers > 1 else {"cpu": needs.cpus, "gpu": gpus}
            threads = max(1, int(needs.cpus))
        yield Place(at_once, share, threads, gpus, now, machines)
    finally:
        if ours:
            ray.shutdown()


def _on_this_node() -> tune.PlacementGroupFactory:
    """Return the share of a trial with several workers, which only waits for them: it must not reserve a core.

    Tune rejects a trial without resources, so it reserves one byte. The process, and Ray Train's controller, which runs
    where it does, run on the driver's node. If they were lost with another node, Ray would keep the placement group of
    their workers until the study ends, and the restarted trial would wait for those cores.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return tune.PlacementGroupFactory([{"memory": 1.0}], bundle_label_selector=[here])


class ClusterLimit:
    """How many runs may be active or pending on a cluster, whose nodes come and go."""

    def __init__(self, needs: Needs, gpus: float) -> None:
        self._needs, self._gpus = needs, gpus
        self._known, self._until_s = 0, 0.0

    def __call__(self) -> int:
        """The limit, at most `_CLUSTER_POLL_S` old.

        An autoscaler without a known maximum only adds nodes for pending runs, so one run more than fits is allowed.
        """
        if time.monotonic() >= self._until_s:
            have = ray_resources()
            now = fitting(self._needs, have.cpus, have.gpus, self._gpus)
            most = fitting(self._needs, have.max_cpus, have.max_gpus, self._gpus)
            waiting = 1 if have.may_grow else 0
            # At least one: after the last node has left, a pending run makes the autoscaler add one.
            self._known = max(1, most, now + waiting)
            self._until_s = time.monotonic() + _CLUSTER_POLL_S
        return self._known
