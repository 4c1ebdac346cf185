"""A study on a cluster that has no machine yet: the autoscaler adds them as runs ask, and takes them away after"""

import re
from collections.abc import Iterator

import pytest

from tests.cluster import autoscaler
from tests.cluster.laptop import CORPUS, OnDisk, put_checkout, until, write_study
from tests.cluster.machines import SHARED, Machines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ENV = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "160"}
HOME = "head"  # the machine on which all of it runs


@pytest.fixture
def empty(machines: Machines) -> Iterator[Machines]:
    """A cluster of a head without cores, that may grow to two workers of one core."""
    put_checkout(machines.shared / "project")
    restart(machines)  # whatever ran there before
    text = autoscaler.launcher(workers=2, cpus=1, idle_minutes=0.1)
    autoscaler.start(machines, HOME, ENV, text)
    yield machines
    (machines.state / HOME / "root" / "ray_bootstrap_config.yaml").unlink()
    restart(machines)


def restart(machines: Machines) -> None:
    machines.kill(HOME)
    machines.start(HOME)


def cores(machines: Machines) -> float:
    nodes = until(lambda: machines.ray_nodes(HOME), "the dashboard")
    return sum(float(node["resources_total"].get("CPU", 0.0)) for node in nodes)


def monitor(machines: Machines) -> str:
    (session,) = (machines.state / HOME / "tmp" / "ray").glob("session_2*")
    return (session / "logs" / "monitor.log").read_text()


def test_a_study_makes_the_cluster_grow_and_leaves_it_to_shrink(empty: Machines) -> None:
    assert cores(empty) == 0
    file = write_study(empty.shared / "project", "growing", base={"epochs": 20}, trials=3)
    workspace = SHARED / "growing"
    command = ["python", "run_study.py", "run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    said = empty.run(HOME, command, env=ENV, cwd=str(SHARED / "project"), timeout_s=600).stdout
    assert "8 of 8 runs ended" in said
    disk = OnDisk(empty.shared / workspace.name / "studies" / "growing")
    assert {len(disk.epochs(run)) for run in disk.runs()} == {20}
    assert all(t.state == "complete" for trials in disk.ledger.trials.values() for t in trials)
    added = re.findall(r"Adding (\d+) node\(s\) of type worker", monitor(empty))
    assert sum(map(int, added)) == 2
    until(lambda: cores(empty) == 0, "an idle cluster to shrink", 120)
