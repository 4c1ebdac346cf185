"""clusters/local-onprem.yaml on four machines: start the cluster, run studies, stop it

The tests run in order and share one cluster; the last test stops it.
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
from tests.cluster.laptop import CORPUS, LAUNCHER, SECRET, Laptop, StudyFolder, wait_for, write_study
from tests.cluster.machines import ADDRESSES, SHARED, Machines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def cluster(laptop: Laptop) -> Laptop:
    """Start the cluster, and wait until all machines have joined it."""
    laptop("ray", "up", "-y", LAUNCHER)
    # The autoscaler starts the workers after `ray up` has returned.
    wait_for(lambda: len(laptop.machines.ray_nodes("head")) == 3, "three machines to join the cluster", 180)
    return laptop


@pytest.fixture
def dashboard(cluster: Laptop) -> Iterator[str]:
    """Forward the dashboard to the laptop, and return its address there."""
    forward = cluster.start("ray", "dashboard", LAUNCHER, "-p", "18265")
    address = "http://127.0.0.1:18265"
    request = f"import urllib.request as u; u.urlopen('{address}')"
    wait_for(
        lambda: cluster.machines.run("laptop", ["python", "-S", "-c", request], check=False).returncode == 0,
        "the dashboard",
    )
    yield address
    os.killpg(forward.pid, signal.SIGTERM)
    forward.wait(30)


def set_version(laptop: Laptop, new: str) -> None:
    """Change the package's version in the laptop's checkout. Runs record the version that trained them."""
    path = laptop.project / "remix_study" / "version.py"
    text = path.read_text()
    version = text.partition('__version__ = "')[2].partition('"')[0]
    assert version
    path.write_text(text.replace(f'"{version}"', f'"{new}"'))


def test_a_study_completes_when_a_machine_is_lost(cluster: Laptop, machines: Machines) -> None:
    set_version(cluster, "9.9.1")  # after `ray up`: the workers have an older copy
    file = write_study(cluster.project, "lasting", base={"epochs": 60}, trials=3)
    cluster("ray", "rsync-up", LAUNCHER)
    workspace = SHARED / "it's a workspace"
    words = ["run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    driver = cluster.start("ray", "submit", LAUNCHER, "run_study.py", "--", *map(shlex.quote, words))
    study = StudyFolder(machines.shared / workspace.name / "studies" / "lasting")

    def runs_on_w2() -> list[Path]:
        assert driver.poll() is None, cluster.output("submit")
        return [run for run in study.runs() if study.hosts(run) == ["w2"] and not study.ended(run)
                and 3 <= len(study.epochs(run)) < 40]  # fmt: skip

    killed, *_ = wait_for(runs_on_w2, "a run on w2")
    machines.kill("w2")
    before = {run: study.epochs(run) for run in study.runs()}
    assert driver.wait(600) == 0, cluster.output("submit")
    assert "Traceback" not in cluster.output("submit")
    for run, lines in before.items():
        assert study.epochs(run)[: len(lines)] == lines  # not trained again: the times in the history are unchanged
    assert study.hosts(killed)[0] == "w2"
    assert study.hosts(killed)[-1] in ("head", "w1")
    trials = [trial for trials in study.ledger.trials.values() for trial in trials]
    assert [(t.number, t.state) for t in trials] == [(n, "complete") for n in range(3)] * 2
    assert {len(study.epochs(run)) for run in study.runs()} == {60}
    starts = [tags for run in study.runs() for tags in study.tags(run)]
    assert {"w1", "w2"} <= {tags["remix_study.host"] for tags in starts}
    assert {tags["remix_study.version"] for tags in starts} == {"9.9.1"}

    database = machines.shared / workspace.name
    client = MlflowClient(tracking_uri=default_uri(database))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    tracked = [run for run in client.search_runs([experiment.experiment_id]) if "remix_study.trial" in run.data.tags]
    assert len(tracked) == 8
    assert {run.info.status for run in tracked} == {"FINISHED"}
    for each in tracked:
        steps = [point.step for point in client.get_metric_history(each.info.run_id, "val/accuracy")]
        assert steps == list(range(60)), each.data.tags

    output = cluster.on_head(
        f"cd ~/remix-study && remix-study status lasting --workspace {shlex.quote(str(workspace))}"
    )
    assert "complete, 8 of 8 runs ended" in output
    cluster("ray", "rsync-down", LAUNCHER, f"{workspace}/studies/lasting/report/", "/root/fetched/")
    assert "<html" in (cluster.home / "fetched" / "report.html").read_text()

    # The planted secret is neither on the shared disk nor in Ray's logs.
    leaks = subprocess.run(["grep", "-rl", SECRET, str(machines.shared)], capture_output=True, text=True).stdout
    logs = [machines.state / name / "tmp" / "ray" for name in ("head", "w1")]
    leaks += subprocess.run(["grep", "-rl", SECRET, *map(str, logs)], capture_output=True, text=True).stdout
    assert leaks == ""


def test_a_restarted_machine_joins_the_cluster_again(cluster: Laptop, machines: Machines) -> None:
    if not machines.is_up("w2"):
        machines.start("w2")
    wait_for(lambda: len(machines.ray_nodes("head")) == 3, "w2 to join the cluster again", 240)


def test_a_ray_job_uses_the_code_of_its_working_directory(cluster: Laptop, machines: Machines, dashboard: str) -> None:
    """The arguments of the job contain spaces and quotes."""
    set_version(cluster, "9.9.2")
    file = write_study(cluster.project, "by-job", trials=2)
    workspace = SHARED / "jobs' workspace"
    command = ["python", "-m", "remix_study", "run", file, "--corpus", CORPUS, "--workspace", str(workspace)]
    output = cluster("ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *command)
    assert "succeeded" in output
    study = StudyFolder(machines.shared / workspace.name / "studies" / "by-job")
    assert [len(trials) for trials in study.ledger.trials.values()] == [2, 2]
    assert {tags["remix_study.version"] for run in study.runs() for tags in study.tags(run)} == {"9.9.2"}
    assert len({host for run in study.runs() for host in study.hosts(run)}) > 1
    # The script run_study.py works in jobs, too.
    output = cluster("ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--",
                   "python", "run_study.py", "status", "by-job", "--workspace", str(workspace))  # fmt: skip
    assert "6 of 6 runs ended" in output


def test_submit_waits_for_the_study_and_report_is_fetched(cluster: Laptop, machines: Machines) -> None:
    set_version(cluster, "9.9.3")
    file = write_study(cluster.project, "submitted")
    workspace = SHARED / "it's submitted"
    options = ["--cluster", LAUNCHER, "--workspace", str(workspace)]
    output = cluster("remix-study", "submit", file, *options, "--corpus", CORPUS)
    assert "4 of 4 runs ended" in output
    study = StudyFolder(machines.shared / workspace.name / "studies" / "submitted")
    assert {tags["remix_study.version"] for run in study.runs() for tags in study.tags(run)} == {"9.9.3"}
    assert "complete, 4 of 4 runs ended" in cluster("remix-study", "status", "submitted", *options)
    cluster("remix-study", "report", "submitted", *options, "--out", "report of it")
    assert "<html" in (cluster.project / "report of it" / "report.html").read_text()


def test_a_detached_study_is_stopped_from_the_laptop(cluster: Laptop, machines: Machines) -> None:
    file = write_study(cluster.project, "left", base={"epochs": 2000})
    workspace = SHARED / "left"
    options = ["--cluster", LAUNCHER, "--workspace", str(workspace)]
    cluster("remix-study", "submit", file, *options, "--corpus", CORPUS, "--detach")
    study = StudyFolder(machines.shared / workspace.name / "studies" / "left")
    wait_for(lambda: any(study.epochs(run) for run in study.runs()), "the first epoch")
    assert "left: running" in cluster("remix-study", "status", "left", *options)
    cluster("remix-study", "stop", "left", *options)
    wait_for(lambda: "left: incomplete" in cluster("remix-study", "status", "left", *options), "the study to stop")
    assert not any((run / "result.json").exists() for run in study.runs())


def test_access_without_the_token_is_denied(cluster: Laptop, dashboard: str) -> None:
    output = cluster("ray", "job", "list", "--address", dashboard, check=False, RAY_AUTH_MODE="disabled")
    assert "401" in output or "Unauthorized" in output
    # Joining the cluster from another machine of the network is denied, too.
    join = ["bash", "-c", "RAY_AUTH_MODE=disabled timeout 60 ray start --address=10.88.0.1:6379 2>&1"]
    assert cluster.machines.run("laptop", join, check=False, cwd="/root").returncode != 0
    assert cluster.machines.run("laptop", ["pgrep", "raylet"], check=False).stdout == ""


def test_errors_are_reported_without_a_traceback(cluster: Laptop) -> None:
    output = cluster("ray", "submit", LAUNCHER, "run_study.py", "--", "run", "no_such.yaml", check=False)
    assert "no_such.yaml" in output
    assert "Traceback" not in output
    with pytest.raises(Exception, match="exited with status 1"):
        cluster("ray", "submit", LAUNCHER, "run_study.py", "--", "run", "no_such.yaml")


def is_idle(machines: Machines, name: str) -> bool:
    """Return whether no command runs on the machine."""
    return machines.processes(name) == []


def test_no_process_is_left_after_ray_down(cluster: Laptop, machines: Machines) -> None:
    cluster("ray", "down", "-y", LAUNCHER)
    for name in ("w1", "w2"):  # `ray down` stops only the head, as clusters/local-onprem.yaml states
        cluster("ssh", "-o", "StrictHostKeyChecking=no", "-i", "/root/.ssh/ray_cluster_ed25519", ADDRESSES[name],
                "bash -ic 'ray stop'")  # fmt: skip
    for name in ADDRESSES:
        # The launcher keeps its ssh connections open for ten seconds.
        wait_for(partial(is_idle, machines, name), f"the processes on {name} to end", 30)
