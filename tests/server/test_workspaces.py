"""Studies in remote workspaces: another machine resumes them after their driver is killed

Each machine is a cache folder here, and sees none of the others.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.files.remote_folder import RemoteFolder
from remix_study.launch.folder import RunFolder
from tests import commands

pytestmark = [pytest.mark.server, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 40  # long enough for other commands to find a running run
_POLL_S = 0.5  # other processes write the files, so there is no event to await


@dataclass(frozen=True)
class RunningCommand:
    """A running command, and the file with its output."""

    process: commands.Command
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()


class Machines:
    """Runs commands on machines that share only a bucket and a database."""

    def __init__(self, bucket: Any, corpus: Path, place: Path) -> None:
        self.url, self.place = f"{bucket.url}/workspace", place
        self.corpus = bucket.upload(corpus, "corpus")
        self.site = RemoteFolder(f"{self.url}/studies/s")
        self.commands: list[RunningCommand] = []
        self.storage = f"sqlite:///{place / 'storage.db'}"

    def study(self, **changes: Any) -> Path:
        content: dict[str, Any] = {
            "name": "s",
            "question": "does it survive?",
            "base": {"corpus": self.corpus, "epochs": EPOCHS, "global_batch": 16, "device": "cpu",
                     "evaluation": {"probe": False}, "tracking": {"uri": "off"}},
            "space": {"optimizer.learning_rate": {"kind": "float", "low": 0.0005, "high": 0.02, "log": True}},
            "methods": {
                "joint": {"set": {"method": {"name": "joint"}}},
                "remix": {"set": {"method": {"name": "remix", "warmup": 1}}},
            },
            "reference": "remix", "trials": 1, "replicates": 1, "concurrency": 1, "storage": self.storage,
        }  # fmt: skip
        path = self.place / "s.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return path

    def start(self, machine: str, *words: str) -> RunningCommand:
        output = self.place / f"output-{len(self.commands)}"
        env = os.environ | {"REMIX_STUDY_CACHE": str(self.place / machine), "COLUMNS": "200"}
        with output.open("w") as file:
            process = commands.start(
                "-m", "remix_study", *words, "--workspace", self.url, cwd=self.place, env=env, stdout=file, stderr=file
            )
        self.commands.append(RunningCommand(process, output))
        return self.commands[-1]

    def run(self, machine: str, *words: str) -> tuple[int, str]:
        command = self.start(machine, *words)
        status = command.process.wait(600)
        assert "Traceback" not in command.text, command.text
        return status, command.text

    def until(self, holds: Callable[[], Any], while_: RunningCommand | None = None) -> Any:
        end, pause = time.monotonic() + 300, threading.Event()
        while not (found := holds()):
            assert time.monotonic() < end
            assert while_ is None or while_.process.poll() is None, while_.text
            pause.wait(_POLL_S)
        return found

    def epochs(self, run: str) -> list[str]:
        """Return the complete epochs at the URL of the run whose name begins with `run`."""
        for path in self.site.listing("runs"):
            if path.startswith(f"runs/{run}") and path.endswith("history.jsonl"):
                return (self.site.content(path) or b"").decode().split("\n")[:-1]
        return []

    def end_all(self) -> None:
        for command in self.commands:
            if command.process.poll() is None:
                os.killpg(command.process.pid, signal.SIGKILL)
                command.process.wait()


@pytest.fixture
def machines(bucket: Any, small_corpus: Path, tmp_path: Path) -> Iterator[Machines]:
    made = Machines(bucket, small_corpus, tmp_path)
    yield made
    made.end_all()


@pytest.mark.smoke
def test_a_study_is_stopped_from_another_machine_and_resumes_there_and_after_its_driver_is_killed(
    machines: Machines,
) -> None:
    study = machines.study()
    driver = machines.start("one", "run", str(study))
    machines.until(lambda: len(machines.epochs("joint-search-0-")) >= 2, driver)
    status, output = machines.run("two", "stop", "s")
    assert status == 0, output
    assert "of" in output
    status, output = driver.process.wait(120), driver.text
    assert status == 130, output
    assert "Rerun the command to resume" in " ".join(output.split())
    before = machines.epochs("joint-search-0-")
    assert 2 <= len(before) < EPOCHS
    status, output = machines.run("two", "stop", "s")
    assert status == 1
    assert "Cannot stop the study s: no process runs it" in " ".join(output.split())

    driver = machines.start("two", "run", str(study))
    machines.until(lambda: len(machines.epochs("joint-search-0-")) > len(before), driver)
    assert machines.site.content("stop") is None
    status, output = machines.run("one", "status", "s", "--json")
    assert (status, json.loads(output)["state"]) == (0, "running")
    status, output = machines.run("one", "run", str(study))
    assert status == 1
    assert "Cannot run the study" in " ".join(output.split())
    os.killpg(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    before = machines.epochs("joint-search-0-")
    status, output = machines.run("one", "run", str(study))
    assert status == 0, output
    assert "Checking for" in output  # whether the killed driver still runs
    after = machines.epochs("joint-search-0-")
    assert len(after) == EPOCHS
    assert after[: len(before)] == before  # no uploaded epoch is trained again
    status, output = machines.run("three", "status", "s", "--json")
    found = json.loads(output)
    assert (found["state"], found["runs_ended"], found["failures"]) == ("complete", 4, [])
    assert [(m["complete"], m["replicated"]) for m in found["methods"]] == [(1, 1), (1, 1)]
    listed = machines.site.listing()
    assert "report/report.html" in listed
    assert "lease.json" not in listed
    assert not any(path.startswith(("tune/", "ray_train/")) or path.endswith("lock") for path in listed)
    # The machine that trained keeps only what the driver reads.
    assert not list((machines.place / "one").rglob("*.pt"))

    status, output = machines.run("three", "report", "s")
    assert status == 0
    assert (machines.place / "s-report" / "report.html").exists()
    status, output = machines.run("three", "export", "s")
    assert len((machines.place / "s-export" / "epochs.csv").read_text().splitlines()) == 4 * EPOCHS + 1
    status, output = machines.run("three", "best", "s")
    assert "s-best-remix.yaml" in output
    assert machines.url in output
    status, output = machines.run("three", "list")
    assert "complete" in output


def test_missing_settings_of_a_remote_workspace_are_reported_before_anything_starts(machines: Machines) -> None:
    study = machines.study(storage=None)
    status, output = machines.run("one", "run", str(study))
    assert status == 1
    assert "`storage` must be a database" in " ".join(output.split())
    base = {**yaml.safe_load(machines.study().read_text())["base"], "tracking": {}}
    status, output = machines.run("one", "run", str(machines.study(base=base)))
    assert status == 1
    assert "MLFLOW_TRACKING_URI" in output
    assert machines.site.listing() == {}
    status, output = machines.run("one", "status", "nothing")
    assert status == 1
    assert "No study 'nothing' in the workspace" in " ".join(output.split())


def test_a_single_run_is_trained_in_a_remote_workspace(machines: Machines) -> None:
    config = {**yaml.safe_load(machines.study().read_text())["base"], "epochs": 2, "method": {"name": "joint"}}
    (machines.place / "run.yaml").write_text(yaml.safe_dump(config))
    status, output = machines.run("one", "train", "run.yaml", "--name", "r")
    assert status == 0, output
    listed = RemoteFolder(f"{machines.url}/runs/r").listing()
    assert {"config.yaml", "history.jsonl", "result.json", "checkpoints/best.pt", "checkpoints/last.pt"} <= set(listed)
    status, _ = machines.run("two", "train", "run.yaml", "--name", "r")  # complete, so it is not trained again
    assert status == 0
    assert RemoteFolder(f"{machines.url}/runs/r").listing()["result.json"] == listed["result.json"]


def test_a_run_that_another_process_resumed_is_not_overwritten(machines: Machines, tmp_path: Path) -> None:
    from remix_study.errors import RemixStudyError
    from remix_study.launch.working_copy import working_copy

    home = f"{machines.url}/studies/s/runs/r"
    with working_copy(tmp_path / "r", home) as mine:
        mine.claim()
        RunFolder(mine.folder).path.mkdir(parents=True)
        (mine.folder / "history.jsonl").write_text("mine\n")
        mine.push()
        RemoteFolder(home).put("owner", b"another")
        (mine.folder / "history.jsonl").write_text("mine, too late\n")
        with pytest.raises(RemixStudyError, match="Another process has resumed the run"):
            mine.push()
        place = mine.folder
    assert RemoteFolder(home).content("history.jsonl") == b"mine\n"
    assert not place.exists()
