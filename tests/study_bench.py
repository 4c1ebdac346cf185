"""Runs studies with the real command in a process, and reads their state from the files that they write"""

import os
import pprint
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from mlflow import MlflowClient
from ray._private import state
from ray.util import placement_group_table

from remix_study.files.disk import lock_holder
from remix_study.launch.folder import RunFolder
from remix_study.study.ledger import Ledger, read_ledger
from remix_study.tracking import default_uri
from tests import commands, mlflow_database

RATE = "optimizer.learning_rate"
_POLL_S = 0.02  # another process writes the files, so there is no event to await


class StudyBench:
    """Starts `remix-study run` with small studies; `end_all` kills those that still run."""

    def __init__(self, corpus: Path, place: Path) -> None:
        self.corpus, self.place = corpus, place
        self.workspace = place / "w"
        self._processes: list[StudyProcess] = []

    def write(self, name: str = "s", **changes: Any) -> Path:
        """Write a study of two methods with two trials and a replicate each, one run at a time, untracked.

        Args:
            changes: replace keys of the study; `base` replaces keys of its `base`.
        """
        base = {
            "corpus": "given below",
            "epochs": 8,
            "global_batch": 16,
            "device": "cpu",
            "evaluation": {"probe": False},
            "tracking": {"uri": "off", "experiment": "e", "model": False},
        }
        content: dict[str, Any] = {
            "name": name,
            "question": "does it survive?",
            "base": base | changes.pop("base", {}),
            "space": {RATE: {"kind": "float", "low": 0.0005, "high": 0.02, "log": True}},
            "methods": {
                "joint": {"set": {"method": {"name": "joint"}}},
                "remix": {"set": {"method": {"name": "remix", "warmup": 1}}},
            },
            "reference": "remix", "trials": 2, "replicates": 1, "concurrency": 1,
        }  # fmt: skip
        if content["base"]["tracking"].get("uri", "a server") is None:
            mlflow_database.install(self.workspace)
        path = self.place / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return path

    def start(self, study: Path, *options: str, workspace: Path | None = None, **popen: Any) -> "StudyProcess":
        place = workspace or self.workspace
        words = ["-m", "remix_study", "run", str(study), "--corpus", str(self.corpus), "--workspace", str(place),
                 *options]  # fmt: skip
        output = self.place / f"output-{len(self._processes)}"
        env = os.environ | {"COLUMNS": "160"} | popen.pop("env", {})
        command: commands.Command | subprocess.Popen[bytes]
        with output.open("w") as file:
            if popen:  # such as a terminal, which a new interpreter detects at its start
                command = subprocess.Popen(
                    [sys.executable, *words], cwd=self.place, env=env, start_new_session=True, **popen
                )
            else:
                command = commands.start(*words, cwd=self.place, env=env, stdout=file, stderr=file)
        process = StudyProcess(command, output, place / "studies" / study.stem)
        self._processes.append(process)
        return process

    def run(self, study: Path, *options: str, workspace: Path | None = None) -> "StudyProcess":
        """Run a study to its end, which must be successful."""
        process = self.start(study, *options, workspace=workspace)
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output
        return process

    def tracked(self, experiment: str = "e", uri: str | None = None) -> "list[TrackedRun]":
        """Return all runs of an experiment in MLflow, with the epochs whose accuracy was recorded."""
        client = MlflowClient(tracking_uri=uri or default_uri(self.workspace))
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        return [
            TrackedRun(
                run.info.run_name,
                run.info.status,
                dict(run.data.tags),
                [point.step for point in client.get_metric_history(run.info.run_id, "val/accuracy")],
            )
            for run in client.search_runs([found.experiment_id], max_results=1000)
        ]

    def end_all(self) -> None:
        for process in self._processes:
            if process.command.poll() is None:
                os.killpg(process.command.pid, signal.SIGKILL)
                process.command.wait()


@dataclass(frozen=True)
class TrackedRun:
    name: str
    status: str
    tags: dict[str, str]
    steps: list[int] = field(repr=False)


@dataclass
class StudyProcess:
    """The process of a study's command, and the study's folder."""

    command: "commands.Command | subprocess.Popen[bytes]"
    output_file: Path
    folder: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def wait(self, timeout_s: float = 500) -> int:
        try:
            return self.command.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command still runs after {timeout_s} s: {self._describe_hang()}")

    def _describe_hang(self) -> str:
        """Return what the command printed, the stacks of its threads, and what its Ray cluster is doing."""
        if isinstance(self.command, commands.Command):
            self.command.print_stacks()
            threading.Event().wait(1)  # a signal handler writes them, so there is no event to await
        parts = [self.output, repr({name: len(run.history) for name, run in self.runs.items()})]
        if ray.is_initialized():
            # Not `ray.util.state`, which asks the dashboard: the clusters of tests have none.
            questions = (ray.nodes, ray.available_resources, state.actors, placement_group_table)
            parts += [pprint.pformat(ask()) for ask in questions]
        return "\n".join(parts)

    def kill(self) -> None:
        """Kill the command with SIGKILL, but none of the processes that it started: Ray ends those."""
        self.command.kill()
        self.command.wait()

    def wait_until(self, holds: Callable[[], Any], timeout_s: float = 500) -> Any:
        """Return the value of `holds` as soon as it is true; fail if the command ends before."""
        return self._await(holds, timeout_s, lambda: self.command.poll() is not None)

    def _await(self, holds: Callable[[], Any], timeout_s: float, over: Callable[[], bool]) -> Any:
        pause, end = threading.Event(), time.monotonic() + timeout_s
        while not (found := holds()):
            assert not over() or holds(), f"the command ended before ({self.command.returncode}): {self.output}"
            assert time.monotonic() < end, f"timed out after {timeout_s} s: {self.output}"
            pause.wait(_POLL_S)
        return found

    # --- the files of the study ---------------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, RunFolder]:
        return {path.name: RunFolder(path) for path in sorted((self.folder / "runs").glob("*"))}

    def epochs(self, name: str = "") -> int:
        """Return the number of epochs of all runs whose name begins with `name`."""
        return sum(len(lines_of(run)) for key, run in self.runs.items() if key.startswith(name))

    def ended(self) -> int:
        """Return the number of runs that have a result, or ended early."""
        return sum((run.path / "result.json").exists() or (run.path / "ended.json").exists()
                   for run in self.runs.values())  # fmt: skip

    def worker_of(self, name: str) -> int | None:
        """Return the process id of the worker that trains the run whose name begins with `name`."""
        for key, run in self.runs.items():
            if key.startswith(name) and (pid := lock_holder(run.path / "lock")) not in (None, "?", ""):
                return int(str(pid))
        return None

    def is_idle(self) -> bool:
        """Return whether no process trains a run."""
        return not any(run.is_held() for run in self.runs.values())

    def await_log(self, log: str, words: str, timeout_s: float = 500) -> str:
        """Wait until a log in the study's folder contains `words`; return the log."""
        path = self.folder / log
        return str(self._await(lambda: path.exists() and words in (said := path.read_text()) and said, timeout_s,
                               lambda: False))  # fmt: skip

    def await_idle(self, timeout_s: float = 60) -> None:
        """Wait until no process trains a run. Ray ends workers some seconds after their driver was killed."""
        self._await(self.is_idle, timeout_s, lambda: False)

    def epochs_under_way(self) -> int:
        """Return the number of epochs of the run under way; 0 if there is none."""
        return max((len(lines_of(run)) for run in self.runs.values() if run.is_held()), default=0)

    def position(self) -> str:
        """Return whether the command is in a run or between runs."""
        return "between runs" if self.is_idle() else "in a run"

    def history_lines(self) -> dict[str, list[str]]:
        return {name: lines_of(run) for name, run in self.runs.items()}

    def results(self) -> dict[str, int]:
        """Return the time at which each result was written, in ns."""
        return {name: (run.path / "result.json").stat().st_mtime_ns for name, run in self.runs.items()
                if (run.path / "result.json").exists()}  # fmt: skip

    def ledger(self) -> Ledger:
        return read_ledger(self.folder, intermediate=True)

    def trials(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the trials' values that interruptions must not change."""
        return {
            method: [(t.number, t.state, t.params, t.values, dict(t.intermediate)) for t in trials]
            for method, trials in self.ledger().trials.items()
        }

    def finals(self) -> dict[str, dict[str, float]]:
        """Return the summaries of the replicates without times."""
        return {
            Path(replicate.folder).name: {
                key: value
                for key, value in (RunFolder(Path(replicate.folder)).result() or {}).items()
                if not key.startswith("time/")
            }
            for replicates in self.ledger().replicates.values()
            for replicate in replicates
        }


def lines_of(run: RunFolder) -> list[str]:
    """Return the complete lines of the history. They hold times, so an epoch that is trained again differs."""
    path = run.path / "history.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []
