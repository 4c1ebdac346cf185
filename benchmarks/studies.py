"""Time that a study needs besides training: between trials, in its slots, and in `status`, `report` and `--help`

These are absolute times of this machine. Run the benchmark while nothing else runs.
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.big_study import record_study
from benchmarks.measure import Result, seconds
from remix_study.config.study import StudyConfig
from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from remix_study.launch.folder import RunFolder
from remix_study.study.ledger import read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task

_CLIPS = 1000  # an epoch of a few tenths of a second


def measure(quick: bool) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        clips = 96 if quick else _CLIPS
        prepare_synthetic(place / "corpus", SyntheticSpec(train=clips, val=96, test=96), preset="tiny")
        yield from _between_trials(place, 3 if quick else 12)
        yield from _slots(place, 4 if quick else 40, 1 if quick else 15)
        yield from _reading(place, 200 if quick else 10_000)
    yield Result("remix-study --help", seconds(lambda: _command("--help"), 5), at_most=0.5, unit="s")


def _study(place: Path, name: str, trials: int, epochs: int, concurrency: int) -> StudyConfig:
    content: dict[str, Any] = {
        "name": name, "question": "What does a study cost besides training?", "trials": trials, "replicates": 1,
        "reference": "joint", "concurrency": concurrency,
        "base": {"corpus": str(place / "corpus"), "epochs": epochs, "device": "cpu", "tracking": {"model": False}},
        "space": {"optimizer.learning_rate": {"kind": "float", "low": 5e-4, "high": 1e-2, "log": True}},
        "methods": {"joint": {"set": {"method": {"name": "joint"}}}},
    }  # fmt: skip
    return StudyConfig.model_validate(content)


def _between_trials(place: Path, trials: int) -> Iterator[Result]:
    """Measure the time between two results minus the run's own seconds: all that is neither training nor evaluation."""
    ends: list[tuple[float, float]] = []

    def done(task: Task, outcome: Outcome, ended: int, total: int) -> None:  # noqa: ARG001 - signature of StudyListener
        if task.stage == "search":
            folder = RunFolder(Path(task.jobs[0].folder))
            ends.append(((folder.path / "result.json").stat().st_mtime, folder.seconds))

    study = _study(place, "between", trials, epochs=4, concurrency=1)
    StudyRun(study, {}, place / "w", StudyListener(done=done)).run(_no_report)
    gaps = [end - before - work for (before, _), (end, work) in itertools.pairwise(ends)]
    yield Result(
        "between two trials, one worker", statistics.median(gaps), at_most=1.0, unit="s",
        note=f"median of {len(gaps)}, tracked; the longest {max(gaps):.2f} s",
    )  # fmt: skip


def _slots(place: Path, trials: int, wanted_s: float) -> Iterator[Result]:
    """Measure the share of two slots' time in training, from the command to the end of the last trial."""
    # Measure how many epochs make a trial of the wanted length, with two trials at once as below.
    probe = _study(place, "probe", 2, epochs=6, concurrency=2)
    StudyRun(probe, {}, place / "w").run(_no_report)
    each = statistics.median(t.seconds / 6 for t in read_ledger(place / "w" / "studies" / "probe").trials["joint"])
    epochs = max(2, round(wanted_s / each))
    last: list[float] = []

    def done(task: Task, outcome: Outcome, ended: int, total: int) -> None:  # noqa: ARG001 - signature of StudyListener
        if task.stage == "search":
            last.append(time.monotonic())

    study = _study(place, "slots", trials, epochs, concurrency=2)
    started = time.monotonic()
    StudyRun(study, {}, place / "w", StudyListener(done=done)).run(_no_report)
    trials_of = read_ledger(place / "w" / "studies" / "slots").trials["joint"]
    work = [_inside(Path(t.folders[0])) for t in trials_of]
    share = sum(work) / (2 * (max(last) - started))
    yield Result(
        "share of two slots' time in training", share, at_least=0.9, unit="x",
        note=f"{trials} trials, {statistics.mean(work):.1f} s from first step to end; Ray's start included",
    )  # fmt: skip


def _inside(folder: Path) -> float:
    """Return the seconds from a run's first step to its end, including checkpoints, from its metric spool."""
    lines = [json.loads(line) for line in (folder / "tracking" / "spool.jsonl").read_text().splitlines()]
    first = next(line["time"] for line in lines if "metrics" in line) / 1000
    work = ("time/score_s", "time/train_s", "time/evaluate_s")
    begin = first - sum(RunFolder(folder).history[0][part] for part in work)
    return float(max(line["time"] for line in lines if "status" in line) / 1000 - begin)


def _reading(place: Path, trials: int) -> Iterator[Result]:
    record_study(place / "big", trials=trials, epochs=50)
    where = ("big", "--workspace", str(place / "big"))
    what = f"of {trials:,} trials x 50 epochs"
    yield Result(f"remix-study status {what}", seconds(lambda: _command("status", *where), 3), at_most=2.0, unit="s")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    yield Result(f"remix-study report {what}", seconds(lambda: _command("report", *where)), at_most=60.0, unit="s")
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, of the largest child process so far
    note = "" if most > before else "upper bound: an earlier child process was larger"
    yield Result(f"memory of report {what}", most * 1024 / 1e9, at_most=2.0, unit="GB", note=note)
    page = place / "big" / "studies" / "big" / "report" / "report.html"
    yield Result(f"size of report.html {what}", page.stat().st_size / 1e9, unit="GB")


def _no_report(folder: Path) -> list[Path]:  # noqa: ARG001 - signature of the report function
    return []


def _command(*words: str) -> None:
    program = Path(sys.executable).with_name("remix-study")
    subprocess.run([str(program), *words], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "120"})
