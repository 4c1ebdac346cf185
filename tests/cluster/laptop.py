"""Where a person sits: a laptop with a checkout that brings a cluster up; and a study as the cluster's disk shows it"""

import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from remix_study.study.ledger import Ledger, read_ledger
from tests.cluster.machines import ADDRESSES, SHARED, Machines

ROOT = Path(__file__).parents[2]
CORPUS = str(SHARED / "corpus")
LAUNCHER = "clusters/local-onprem.yaml"
RATE = "optimizer.learning_rate"
SECRET = f"planted-{secrets.token_hex(8)}"  # in no file of ours, so that each file that has it is a leak
_POLL_S = 0.05  # other machines write the files that we wait for: there is no event to await


def until(holds: Callable[[], Any], what: str, timeout_s: float = 300) -> Any:
    """What `holds` returns as soon as it is true."""
    pause, end = threading.Event(), time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, f"waited {timeout_s} s in vain for {what}"
        pause.wait(_POLL_S)
    return found


def put_checkout(place: Path) -> None:
    """The working tree as it is, without what git does not know; the laptop has no other."""
    # Others may be at work in it: only a copy that is made at one stroke is whole.
    command = ["rsync", "-a", "--exclude=.git", "--filter=:- .gitignore", f"{ROOT}/", f"{place}/"]
    subprocess.run(command, check=True)


def write_study(folder: Path, name: str, **changes: Any) -> str:
    """Two methods, on the tiny corpus; the name of the file, which has a space in it."""
    content: dict[str, Any] = {
        "name": name,
        "question": "does it run on a cluster?",
        "base": {
            "corpus": "given below",
            "epochs": 4,
            "global_batch": 16,
            "device": "cpu",
            "evaluation": {"probe": False},
            "tracking": {"experiment": "e", "model": False},
        }
        | changes.pop("base", {}),
        "space": {RATE: {"kind": "float", "low": 0.0005, "high": 0.02, "log": True}},
        "methods": {
            "joint": {"set": {"method": {"name": "joint"}}},
            "remix": {"set": {"method": {"name": "remix", "warmup": 1}}},
        },
        "reference": "remix", "trials": 1, "replicates": 1,
    }  # fmt: skip
    (folder / f"study {name}.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return f"study {name}.yaml"


class OnDisk:
    """A study as the shared disk shows it, to the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.folder)

    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"))

    def tags(self, run: Path) -> list[dict[str, str]]:
        """Of each start of the run."""
        spool = run / "tracking" / "spool.jsonl"
        lines = spool.read_text().split("\n")[:-1] if spool.exists() else []
        return [dict(json.loads(line)["start"]["tags"]) for line in lines if line.startswith('{"start"')]

    def hosts(self, run: Path) -> list[str]:
        """Where it was started, and started again."""
        return [tags["remix_study.host"] for tags in self.tags(run)]

    @staticmethod
    def epochs(run: Path) -> list[str]:
        history = run / "history.jsonl"
        return history.read_text().split("\n")[:-1] if history.exists() else []

    @staticmethod
    def ended(run: Path) -> bool:
        return (run / "result.json").exists() or (run / "ended.json").exists()


class Laptop:
    """Where a person sits: a checkout at ~/project, and what it takes to reach the cluster."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.home = machines.state / "laptop" / "root"
        self.project = self.home / "project"

    def settle(self) -> None:
        put_checkout(self.project)
        launcher = self.project / LAUNCHER
        text = launcher.read_text()
        for placeholder, value in {
            "CHANGE_ME_HEAD_ADDRESS": ADDRESSES["head"],
            "CHANGE_ME_WORKER_1_ADDRESS": ADDRESSES["w1"],
            "CHANGE_ME_WORKER_2_ADDRESS": ADDRESSES["w2"],
            "CHANGE_ME_ACCOUNT": "root",
        }.items():
            assert placeholder in text
            text = text.replace(placeholder, value)
        launcher.write_text(text)
        planted = self.home / ".remix-study.env"
        planted.write_text(f"PLANTED={SECRET}\n")
        planted.chmod(0o600)
        self("ray", "get-auth-token", "--generate")
        self("pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".[s3,postgresql]")

    def __call__(self, *command: str, timeout_s: float = 400, check: bool = True, **env: str) -> str:
        """What it said; `check`: and it must have gone well."""
        around = {"RAY_AUTH_MODE": "token", "COLUMNS": "160"} | env
        return self.machines.run(
            "laptop", command, cwd="/root/project", env=around, timeout_s=timeout_s, check=check
        ).stdout  # fmt: skip

    def begin(self, *command: str) -> "subprocess.Popen[str]":
        """At work, with what it says in `NAME.log` of its home, by the command's second word."""
        with (self.home / f"{command[1]}.log").open("w") as log:
            return self.machines.popen(
                "laptop", command, cwd="/root/project", env={"RAY_AUTH_MODE": "token", "COLUMNS": "160"},
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self, word: str) -> str:
        return (self.home / f"{word}.log").read_text(errors="replace")

    def on_head(self, command: str, **how: Any) -> str:
        return self("ray", "exec", LAUNCHER, command, **how)
