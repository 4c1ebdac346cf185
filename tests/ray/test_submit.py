"""`remix-study submit` to a real Ray cluster with a dashboard and a token, in its own process namespace

Ray's processes end with the namespace. `ray stop` would end all of the user's Ray processes on this machine.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.study.status import existing, study_status

pytestmark = pytest.mark.ray

_POLL_S = 0.2  # polling, because another process starts
TOKEN = "0123456789abcdef0123456789abcdef"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Cluster:
    """A Ray head on this machine, and home directories of users with and without its token."""

    def __init__(self, root: Path, corpus: Path) -> None:
        self.root, self.corpus = root, corpus
        self.workspace = root / "the workspace"
        self.folder = root / "project"
        self.folder.mkdir()
        self.add_user("owner", TOKEN)
        port, dashboard, client, agent, grpc, metrics = free_ports(6)
        self.url = f"http://127.0.0.1:{dashboard}"
        # Ray's sockets are below this folder, and the path of a socket has at most 107 characters.
        self.scratch = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
        self.log = (root / "ray.log").open("w")
        start = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={metrics}", f"--temp-dir={self.scratch}", "--disable-usage-stats",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *start],
            env=self.environment("owner"), cwd=root, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True,
        )  # fmt: skip

    def add_user(self, user: str, token: str | None) -> None:
        """Create the home directory of a user, with Ray's token unless it is None."""
        folder = self.root / user / ".ray"
        folder.mkdir(parents=True)
        if token is not None:
            (folder / "auth_token").write_text(token)

    def environment(self, user: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMIX_"))}
        path = f"{Path(sys.executable).parent}:{own['PATH']}"
        return own | {"HOME": str(self.root / user), "RAY_AUTH_MODE": "token", "PATH": path, "COLUMNS": "200",
                      "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip

    def wait_for_head(self) -> None:
        """Wait until the dashboard lists the head node. Before that, `submit` cannot know how many nodes there are."""
        pause, end = threading.Event(), time.monotonic() + 120
        request = urllib.request.Request(f"{self.url}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"})
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
                if any(node["state"] == "ALIVE" for node in nodes):
                    return
            pause.wait(_POLL_S)
        raise AssertionError(f"the head did not start: {(self.root / 'ray.log').read_text()[-2000:]}")

    def write(self, name: str, **changes: Any) -> None:
        content: dict[str, Any] = {
            "name": name,
            "question": "does it work?",
            "base": {
                "corpus": "given below", "epochs": 4, "global_batch": 16, "device": "cpu",
                "evaluation": {"probe": False}, "tracking": {"uri": "off"},
            },
            "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
            "reference": "remix", "trials": 2, "replicates": 1,
        }  # fmt: skip
        (self.folder / f"{name} study.yaml").write_text(yaml.safe_dump(content | changes))

    def submit(self, name: str, *options: str, user: str = "owner") -> "subprocess.CompletedProcess[str]":
        words = ["submit", f"{name} study.yaml", "--address", self.url, "--workspace", str(self.workspace), *options]
        return subprocess.run(
            [sys.executable, "-m", "remix_study", *words], cwd=self.folder, env=self.environment(user),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400,
        )  # fmt: skip

    def end(self) -> None:
        self.process.kill()  # `unshare`; its namespace ends with it
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def unmet_requirement() -> str | None:
    """Return why this machine cannot create a process namespace, or None if it can."""
    try:
        words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare (util-linux) is not installed"
    return None if done.returncode == 0 else f"cannot create a process namespace: {done.stderr.strip()}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Iterator[Cluster]:
    if (reason := unmet_requirement()) is not None:
        pytest.skip(reason)
    made = Cluster(tmp_path_factory.mktemp("cluster"), small_corpus)
    try:
        made.wait_for_head()
        yield made
    finally:
        made.end()


def test_a_missing_or_wrong_token_is_reported(cluster: Cluster) -> None:
    cluster.write("first")
    cluster.add_user("stranger", "f" * 32)
    rejected = cluster.submit("first", "--corpus", str(cluster.corpus), user="stranger")
    assert rejected.returncode == 1
    assert "rejects the token in ~/.ray/auth_token" in rejected.stderr
    cluster.add_user("nobody", None)
    rejected = cluster.submit("first", "--corpus", str(cluster.corpus), user="nobody")
    assert rejected.returncode == 1
    assert "token" in rejected.stderr
    for output in (rejected.stderr, rejected.stdout):
        assert "Traceback" not in output


@pytest.mark.smoke
def test_a_detached_study_can_be_followed_to_its_end(cluster: Cluster) -> None:
    cluster.write("second")
    left = cluster.submit("second", "--corpus", str(cluster.corpus), "--detach")
    assert left.returncode == 0, left.stderr
    assert "second has begun on a cluster of 1 machine" in left.stdout
    assert "This machine can disconnect" in left.stderr
    assert study_status(existing(cluster.workspace, "second")).runs_ended < 3
    (job,) = re.findall(r"runs on the cluster as job (\S+)\.", left.stderr)
    again = cluster.submit("second", "--corpus", str(cluster.corpus))
    assert again.returncode == 0, again.stderr
    assert "is already running as job" in again.stderr
    assert job in again.stderr
    assert "3 of 3 runs ended" in again.stdout
    assert again.stdout.count("Report:") == 1  # Ray repeats the end of a job's log
    assert study_status(existing(cluster.workspace, "second")).state == "complete"
    # The uploaded code ran, not the installed package: it is below the folder for uploads.
    assert list(cluster.scratch.glob("session_*/runtime_resources/py_modules_files/*/remix_study/cli/submit.py"))


def test_submit_fails_if_the_cluster_cannot_run_the_study(cluster: Cluster) -> None:
    cluster.write("third")
    failed = cluster.submit("third", "--corpus", "/shared/none", "--detach")
    assert failed.returncode == 1
    assert "/shared/none" in failed.stdout
    assert "failed with exit status 1" in failed.stderr
    assert not (cluster.workspace / "studies" / "third" / "study.yaml").exists()
    jobs = subprocess.run(
        ["ray", "job", "list", "--address", cluster.url], env=cluster.environment("owner"), capture_output=True,
        text=True,
    )  # fmt: skip
    assert json.dumps("third")[1:-1] in jobs.stdout


def test_an_error_that_a_retry_does_not_heal_stops_the_job(cluster: Cluster) -> None:
    """The entrypoint for KubeRay, which retries a job that failed but not one that was stopped."""
    cluster.write("fourth")
    words = ["run", "fourth study.yaml", "--corpus", "/shared/none", "--workspace", str(cluster.workspace)]
    done = subprocess.run(
        ["ray", "job", "submit", "--address", cluster.url, "--submission-id", "rayjob", "--working-dir", ".", "--",
         "python", "-m", "remix_study.cli.rayjob", *words],
        env=cluster.environment("owner"), cwd=cluster.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert "error: " in done.stdout
    assert "/shared/none" in done.stdout
    assert "A retry does not help" in done.stdout
    shown = subprocess.run(
        ["ray", "job", "status", "--address", cluster.url, "rayjob"], env=cluster.environment("owner"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert "stopped" in shown.stdout + shown.stderr
