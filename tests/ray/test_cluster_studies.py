"""Studies on Ray clusters with several workers and nodes, some of which are lost"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray._private import state
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

if TYPE_CHECKING:
    from tests.study_bench import StudyBench, StudyProcess

# Each test starts a study several times, which takes many minutes on a busy machine.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

RATE = "optimizer.learning_rate"
# Ray reports a lost node after three seconds instead of half a minute.
FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


SMALL: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """Start a head node without cores and connect this process to it. All tests share it."""
    made = Cluster(
        initialize_head=True,
        connect=False,
        head_node_args={"num_cpus": 0, "_system_config": FAST_HEALTH_CHECKS, **SMALL},
    )
    ray.init(made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()  # type: ignore[no-untyped-call]  # untyped in Ray


@pytest.fixture
def cluster(head: Cluster) -> Iterator[Callable[..., Cluster]]:
    """Return a function that adds nodes with the given numbers of CPUs. They are removed after the test."""

    def start(*cpus: int) -> Cluster:
        for count in cpus:
            head.add_node(num_cpus=count, **SMALL)
        return head

    yield start
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)
    pause, end = threading.Event(), time.monotonic() + 60
    while len([node for node in ray.nodes() if node["Alive"]]) > 1:  # type: ignore[no-untyped-call]  # untyped in Ray
        assert time.monotonic() < end, "Ray still lists removed nodes as alive"
        pause.wait(0.1)  # polling, because Ray has no event for a lost node


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def train_workers(raylet: int) -> list[int]:
    """Return the process ids of the Ray Train workers of a node."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (path / "cmdline").read_bytes() and parent(int(path.name)) == raylet:
                found.append(int(path.name))
        except OSError:  # the process has just ended
            continue
    return sorted(found)


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def kill_node(cluster: Cluster, node: Any) -> None:
    """Kill all processes of a node at once, as a power failure does.

    `remove_node` only kills the raylet. Workers notice that seconds later, and train several epochs in the meantime.
    """
    workers = train_workers(raylet_of(node))
    cluster.remove_node(node, allow_graceful=False)
    for pid in workers:
        with suppress(ProcessLookupError):  # it has already ended
            os.kill(pid, signal.SIGKILL)


def trial_nodes() -> set[str]:
    """Return the nodes of the processes of trials and of Ray Train's controllers."""
    alive = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
    return {
        actor["Address"]["NodeID"] for actor in alive if actor["ActorClassName"] in ("ImplicitFunc", "TrainController")
    }


def active_placement_groups() -> list[dict[str, Any]]:
    """Return the placement groups that occupy, or wait for, resources."""
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def has_reached(process: "StudyProcess", run: str, epochs: int) -> bool:
    return process.epochs(run) >= epochs


def test_runs_of_two_workers_are_pruned_and_survive_lost_nodes_and_a_lost_worker(
    bench: "StudyBench", cluster: Callable[..., Cluster]
) -> None:
    """The first trial loses a node twice, like spot instances; the second one is pruned; the replicate loses a worker.

    Each time, just enough cores are free, so that a leaked placement group would block the next run. The trial's own
    process is on the driver's node: if it were lost with a worker's, the restarted trial would wait for ever for cores
    that Ray keeps.
    """
    made = cluster(1, 1, 1, 1)
    epochs = 24
    remix = {"set": {"method": {"name": "remix", "warmup": 1}}, "first": [{RATE: 0.005}, {RATE: 1e-6}]}
    study = bench.write(
        base={"workers": 2, "epochs": epochs}, methods={"remix": remix}, trials=2,
        space={RATE: {"kind": "float", "low": 1e-6, "high": 0.02, "log": True}},
        pruner={"name": "asha", "grace": 4, "reduction": 2},
    )  # fmt: skip
    process = bench.start(study, env={"RAY_ADDRESS": made.address})
    reached = 0
    for _ in range(2):
        process.wait_until(partial(has_reached, process, "remix-search-0-", reached + 3))
        busy = [node for node in made.worker_nodes if train_workers(raylet_of(node))]
        assert len(busy) == 2  # one worker per node, because a node has one core
        assert trial_nodes() == {ray.get_runtime_context().get_node_id()}
        kill_node(made, busy[-1])
        reached = process.epochs("remix-search-0-")
    process.wait_until(partial(has_reached, process, "remix-replicate-0-", 3))
    workers = [worker for node in made.worker_nodes for worker in train_workers(raylet_of(node))]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    before = process.history_lines()
    assert process.wait() == 0, process.output
    after = process.history_lines()
    for name, lines in before.items():
        assert after[name][: len(lines)] == lines
    assert sorted(map(len, after.values())) == [4, epochs, epochs]
    whole, low = process.ledger().trials["remix"]
    assert (whole.state, len(whole.intermediate)) == ("complete", epochs)
    assert (low.state, len(low.intermediate)) == ("pruned", 4)
    assert all(process.finals().values())
    assert len(placement_group_table()) >= 6  # three of the first trial, one of the second, two of the replicate
    assert active_placement_groups() == []
    assert ray.available_resources()["CPU"] == 2  # type: ignore[no-untyped-call]  # untyped in Ray


@pytest.mark.smoke
def test_a_trial_resumes_on_another_node_after_its_node_is_lost(
    bench: "StudyBench", cluster: Callable[..., Cluster]
) -> None:
    made = cluster(1, 1)
    process = bench.start(bench.write(base={"epochs": 12}), env={"RAY_ADDRESS": made.address})
    process.wait_until(lambda: process.epochs("joint-search-0-") >= 3)
    raylet = parent(process.wait_until(lambda: process.worker_of("joint-search-0-")))
    (node,) = [node for node in made.worker_nodes if raylet_of(node) == raylet]
    kill_node(made, node)
    before = process.history_lines()
    assert process.wait() == 0, process.output
    for name, lines in before.items():
        assert process.history_lines()[name][: len(lines)] == lines
    trials = [trial for trials in process.ledger().trials.values() for trial in trials]
    assert [(t.number, t.state) for t in trials] == [(0, "complete"), (1, "complete")] * 2
    assert {len(process.history_lines()[Path(t.folders[0]).name]) for t in trials} == {12}
    assert all(process.finals().values())


def has_running_trial(process: "StudyProcess") -> bool:
    """Return whether the storage lists a trial as running. It may not have a worker yet."""
    if not (process.folder / "study.yaml").exists():
        return False
    return any(t.state == "running" for ts in process.ledger().trials.values() for t in ts)


def test_a_study_that_waits_for_a_node_can_be_stopped_and_resumes_when_one_joins(
    bench: "StudyBench", cluster: Callable[..., Cluster]
) -> None:
    made = cluster()
    study = bench.write(base={"epochs": 3}, trials=1)
    process = bench.start(study, env={"RAY_ADDRESS": made.address})
    process.wait_until(lambda: has_running_trial(process))
    os.kill(process.command.pid, signal.SIGTERM)
    assert process.wait(60) == 130, process.output
    assert "Rerun the command to resume" in " ".join(process.output.split())
    assert process.epochs() == 0
    again = bench.start(study, env={"RAY_ADDRESS": made.address})
    again.wait_until(lambda: "has begun" in again.output)
    made.add_node(num_cpus=1, **SMALL)
    assert again.wait() == 0, again.output
    trials = [trial for trials in again.ledger().trials.values() for trial in trials]
    assert [(t.number, t.state) for t in trials] == [(0, "complete")] * 2


def test_more_runs_train_at_once_after_a_node_joins(bench: "StudyBench", cluster: Callable[..., Cluster]) -> None:
    """`concurrency` is not set. A cluster launcher adds nodes minutes after the head, which may already train."""
    made = cluster(1)
    process = bench.start(
        bench.write(base={"epochs": 400}, trials=3, concurrency=None), env={"RAY_ADDRESS": made.address}
    )
    process.wait_until(lambda: process.epochs() >= 2)
    assert sum(run.is_held() for run in process.runs.values()) == 1
    made.add_node(num_cpus=1, **SMALL)
    process.wait_until(lambda: sum(run.is_held() for run in process.runs.values()) == 2)
    assert "has begun on a cluster of 2 machines: 1 run at once; more as machines join" in " ".join(
        process.output.split()
    )
    os.kill(process.command.pid, signal.SIGTERM)
    assert process.wait(120) == 130, process.output


def test_two_runs_share_a_gpu(bench: "StudyBench", cluster: Callable[..., Cluster]) -> None:
    """Ray is configured with a GPU that does not exist; the runs train on the CPU."""
    made = cluster()
    made.add_node(num_cpus=4, num_gpus=1, **SMALL)
    study = bench.write(base={"epochs": 20, "device": "auto"}, trials=1, concurrency=None, resources={"gpus": 0.5})
    process = bench.start(study, env={"RAY_ADDRESS": made.address})
    process.wait_until(lambda: sum(run.is_held() for run in process.runs.values()) == 2)
    assert ray.available_resources().get("GPU", 0) == 0  # type: ignore[no-untyped-call]  # untyped in Ray
    assert process.wait() == 0, process.output
    assert "2 runs at once" in process.output  # not four, although the node has four cores
    trials = [trial for trials in process.ledger().trials.values() for trial in trials]
    assert [(t.number, t.state) for t in trials] == [(0, "complete")] * 2
    assert ray.available_resources()["GPU"] == 1  # type: ignore[no-untyped-call]  # untyped in Ray
