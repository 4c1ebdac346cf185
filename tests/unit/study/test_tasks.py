import json
from dataclasses import asdict

import pytest
from ray import tune
from ray.tune.search import Searcher

from remix_study.launch.worker import Job
from remix_study.study import tasks
from remix_study.study.tasks import Outcome, Task, _Handout, _trial

JOB = Job(config={"corpus": "c"}, folder="f", digest="d", name="n", tracking_uri=None, experiment="e", tags={"a": "b"})
TASK = Task("search", "remix", 3, 0, JOB)


class Desk:
    """Gives `tasks` in order, and remembers what it is told."""

    def __init__(self, *tasks: Task | None) -> None:
        self.waiting = list(tasks)
        self.told: list[tuple[Task, Outcome]] = []

    def ask(self) -> Task | None:
        if not self.waiting:
            raise StopIteration
        return self.waiting.pop(0)

    def tell(self, task: Task, outcome: Outcome) -> None:
        self.told.append((task, outcome))

    def handout(self) -> _Handout:
        return _Handout(self.ask, self.tell)


def test_tasks_are_handed_out_until_there_are_no_more() -> None:
    handout = Desk(TASK, None, TASK).handout()
    given = handout.suggest("one")
    assert Job(**json.loads(given["job"])) == JOB
    assert handout.suggest("two") is None  # not now
    assert handout.suggest("two") == given
    assert handout.suggest("three") == Searcher.FINISHED


def test_outcomes_come_back_to_the_task_they_are_of() -> None:
    desk = Desk(TASK, Task("search", "joint", 1, 0, JOB))
    handout = desk.handout()
    handout.suggest("one")
    handout.suggest("two")
    handout.on_trial_complete("two", {"outcome": json.dumps(asdict(Outcome({"x": 1.0})))})
    handout.on_trial_complete("one", {"outcome": json.dumps(asdict(Outcome(None, "NaN")))})
    assert [(task.method, outcome) for task, outcome in desk.told] == [
        ("joint", Outcome({"x": 1.0})),
        ("remix", Outcome(None, "NaN")),
    ]
    handout.on_trial_complete("one", None)  # told already: Tune may say it twice
    assert len(desk.told) == 2


@pytest.mark.parametrize(
    ("result", "error"), [(None, False), ({"outcome": "{}"}, True), ({"training_iteration": 0}, False)]
)
def test_a_process_that_died_is_a_failure_and_not_a_result(result: dict[str, object] | None, error: bool) -> None:
    desk = Desk(TASK)
    handout = desk.handout()
    handout.suggest("one")
    handout.on_trial_complete("one", result, error=error)
    assert desk.told == [(TASK, Outcome(None, "its process died (out of memory, or killed)"))]


def test_a_failed_run_is_an_outcome_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, object]] = []
    monkeypatch.setattr(tune, "report", reported.append)

    def fails(job: Job) -> dict[str, float]:
        raise ValueError(f"{job.name} is broken")

    monkeypatch.setattr(tasks, "launch", fails)
    _trial({"job": json.dumps(asdict(JOB))})
    monkeypatch.setattr(tasks, "launch", lambda job: {"best/val_accuracy": 0.5})  # noqa: ARG005
    _trial({"job": json.dumps(asdict(JOB))})
    assert [json.loads(str(r["outcome"])) for r in reported] == [
        {"summary": None, "failure": "ValueError: n is broken"},
        {"summary": {"best/val_accuracy": 0.5}, "failure": None},
    ]
