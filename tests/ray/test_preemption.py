"""Runs of a study that are preempted: by SIGTERM to their process, and by draining their node"""

import importlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.cluster_utils import Cluster

if TYPE_CHECKING:
    from tests.study_bench import StudyBench, StudyProcess

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
PREEMPTED = re.compile(r"joint-search-0 was preempted; checkpoint at epoch (\d+), step (\d+)\. Restarting it\.")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0, **SMALL})
    ray.init(made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()  # type: ignore[no-untyped-call]  # untyped in Ray


def drain(cluster: Cluster, node: Any) -> None:
    """Drain a node, as an autoscaler does before its cloud takes the node away."""
    raylet: Any = importlib.import_module("ray._raylet")
    reasons: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + 600) * 1000)
    accepted, why = raylet.GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", deadline_ms)
    assert accepted, why


def start(bench: "StudyBench", cluster: Cluster, **base: Any) -> "StudyProcess":
    """Start a study of one long trial."""
    methods = {"joint": {"set": {"method.name": "joint"}}}
    study = bench.write(base={"epochs": 1000, "global_batch": 8, **base}, trials=1, methods=methods, reference="joint")
    return bench.start(study, env={"RAY_ADDRESS": cluster.address})


def await_resumed(process: "StudyProcess", notice: Callable[[], None], times: int) -> None:
    """Give a notice, and wait until the run has continued after the step of its checkpoint."""
    more = process.epochs() + 2
    process.wait_until(lambda: process.epochs() >= more)
    notice()
    process.wait_until(lambda: len(PREEMPTED.findall(process.output)) == times)
    epoch, _ = map(int, PREEMPTED.findall(process.output)[-1])
    assert process.epochs() == epoch
    process.wait_until(lambda: process.epochs() >= epoch + 2)
    (run,) = process.runs.values()
    assert [int(record["epoch"]) for record in run.history] == list(range(len(run.history)))
    assert "died" not in process.output
    assert "Traceback" not in process.output
    (trial,) = process.ledger().trials["joint"]
    assert trial.state == "running"


def test_a_run_of_one_worker_hears_sigterm_and_its_draining_node(bench: "StudyBench", cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, **SMALL)
    process = start(bench, cluster)
    await_resumed(process, lambda: os.kill(process.wait_until(lambda: process.worker_of("joint")), signal.SIGTERM), 1)
    cluster.add_node(num_cpus=1, **SMALL)
    await_resumed(process, lambda: drain(cluster, node), 2)


def test_a_run_of_two_workers_uses_the_notice_of_ray_train(bench: "StudyBench", cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=2, **SMALL)
    process = start(bench, cluster, workers=2)
    process.wait_until(lambda: process.epochs() >= 1)
    cluster.add_node(num_cpus=2, **SMALL)
    await_resumed(process, lambda: drain(cluster, node), 1)
