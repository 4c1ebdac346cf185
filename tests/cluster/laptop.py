"""A laptop with a checkout, from which tests control a cluster; and study folders on the cluster's shared disk"""

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
SECRET = f"planted-{secrets.token_hex(8)}"  # unique, so that every file that contains it is a leak
_POLL_S = 0.05  # polling: there is no event for files that other machines write


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 300) -> Any:
    """Wait until `condition` returns a true value, and return that value. `what` names it in the assertion message."""
    pause, end = threading.Event(), time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"timed out after {timeout_s} s waiting for {what}"
        pause.wait(_POLL_S)
    return found


def copy_checkout(folder: Path) -> None:
    """Copy the working tree, without ignored files, into `folder`."""
    # A snapshot, because the working tree may change while the tests run.
    command = ["rsync", "-a", "--exclude=.git", "--filter=:- .gitignore", f"{ROOT}/", f"{folder}/"]
    subprocess.run(command, check=True)


def write_study(folder: Path, name: str, **changes: Any) -> str:
    """Write the file of a study with two methods, and return its name, which contains a space.

    Args:
        changes: replace top-level keys of the file; those in `base` replace keys of `base`.
    """
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


class StudyFolder:
    """The folder of a study on the shared disk, read from the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.folder)

    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"))

    def tags(self, run: Path) -> list[dict[str, str]]:
        """Return the tags of each start of the run, oldest first."""
        spool = run / "tracking" / "spool.jsonl"
        lines = spool.read_text().split("\n")[:-1] if spool.exists() else []
        return [dict(json.loads(line)["start"]["tags"]) for line in lines if line.startswith('{"start"')]

    def hosts(self, run: Path) -> list[str]:
        """Return the host of each start of the run, oldest first."""
        return [tags["remix_study.host"] for tags in self.tags(run)]

    @staticmethod
    def epochs(run: Path) -> list[str]:
        """Return the lines of the run's history, one per epoch."""
        history = run / "history.jsonl"
        return history.read_text().split("\n")[:-1] if history.exists() else []

    @staticmethod
    def ended(run: Path) -> bool:
        return (run / "result.json").exists() or (run / "ended.json").exists()


class Laptop:
    """The machine `laptop`, with a checkout at ~/project, an installed package and the credentials of the cluster."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.home = machines.state / "laptop" / "root"
        self.project = self.home / "project"

    def set_up(self) -> None:
        """Copy the checkout, fill in the addresses of its launcher file, plant a secret, and install the package."""
        copy_checkout(self.project)
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
        """Run a command in ~/project and return its stdout and stderr.

        Args:
            check: whether a non-zero exit status is an error.
            env: additional environment variables.

        Raises:
            MachinesError: `check` is set and the command failed.
        """
        around = {"RAY_AUTH_MODE": "token", "COLUMNS": "160"} | env
        return self.machines.run(
            "laptop", command, cwd="/root/project", env=around, timeout_s=timeout_s, check=check
        ).stdout  # fmt: skip

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in the background. Its output goes to ~/WORD.log, where WORD is `command[1]`."""
        with (self.home / f"{command[1]}.log").open("w") as log:
            return self.machines.popen(
                "laptop", command, cwd="/root/project", env={"RAY_AUTH_MODE": "token", "COLUMNS": "160"},
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def output(self, word: str) -> str:
        """Return the output so far of the command whose second word is `word`, see `start`."""
        return (self.home / f"{word}.log").read_text(errors="replace")

    def on_head(self, command: str, **options: Any) -> str:
        """Run a shell command on the head with `ray exec`, and return its output."""
        return self("ray", "exec", LAUNCHER, command, **options)
