"""A study on an autoscaling cluster: nodes are added while it runs, and removed when they are idle"""

import re
from collections.abc import Iterator

import pytest

from tests.cluster import autoscaler
from tests.cluster.laptop import CORPUS, StudyFolder, copy_checkout, wait_for, write_study
from tests.cluster.machines import SHARED, Machines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ENV = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "160"}
HOST = "head"  # the machine on which the whole cluster runs


@pytest.fixture
def empty(machines: Machines) -> Iterator[Machines]:
    """Start a cluster with a head without cores and up to two workers with one core each. It has no worker yet."""
    copy_checkout(machines.shared / "project")
    restart(machines)  # end the processes of earlier tests
    text = autoscaler.launcher(workers=2, cpus=1, idle_minutes=0.1)
    autoscaler.start(machines, HOST, ENV, text)
    yield machines
    (machines.state / HOST / "root" / "ray_bootstrap_config.yaml").unlink()
    restart(machines)


def restart(machines: Machines) -> None:
    """Kill and start the machine of the cluster."""
    machines.kill(HOST)
    machines.start(HOST)


def cores(machines: Machines) -> float:
    """Return the number of cores of the cluster."""
    nodes = wait_for(lambda: machines.ray_nodes(HOST), "the dashboard")
    return sum(float(node["resources_total"].get("CPU", 0.0)) for node in nodes)


def autoscaler_log(machines: Machines) -> str:
    (session,) = (machines.state / HOST / "tmp" / "ray").glob("session_2*")
    return (session / "logs" / "monitor.log").read_text()


def test_the_cluster_scales_up_for_a_study_and_down_after_it(empty: Machines) -> None:
    assert cores(empty) == 0
    file = write_study(empty.shared / "project", "growing", base={"epochs": 20})
    workspace = SHARED / "growing"
    command = ["python", "run_study.py", "run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    output = empty.run(HOST, command, env=ENV, cwd=str(SHARED / "project"), timeout_s=600).stdout
    assert "4 of 4 runs ended" in output
    study = StudyFolder(empty.shared / workspace.name / "studies" / "growing")
    assert {len(study.epochs(run)) for run in study.runs()} == {20}
    assert all(t.state == "complete" for trials in study.ledger.trials.values() for t in trials)
    added = re.findall(r"Adding (\d+) node\(s\) of type worker", autoscaler_log(empty))
    assert sum(map(int, added)) == 2
    wait_for(lambda: cores(empty) == 0, "idle workers to be removed", 120)
