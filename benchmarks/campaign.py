"""A campaign of kills: `python -m benchmarks.campaign [--kills 50] [--seed 0] [--folder DIR]`

A study of 12 trials and two replicates runs once without interruption. Then it runs again, while its driver or the
worker of the run under way is killed with SIGKILL at random epochs. After a kill of the driver, the same command is
started again. Both studies must be equal, bit by bit: their trials, the values of every epoch, the results of the
replicates, and their predictions on the test set. No trial may be lost, and no epoch that was recorded before a kill.

On an idle machine with two cores, 50 kills take about 15 minutes. The corpus and both workspaces are in `--folder`.
"""

import argparse
import functools
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from remix_study.launch.predictions import PREDICTIONS
from tests.study_bench import StudyBench, StudyProcess


class Outcome(NamedTuple):
    """What a campaign found.

    Attributes:
        kills: number of kills, by what was killed.
        lost_trials: trials that are missing, doubled or not complete.
        lost_epochs: recorded epochs that a later start trained again.
        different: what differs from the uninterrupted study.
        seconds: duration of the interrupted study.
    """

    kills: dict[str, int]
    lost_trials: int
    lost_epochs: int
    different: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.lost_trials and not self.lost_epochs and not self.different


def campaign(folder: Path, kills: int, seed: int, trials: int, epochs: int) -> Outcome:
    """Run both studies in `folder`, and compare them.

    Args:
        kills: number of kills, each at another epoch of the study; see `all_epochs`.
        seed: of the epochs and targets.
        trials: of each of the two methods.
        epochs: of each run.
    """
    corpus = folder / "corpus"
    prepare_synthetic(
        corpus, SyntheticSpec(train=96, val=48, test=48, classes=4, video_snr_db=(0.0, 6.0)), preset="tiny"
    )
    draws = random.Random(seed).sample(range(1, all_epochs(trials, epochs)), kills)
    bench = StudyBench(corpus, folder)
    study = bench.write(trials=trials, base={"epochs": epochs})
    try:
        whole = bench.run(study, workspace=folder / "whole")
        started = time.monotonic()
        killed, lost_epochs = _interrupted(bench, study, sorted(draws), random.Random(seed))
        seconds = time.monotonic() - started
    finally:
        bench.end_all()
    last = StudyProcess(whole.command, whole.output_file, bench.workspace / "studies" / study.stem)
    states = {method: [(t.number, t.state) for t in trials] for method, trials in last.ledger().trials.items()}
    complete = [(number, "complete") for number in range(trials)]
    lost = sum(len(set(complete) ^ set(found)) + len(found) - len(set(found)) for found in states.values())
    before, after = _content(whole), _content(last)
    different = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    return Outcome(dict(killed), lost, lost_epochs, different, seconds)


def all_epochs(trials: int, epochs: int) -> int:
    """Epochs of the study: two methods, each with `trials` trials and one replicate."""
    return 2 * (trials + 1) * epochs


def _interrupted(bench: StudyBench, study: Path, at: Sequence[int], draws: random.Random) -> tuple[Counter[str], int]:
    """Run the study to its end, with a kill after each of the numbers of epochs `at`.

    Returns:
        The number of kills by target, and the number of epochs that were trained again.
    """
    killed: Counter[str] = Counter()
    lost_epochs, recorded = 0, dict[str, list[str]]()
    process = bench.start(study)
    for epochs in at:
        process.wait_until(functools.partial(_has_epochs, process, epochs), timeout_s=1200)
        threading.Event().wait(draws.random() * 0.3)  # not always at the moment when an epoch ends
        worker = process.worker_of("")
        lost_epochs += _trained_again(recorded, process.history_lines())
        recorded = process.history_lines()
        if worker is not None and draws.random() < 0.5:
            os.kill(worker, signal.SIGKILL)
            killed["worker"] += 1
        else:
            process.kill()
            killed["driver"] += 1
            process = bench.start(study)
        _show(f"kill {killed.total()} of {len(at)} after {epochs} epochs: {dict(killed)}")
    assert process.wait(1200) == 0, process.output
    return killed, lost_epochs + _trained_again(recorded, process.history_lines())


def _has_epochs(process: StudyProcess, count: int) -> bool:
    return process.epochs() >= count


def _trained_again(before: dict[str, list[str]], after: dict[str, list[str]]) -> int:
    """Lines of histories that are missing or differ: they hold times, so an epoch that is trained again differs."""
    return sum(
        len(lines) - sum(one == other for one, other in zip(lines, after.get(run, []), strict=False))
        for run, lines in before.items()
    )


def _content(process: StudyProcess) -> dict[str, Any]:
    """All that kills must not change, by run."""
    found: dict[str, Any] = {f"trials of {method}": trials for method, trials in process.trials().items()}
    for name, run in process.runs.items():
        found[f"epochs of {name}"] = [
            {key: value for key, value in record.items() if not key.startswith("time/")} for record in run.history
        ]
        predictions = run.path / PREDICTIONS
        if predictions.exists():
            found[f"predictions of {name}"] = hashlib.sha256(predictions.read_bytes()).hexdigest()
    return found | {f"result of {name}": summary for name, summary in process.finals().items()}


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign, and print its outcome as JSON. Returns 1 if something was lost or differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description="Kill a study at random.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder; default: a temporary one, which is deleted")
    parser.add_argument("--trials", type=int, default=6, help="of each of the two methods; default: 6")
    parser.add_argument("--epochs", type=int, default=8, help="of each run; default: 8")
    given = parser.parse_args(arguments)
    most = all_epochs(given.trials, given.epochs) - 1
    if not 0 <= given.kills <= most:
        parser.error(f"--kills must be from 0 to {most}, but is {given.kills}.")
    with tempfile.TemporaryDirectory(prefix="campaign-") as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = campaign(folder.resolve(), given.kills, given.seed, given.trials, given.epochs)
    print(json.dumps({**outcome._asdict(), "passed": outcome.passed}, indent=1))
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
