"""A bench for studies that meet accidents: the real command in a process of its own, watched by the files it writes"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from remix_study.files.disk import lock_holder
from remix_study.launch.folder import RunFolder
from remix_study.study.ledger import Ledger, read_ledger
from remix_study.tracking import default_uri
from tests import commands, mlflow_database

RATE = "optimizer.learning_rate"
_POLL_S = 0.02  # another process writes the files that we wait for: there is no event to await


class AccidentsBench:
    """`begin` starts `remix-study run`; what is still running when the test ends is ended."""

    def __init__(self, corpus: Path, place: Path) -> None:
        self.corpus, self.place = corpus, place
        self.workspace = place / "w"
        self._begun: list[Begun] = []

    def write(self, name: str = "s", **changes: Any) -> Path:
        """A study of two methods with two trials and a replicate each, one run at a time, untracked."""
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

    def begin(self, study: Path, *options: str, workspace: Path | None = None, **popen: Any) -> "Begun":
        place = workspace or self.workspace
        words = ["-m", "remix_study", "run", str(study), "--corpus", str(self.corpus), "--workspace", str(place),
                 *options]  # fmt: skip
        told = self.place / f"told-{len(self._begun)}"
        env = os.environ | {"COLUMNS": "160"} | popen.pop("env", {})
        process: commands.Command | subprocess.Popen[bytes]
        with told.open("w") as file:
            if popen:  # a terminal, which a new interpreter finds as a person's would
                process = subprocess.Popen(
                    [sys.executable, *words], cwd=self.place, env=env, start_new_session=True, **popen
                )
            else:
                process = commands.start(*words, cwd=self.place, env=env, stdout=file, stderr=file)
        begun = Begun(process, told, place / "studies" / study.stem)
        self._begun.append(begun)
        return begun

    def run(self, study: Path, *options: str, workspace: Path | None = None) -> "Begun":
        """To its end, which must be a good one."""
        begun = self.begin(study, *options, workspace=workspace)
        assert begun.ends() == 0, begun.said
        assert "Traceback" not in begun.said
        return begun

    def tracked(self, experiment: str = "e", uri: str | None = None) -> "list[TrackedRun]":
        """All runs in MLflow, with the history of what is measured in each epoch."""
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
        for begun in self._begun:
            if begun.process.poll() is None:
                os.killpg(begun.process.pid, signal.SIGKILL)
                begun.process.wait()


@dataclass(frozen=True)
class TrackedRun:
    name: str
    status: str
    tags: dict[str, str]
    steps: list[int] = field(repr=False)


@dataclass
class Begun:
    """A study's command at work."""

    process: "commands.Command | subprocess.Popen[bytes]"
    told: Path
    folder: Path

    @property
    def said(self) -> str:
        return self.told.read_text(errors="replace")

    def ends(self, timeout_s: float = 500) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """As a power cut would, but for its own process only: what it started is Ray's to end."""
        self.process.kill()
        self.process.wait()

    def until(self, holds: Callable[[], Any], timeout_s: float = 500) -> Any:
        """What `holds` returns as soon as it is true; an error where the command ends before."""
        return self._await(holds, timeout_s, lambda: self.process.poll() is not None)

    def _await(self, holds: Callable[[], Any], timeout_s: float, over: Callable[[], bool]) -> Any:
        pause, end = threading.Event(), time.monotonic() + timeout_s
        while not (found := holds()):
            assert not over() or holds(), f"the command ended before ({self.process.returncode}): {self.said}"
            assert time.monotonic() < end, f"waited {timeout_s} s in vain: {self.said}"
            pause.wait(_POLL_S)
        return found

    # --- what lies in the study's folder -----------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, RunFolder]:
        return {path.name: RunFolder(path) for path in sorted((self.folder / "runs").glob("*"))}

    def epochs(self, name: str = "") -> int:
        """Epochs of all runs whose name begins so."""
        return sum(len(lines_of(run)) for key, run in self.runs.items() if key.startswith(name))

    def ended(self) -> int:
        """Runs that have a result, or ended early."""
        return sum((run.path / "result.json").exists() or (run.path / "ended.json").exists()
                   for run in self.runs.values())  # fmt: skip

    def trains(self, name: str) -> int | None:
        """The process that works on the run whose name begins so."""
        for key, run in self.runs.items():
            if key.startswith(name) and (pid := lock_holder(run.path / "lock")) not in (None, "?", ""):
                return int(str(pid))
        return None

    def idle(self) -> bool:
        """Whether no process works on any run any more."""
        return not any(run.is_held() for run in self.runs.values())

    def await_words(self, log: str, words: str, timeout_s: float = 500) -> str:
        """In a log of the study's folder, whoever writes it; all that it says then."""
        path = self.folder / log
        return str(self._await(lambda: path.exists() and words in (said := path.read_text()) and said, timeout_s,
                               lambda: False))  # fmt: skip

    def await_idle(self, timeout_s: float = 60) -> None:
        """Ray ends its workers some seconds after their driver was killed."""
        self._await(self.idle, timeout_s, lambda: False)

    def at_work(self) -> int:
        """Epochs of the run under way; 0 where there is none."""
        return max((len(lines_of(run)) for run in self.runs.values() if run.is_held()), default=0)

    def where(self) -> str:
        """What the command is at, as far as its files tell."""
        return "between runs" if self.idle() else "in a run"

    def lines(self) -> dict[str, list[str]]:
        return {name: lines_of(run) for name, run in self.runs.items()}

    def results(self) -> dict[str, int]:
        """When each result was written, in ns."""
        return {name: (run.path / "result.json").stat().st_mtime_ns for name, run in self.runs.items()
                if (run.path / "result.json").exists()}  # fmt: skip

    def ledger(self) -> Ledger:
        return read_ledger(self.folder, intermediate=True)

    def trials(self) -> dict[str, list[tuple[Any, ...]]]:
        """What must be the same of a study however often it was killed."""
        return {
            method: [(t.number, t.state, t.params, t.values, dict(t.intermediate)) for t in trials]
            for method, trials in self.ledger().trials.items()
        }

    def finals(self) -> dict[str, dict[str, float]]:
        """The replicates' summaries, but for what a clock tells."""
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
    """Whole lines of the history: an epoch that is trained again has other times in it."""
    path = run.path / "history.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.fixture(scope="session")
def make_bench(small_corpus: Path) -> Iterator[Callable[[Path], AccidentsBench]]:
    made: list[AccidentsBench] = []

    def make(place: Path) -> AccidentsBench:
        made.append(AccidentsBench(small_corpus, place))
        return made[-1]

    yield make
    for bench in made:
        bench.end_all()


@pytest.fixture
def bench(small_corpus: Path, tmp_path: Path) -> Iterator[AccidentsBench]:
    made = AccidentsBench(small_corpus, tmp_path)
    yield made
    made.end_all()
