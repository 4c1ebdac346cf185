"""clusters/local-onprem.yaml from nothing to a finished study and back down, on machines that share nothing but a disk

The tests are steps: one cluster serves all of them, and the last one ends it.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient

from remix_study.tracking import default_uri
from tests.cluster.laptop import CORPUS, LAUNCHER, SECRET, Laptop, OnDisk, until, write_study
from tests.cluster.machines import ADDRESSES, SHARED, Machines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def cluster(laptop: Laptop) -> Laptop:
    """Up, with all of its machines."""
    laptop("ray", "up", "-y", LAUNCHER)
    # The autoscaler starts the workers after `ray up` has returned.
    until(lambda: len(laptop.machines.ray_nodes("head")) == 3, "three machines in the cluster", 180)
    return laptop


@pytest.fixture
def dashboard(cluster: Laptop) -> Iterator[str]:
    """The cluster's dashboard, forwarded to the laptop."""
    forward = cluster.begin("ray", "dashboard", LAUNCHER, "-p", "18265")
    address = "http://127.0.0.1:18265"
    ask = f"import urllib.request as u; u.urlopen('{address}')"
    until(
        lambda: cluster.machines.run("laptop", ["python", "-S", "-c", ask], check=False).returncode == 0,
        "the dashboard",
    )
    yield address
    os.killpg(forward.pid, signal.SIGTERM)
    forward.wait(30)


def change_code(laptop: Laptop, fresh: str) -> None:
    """Every run tells the version of the package that trained it."""
    path = laptop.project / "remix_study" / "version.py"
    text = path.read_text()
    version = text.partition('__version__ = "')[2].partition('"')[0]
    assert version
    path.write_text(text.replace(f'"{version}"', f'"{fresh}"'))


def test_a_study_loses_nothing_when_a_machine_is_lost(cluster: Laptop, machines: Machines) -> None:
    change_code(cluster, "9.9.1")  # after `ray up`: what lies on the workers is old
    file = write_study(cluster.project, "lasting", base={"epochs": 60}, trials=4)
    cluster("ray", "rsync-up", LAUNCHER)
    workspace = SHARED / "it's a workspace"
    words = ["run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    driver = cluster.begin("ray", "submit", LAUNCHER, "run_study.py", "--", *map(shlex.quote, words))
    disk = OnDisk(machines.shared / workspace.name / "studies" / "lasting")

    def under_way() -> list[Path]:
        assert driver.poll() is None, cluster.said("submit")
        return [run for run in disk.runs() if disk.hosts(run) == ["w2"] and not disk.ended(run)
                and 3 <= len(disk.epochs(run)) < 40]  # fmt: skip

    killed, *_ = until(under_way, "a run on w2")
    machines.kill("w2")
    before = {run: disk.epochs(run) for run in disk.runs()}
    assert driver.wait(600) == 0, cluster.said("submit")
    assert "Traceback" not in cluster.said("submit")
    for run, lines in before.items():
        assert disk.epochs(run)[: len(lines)] == lines  # trained once: a second time would have taken another time
    assert disk.hosts(killed)[0] == "w2"
    assert disk.hosts(killed)[-1] in ("head", "w1")
    trials = [trial for trials in disk.ledger.trials.values() for trial in trials]
    assert [(t.number, t.state) for t in trials] == [(n, "complete") for n in range(4)] * 2
    assert {len(disk.epochs(run)) for run in disk.runs()} == {60}
    starts = [tags for run in disk.runs() for tags in disk.tags(run)]
    assert {"w1", "w2"} <= {tags["remix_study.host"] for tags in starts}
    assert {tags["remix_study.version"] for tags in starts} == {"9.9.1"}

    database = machines.shared / workspace.name
    client = MlflowClient(tracking_uri=default_uri(database))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    tracked = [run for run in client.search_runs([experiment.experiment_id]) if "remix_study.trial" in run.data.tags]
    assert len(tracked) == 10
    assert {run.info.status for run in tracked} == {"FINISHED"}
    for each in tracked:
        steps = [point.step for point in client.get_metric_history(each.info.run_id, "val/accuracy")]
        assert steps == list(range(60)), each.data.tags

    told = cluster.on_head(f"cd ~/remix-study && remix-study status lasting --workspace {shlex.quote(str(workspace))}")
    assert "complete, 10 of 10 runs ended" in told
    cluster("ray", "rsync-down", LAUNCHER, f"{workspace}/studies/lasting/report/", "/root/fetched/")
    assert "<html" in (cluster.home / "fetched" / "report.html").read_text()

    # What the machines got as secrets is nowhere in what they leave behind.
    said = subprocess.run(["grep", "-rl", SECRET, str(machines.shared)], capture_output=True, text=True).stdout
    logs = [machines.state / name / "tmp" / "ray" for name in ("head", "w1")]
    said += subprocess.run(["grep", "-rl", SECRET, *map(str, logs)], capture_output=True, text=True).stdout
    assert said == ""


def test_a_lost_machine_that_is_back_joins_again(cluster: Laptop, machines: Machines) -> None:
    if not machines.is_up("w2"):
        machines.start("w2")
    until(lambda: len(machines.ray_nodes("head")) == 3, "w2 in the cluster again", 240)


def test_a_job_brings_its_own_code(cluster: Laptop, machines: Machines, dashboard: str) -> None:
    """`ray job submit` of a working directory, with words that a shell would split."""
    change_code(cluster, "9.9.2")
    file = write_study(cluster.project, "by-job", trials=2)
    workspace = SHARED / "jobs' workspace"
    command = ["python", "-m", "remix_study", "run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    said = cluster("ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *command)
    assert "succeeded" in said
    disk = OnDisk(machines.shared / workspace.name / "studies" / "by-job")
    assert [len(trials) for trials in disk.ledger.trials.values()] == [2, 2]
    assert {tags["remix_study.version"] for run in disk.runs() for tags in disk.tags(run)} == {"9.9.2"}
    assert len({host for run in disk.runs() for host in disk.hosts(run)}) > 1
    # The thin script serves there, too.
    said = cluster("ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--",
                   "python", "run_study.py", "status", "by-job", "--workspace", str(workspace))  # fmt: skip
    assert "6 of 6 runs ended" in said


def test_submit_follows_a_study_to_its_end_and_fetches_the_report(cluster: Laptop, machines: Machines) -> None:
    change_code(cluster, "9.9.3")
    file = write_study(cluster.project, "submitted", trials=2)
    workspace = SHARED / "it's submitted"
    place = ["--cluster", LAUNCHER, "--workspace", str(workspace)]
    said = cluster("remix-study", "submit", file, *place, "--corpus", CORPUS)
    assert "6 of 6 runs ended" in said
    disk = OnDisk(machines.shared / workspace.name / "studies" / "submitted")
    assert {tags["remix_study.version"] for run in disk.runs() for tags in disk.tags(run)} == {"9.9.3"}
    assert "complete, 6 of 6 runs ended" in cluster("remix-study", "status", "submitted", *place)
    cluster("remix-study", "report", "submitted", *place, "--out", "report of it")
    assert "<html" in (cluster.project / "report of it" / "report.html").read_text()


def test_a_study_that_was_left_running_is_stopped_from_the_laptop(cluster: Laptop, machines: Machines) -> None:
    file = write_study(cluster.project, "left", base={"epochs": 2000})
    workspace = SHARED / "left"
    place = ["--cluster", LAUNCHER, "--workspace", str(workspace)]
    cluster("remix-study", "submit", file, *place, "--corpus", CORPUS, "--detach")
    disk = OnDisk(machines.shared / workspace.name / "studies" / "left")
    until(lambda: any(disk.epochs(run) for run in disk.runs()), "the first epoch")
    assert "left: running" in cluster("remix-study", "status", "left", *place)
    cluster("remix-study", "stop", "left", *place)
    until(lambda: "left: incomplete" in cluster("remix-study", "status", "left", *place), "the study to stop")
    assert not any((run / "result.json").exists() for run in disk.runs())


def test_without_the_token_nobody_gets_in(cluster: Laptop, dashboard: str) -> None:
    said = cluster("ray", "job", "list", "--address", dashboard, check=False, RAY_AUTH_MODE="disabled")
    assert "401" in said or "Unauthorized" in said
    # From another machine of the network, to Ray itself.
    join = ["bash", "-c", "RAY_AUTH_MODE=disabled timeout 60 ray start --address=10.88.0.1:6379 2>&1"]
    assert cluster.machines.run("laptop", join, check=False, cwd="/root").returncode != 0
    assert cluster.machines.run("laptop", ["pgrep", "raylet"], check=False).stdout == ""


def test_mistakes_are_one_sentence(cluster: Laptop) -> None:
    said = cluster("ray", "submit", LAUNCHER, "run_study.py", "--", "run", "no_such.yaml", check=False)
    assert "no_such.yaml" in said
    assert "Traceback" not in said
    with pytest.raises(Exception, match="gave 1"):
        cluster("ray", "submit", LAUNCHER, "run_study.py", "--", "run", "no_such.yaml")


def is_idle(machines: Machines, name: str) -> bool:
    return machines.processes(name) == []


def test_down_leaves_no_process(cluster: Laptop, machines: Machines) -> None:
    cluster("ray", "down", "-y", LAUNCHER)
    for name in ("w1", "w2"):  # `ray down` stops the head only: clusters/local-onprem.yaml says so
        cluster("ssh", "-o", "StrictHostKeyChecking=no", "-i", "/root/.ssh/ray_cluster_ed25519", ADDRESSES[name],
                "bash -ic 'ray stop'")  # fmt: skip
    for name in ADDRESSES:
        # The launcher's ssh connections stay open for ten seconds, in case there is more to say.
        until(partial(is_idle, machines, name), f"no process on {name}", 30)
