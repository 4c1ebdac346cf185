"""`remix-study submit` against a real Ray with a dashboard and a token, in a process namespace of its own

Ray's processes end with the namespace, so that nobody has to call `ray stop`, which would end every Ray of the account.
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

_POLL_S = 0.2  # another process starts, so there is no event to await
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
    """A Ray head on this machine, and a user who has its token."""

    def __init__(self, place: Path, corpus: Path) -> None:
        self.place, self.corpus = place, corpus
        self.workspace = place / "the workspace"
        self.folder = place / "mine"
        self.folder.mkdir()
        self.home("person", TOKEN)
        port, dashboard, client, agent, grpc, metrics = free_ports(6)
        self.url = f"http://127.0.0.1:{dashboard}"
        # Ray's sockets are below this folder, and the path of a socket has at most 107 characters.
        self.scratch = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
        self.log = (place / "ray.log").open("w")
        start = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={metrics}", f"--temp-dir={self.scratch}", "--disable-usage-stats",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *start],
            env=self.environment("person"), cwd=place, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True,
        )  # fmt: skip

    def home(self, who: str, token: str | None) -> None:
        folder = self.place / who / ".ray"
        folder.mkdir(parents=True)
        if token is not None:
            (folder / "auth_token").write_text(token)

    def environment(self, who: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMIX_"))}
        path = f"{Path(sys.executable).parent}:{own['PATH']}"
        return own | {"HOME": str(self.place / who), "RAY_AUTH_MODE": "token", "PATH": path, "COLUMNS": "200",
                      "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip

    def await_head(self) -> None:
        """Wait until the dashboard lists the head node. Before that, `submit` cannot know how many nodes there are."""
        pause, end = threading.Event(), time.monotonic() + 120
        asked = urllib.request.Request(f"{self.url}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"})
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
                if any(node["state"] == "ALIVE" for node in nodes):
                    return
            pause.wait(_POLL_S)
        raise AssertionError(f"no head came up: {(self.place / 'ray.log').read_text()[-2000:]}")

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

    def submit(self, name: str, *options: str, who: str = "person") -> "subprocess.CompletedProcess[str]":
        words = ["submit", f"{name} study.yaml", "--address", self.url, "--workspace", str(self.workspace), *options]
        return subprocess.run(
            [sys.executable, "-m", "remix_study", *words], cwd=self.folder, env=self.environment(who),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400,
        )  # fmt: skip

    def end(self) -> None:
        self.process.kill()  # of `unshare`, whose namespace ends with it
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def why_not() -> str | None:
    try:
        words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare (util-linux) is not installed"
    return None if done.returncode == 0 else f"no namespace of processes can be made here: {done.stderr.strip()}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Iterator[Cluster]:
    if (why := why_not()) is not None:
        pytest.skip(why)
    made = Cluster(tmp_path_factory.mktemp("cluster"), small_corpus)
    try:
        made.await_head()
        yield made
    finally:
        made.end()


def test_a_missing_or_wrong_token_is_reported(cluster: Cluster) -> None:
    cluster.write("first")
    cluster.home("stranger", "f" * 32)
    refused = cluster.submit("first", "--corpus", str(cluster.corpus), who="stranger")
    assert refused.returncode == 1
    assert "rejects the token in ~/.ray/auth_token" in refused.stderr
    cluster.home("nobody", None)
    refused = cluster.submit("first", "--corpus", str(cluster.corpus), who="nobody")
    assert refused.returncode == 1
    assert "token" in refused.stderr
    for said in (refused.stderr, refused.stdout):
        assert "Traceback" not in said


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
    # The uploaded code ran, not the installed package: Ray keeps uploads below its folder.
    assert list(cluster.scratch.glob("session_*/runtime_resources/py_modules_files/*/remix_study/cli/submit.py"))


def test_submit_fails_if_the_cluster_cannot_run_the_study(cluster: Cluster) -> None:
    cluster.write("third")
    failed = cluster.submit("third", "--corpus", "/shared/none", "--detach")
    assert failed.returncode == 1
    assert "/shared/none" in failed.stdout
    assert "failed with exit status 1" in failed.stderr
    assert not (cluster.workspace / "studies" / "third" / "study.yaml").exists()
    jobs = subprocess.run(
        ["ray", "job", "list", "--address", cluster.url], env=cluster.environment("person"), capture_output=True,
        text=True,
    )  # fmt: skip
    assert json.dumps("third")[1:-1] in jobs.stdout
