"""Studies with made-up runs, without Ray and training"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import RunPruned, StudyStopped
from remix_study.launch.folder import RunFolder
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import TrialRecord, read_ledger
from remix_study.study.placement import Needs, Place
from remix_study.study.tasks import Outcome, Task

RATE = "optimizer.learning_rate"
PLACE = Place(2, {}, 1, 0.0, 2)
Conduct = Callable[..., StudyResult | None]  # runs a study with a `Runner`; a fixture of the tests of studies


class DriverDied(Exception):  # noqa: N818 - simulates a kill, which is not an error
    """Raised instead of killing the driver."""


@dataclass
class Runner:
    """Replaces `execute`, and completes made-up runs instead of starting Ray.

    Args:
        life: number of tasks after which the driver dies.
        at_once: number of tasks that run at the same time.
        epochs: number of epochs of a run. Each calls the epoch callback, as in a real run.
        fails: whether a task fails.
        failure: the outcome of a task that fails.
        summary: returns the summary of a run; by default, a fixed one.
        accuracy: returns the validation accuracy of a run after an epoch.
        seconds: duration that each run records.
        ran: the tasks that ran, in order.
    """

    life: int = 10_000
    at_once: int = 2
    epochs: int = 3
    fails: Callable[[Task], bool] = lambda task: False
    failure: Outcome = Outcome("failed", (), "NotANumberError: the loss must be a number", "not a number")  # noqa: RUF009 - frozen
    summary: Callable[[Task, RunConfig], dict[str, float]] | None = None
    accuracy: Callable[[RunConfig, int], float] = lambda config, epoch: config.optimizer.learning_rate
    seconds: float = 1.0
    ran: list[Task] = field(default_factory=list)

    def __call__(  # as `execute` is called
        self,
        ask: Callable[[], Task | None],
        tell: Callable[[Task, Outcome], None],
        needs: Needs,
        folder: Path,
        on_place: Callable[[Place], None],
        epochs_of: Callable[[Task], int],
        stopping: Callable[[], bool],
    ) -> None:
        on_place(PLACE)
        running: list[Task] = []
        over = False
        while True:
            task = None
            if not over and len(running) < self.at_once:
                try:
                    task = ask()
                except StopIteration:
                    over = True
            if task is not None:
                running.append(task)
                continue
            if not running:
                assert over, "the scheduler waits, but no task is running"
                return
            if len(self.ran) == self.life:
                raise DriverDied
            tell(running[0], self._run(running.pop(0)))
            over = False

    def _run(self, task: Task) -> Outcome:
        self.ran.append(task)
        if self.fails(task):
            return self.failure
        summaries: list[dict[str, float]] = []
        for job, callback in zip(task.jobs, task.callbacks, strict=True):
            config = job.config
            folder = RunFolder(Path(job.folder))
            folder.prepare(config, job.digest)
            history: list[dict[str, float]] = []
            for epoch in range(self.epochs):
                part = self.seconds / self.epochs
                record = {"epoch": float(epoch), "val/accuracy": self.accuracy(config, epoch), "time/train_s": part}
                record |= {"train/updates/audio": 2.0, "train/samples/audio": 10.0, "train/multiply_adds": 1e6}
                history.append(record)
                (folder.path / "history.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in history))
                try:
                    callback(history)
                except RunPruned as pruned:
                    return Outcome("pruned", tuple(summaries), str(pruned))
                except StudyStopped as stopped:
                    return Outcome("stopped", tuple(summaries), str(stopped))
            made = {
                "best/val_accuracy": max(r["val/accuracy"] for r in history),
                "test/accuracy": 0.5 + 0.001 * config.seed % 0.01 + (0.1 if task.method == "remix" else 0.0),
                "probe/accuracy/audio": 0.5,
                "time/total_train_s": self.seconds,
                "time/total_score_s": 0.0,
            }
            folder.write_result(made if self.summary is None else self.summary(task, config))
            found = folder.result()
            assert found is not None
            summaries.append(found)
        return Outcome("complete", tuple(summaries))


def config(**changes: Any) -> StudyConfig:
    """Return a study of two methods, in a journal, which opens faster than a database. `changes` replaces keys."""
    content: dict[str, Any] = {
        "name": "s",
        "question": "does it help?",
        "base": {"corpus": "set below", "epochs": 3, "device": "cpu", "tracking": {"uri": "off"}},
        "space": {RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True}},
        "methods": {
            "joint": {"set": {"method": {"name": "joint"}}, "first": [{RATE: 0.002}]},
            "remix": {"set": {"method": {"name": "remix", "warmup": 1}}, "first": [{RATE: 0.003}]},
        },
        "reference": "remix", "trials": 3, "replicates": 2, "storage": "journal",
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def write_no_report(folder: Path) -> Sequence[Path]:
    """Replace the function that writes a report, without writing one."""
    assert folder.name
    return []


def records(workspace: Path, method: str) -> tuple[TrialRecord, ...]:
    """Return the trials of a method of the study `s`."""
    return read_ledger(workspace / "studies" / "s", intermediate=True).trials[method]
