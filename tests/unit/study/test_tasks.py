import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest
from ray.tune.search import Searcher

from remix_study.config.run import RunConfig
from remix_study.errors import (
    ConfigError,
    DamagedStoreError,
    NotANumberError,
    RunPreempted,
    RunPruned,
    StudyStopped,
    TrainingError,
)
from remix_study.launch.ray_init import RayResources
from remix_study.launch.worker import Job
from remix_study.study import placement, tasks
from remix_study.study.placement import ClusterLimit, Needs
from remix_study.study.pruning import PruningCallback
from remix_study.study.tasks import (
    ATTEMPTS,
    Outcome,
    Task,
    TrialProcess,
    _TaskSearcher,
    cannot_see_study,
    run_jobs,
)
from remix_study.study.trial_errors import Loss, TrialErrors

CONFIG = RunConfig.model_validate({"corpus": "c", "method": {"name": "joint"}})
JOB = Job(config=CONFIG, folder="f", digest="d", name="n", tracking_uri=None, experiment="e", tags={"a": "b"})
CALLBACK = PruningCallback("study", None, "s/remix", 3, {"name": "none"}, 4, 4)
TASK = Task("search", "remix", 3, (JOB,), (CALLBACK,))
OTHER = Task("search", "joint", 1, (JOB,), (CALLBACK,))
DONE = Outcome("complete", ({"x": 1.0},))
PREEMPTED = Loss("preempted", "preempted; checkpoint at epoch 4, step 17")


class FakeStudy:
    """A study that asks for `tasks` in order and records their outcomes."""

    def __init__(self, *tasks: Task | None) -> None:
        self.waiting = list(tasks)
        self.outcomes: list[tuple[Task, Outcome]] = []
        self.errors = TrialErrors()
        self.no_more_count = 0

    def ask(self) -> Task | None:
        if not self.waiting:
            raise StopIteration
        return self.waiting.pop(0)

    def tell(self, task: Task, outcome: Outcome) -> None:
        self.outcomes.append((task, outcome))

    def no_more_now(self) -> None:
        self.no_more_count += 1

    def searcher(self, at_once: int | None = 2) -> _TaskSearcher:
        return _TaskSearcher(self.ask, self.tell, self.errors, at_once, self.no_more_now)


def test_the_searcher_suggests_tasks_until_there_are_no_more() -> None:
    study = FakeStudy(TASK, None, TASK)
    searcher = study.searcher()
    given = json.loads(searcher.suggest("one")["task"])
    assert Job.from_json(given["jobs"][0]) == JOB
    assert PruningCallback(**given["callbacks"][0]) == CALLBACK
    assert study.no_more_count == 0
    assert searcher.suggest("two") is None  # the study has no task at the moment
    assert study.no_more_count == 1  # the start barrier is opened
    assert json.loads(searcher.suggest("two")["task"]) == given
    # While a task runs, its process may die and the task be restarted, so Tune must keep asking.
    assert searcher.suggest("three") is None
    for trial in ("one", "two"):
        searcher.on_trial_complete(trial, {"outcome": json.dumps(asdict(DONE))})
    assert searcher.suggest("three") == Searcher.FINISHED


def test_with_one_run_at_a_time_the_next_task_is_asked_for_after_the_last_has_ended() -> None:
    """Tune asks early, but a suggestion must depend on all earlier trials, as after a resume."""
    study = FakeStudy(TASK, OTHER)
    searcher = study.searcher(at_once=1)
    searcher.suggest("one")
    assert searcher.suggest("two") is None
    assert len(study.waiting) == 1
    searcher.on_trial_complete("one", {"outcome": json.dumps(asdict(DONE))})
    assert json.loads(searcher.suggest("two")["task"])
    assert study.waiting == []


def test_outcomes_are_reported_with_their_task() -> None:
    study = FakeStudy(TASK, OTHER)
    searcher = study.searcher()
    searcher.suggest("one")
    searcher.suggest("two")
    pruned = Outcome("pruned", (), "no promise")
    searcher.on_trial_complete("two", {"outcome": json.dumps(asdict(DONE))})
    searcher.on_trial_complete("one", {"outcome": json.dumps(asdict(pruned))})
    assert [(task.method, outcome) for task, outcome in study.outcomes] == [("joint", DONE), ("remix", pruned)]
    searcher.on_trial_complete("one", None)  # Tune may report an end twice
    assert len(study.outcomes) == 2


@pytest.mark.parametrize(
    ("result", "error"), [(None, False), ({"outcome": "{}"}, True), ({"training_iteration": 0}, False)]
)
@pytest.mark.parametrize(("words", "cause"), [("", "lost worker"), ("low on memory", "out of memory")])
def test_a_lost_process_is_restarted_a_limited_number_of_times(
    result: dict[str, object] | None, error: bool, words: str, cause: Literal["lost worker", "out of memory"]
) -> None:
    study = FakeStudy(TASK)
    searcher = study.searcher()
    for attempt in range(ATTEMPTS):
        assert study.outcomes == []
        assert searcher.suggest(f"trial {attempt}")["task"]
        if words:
            study.errors.losses[f"trial {attempt}"] = Loss(cause, words)
        searcher.on_trial_complete(f"trial {attempt}", result, error=error)
    ((task, outcome),) = study.outcomes
    assert (task, outcome.state, outcome.cause) == (TASK, "failed", cause)
    assert outcome.reason is not None
    assert outcome.reason.startswith(f"its process died {ATTEMPTS} times without progress ({words or 'killed'})")
    assert searcher.suggest("another") == Searcher.FINISHED


def test_preemptions_never_count_as_lost_processes(caplog: pytest.LogCaptureFixture) -> None:
    study = FakeStudy(TASK)
    searcher = study.searcher()
    lost = 0
    for attempt in range(20 * ATTEMPTS):
        name = f"trial {attempt}"
        assert searcher.suggest(name)["task"]
        preempted = attempt % 20 != 0
        study.errors.losses[name] = PREEMPTED if preempted else Loss("lost worker", "killed")
        searcher.on_trial_complete(name, None, error=True)
        lost += not preempted
        if lost == ATTEMPTS:
            break
        assert study.outcomes == []
    assert attempt == 20 * (ATTEMPTS - 1)
    assert [outcome.cause for _, outcome in study.outcomes] == ["lost worker"]
    words = "remix-search-3 was preempted; checkpoint at epoch 4, step 17. Restarting it."
    assert [r.message for r in caplog.records].count(words) == 19 * (ATTEMPTS - 1)
    assert study.errors.losses == {}


def test_a_process_that_cannot_import_the_code_is_not_restarted() -> None:
    study = FakeStudy(TASK)
    searcher = study.searcher()
    searcher.suggest("one")
    study.errors.losses["one"] = Loss("import error", "no module")
    searcher.on_trial_complete("one", None, error=True)
    assert study.outcomes == [(TASK, Outcome("failed", (), "no module", "import error"))]


def test_a_preempted_task_that_waits_when_the_study_stops_is_stopped() -> None:
    study = FakeStudy(TASK)
    searcher = study.searcher()
    searcher.suggest("one")
    study.errors.losses["one"] = PREEMPTED
    searcher.on_trial_complete("one", None, error=True)
    searcher.give_back()
    assert [(task, outcome.state) for task, outcome in study.outcomes] == [(TASK, "stopped")]


def test_a_preempted_run_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune gives a process whose task ended in an exception no other task."""

    def preempted(job: Job, callback: PruningCallback) -> dict[str, float]:
        raise RunPreempted("preempted; checkpoint at epoch 4, step 17")

    monkeypatch.setattr(tasks, "launch", preempted)
    with pytest.raises(RunPreempted):
        run_jobs([JOB], [CALLBACK])


def test_lost_nodes_do_not_fail_a_trial_that_makes_progress() -> None:
    study = FakeStudy(TASK)
    epochs = iter([2, 3, 5, 8, 8, 8])
    searcher = _TaskSearcher(study.ask, study.tell, study.errors, 2, study.no_more_now, lambda _: next(epochs))
    losses = 0
    while not study.outcomes:
        assert searcher.suggest(f"trial {losses}")["task"]
        searcher.on_trial_complete(f"trial {losses}", None, error=True)
        losses += 1
    ((_, outcome),) = study.outcomes
    assert losses == 6  # three since the last epoch
    assert outcome.cause == "lost worker"


def test_a_node_without_the_workspace_reports_a_failure(tmp_path: Path) -> None:
    callback = PruningCallback(str(tmp_path / "w" / "studies" / "s"))
    outcome = cannot_see_study([callback])
    assert outcome is not None
    assert outcome.state == "failed"
    assert str(tmp_path / "w" / "studies" / "s") in (outcome.reason or "")
    assert "URL" in (outcome.reason or "")
    (tmp_path / "w" / "studies" / "s").mkdir(parents=True)
    (tmp_path / "w" / "studies" / "s" / "study.yaml").touch()
    assert cannot_see_study([callback]) is None
    assert cannot_see_study([replace(callback, folder="elsewhere", url="s3://bucket/w/studies/s")]) is None


def test_on_a_cluster_the_number_of_runs_at_once_follows_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker nodes join minutes after the head node, and may leave."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rooms = {0.0: RayResources(1, 0, 1, 0, 1), 6.0: RayResources(3, 0, 3, 0, 3), 12.0: RayResources(0, 0, 0, 0, 1)}
    monkeypatch.setattr(placement, "ray_resources", lambda: rooms[now[0]])
    study = FakeStudy(TASK, OTHER, TASK, OTHER)
    limit = ClusterLimit(Needs(), 0.0)
    searcher = _TaskSearcher(study.ask, study.tell, study.errors, None, study.no_more_now, limit=limit)
    assert searcher.suggest("one")
    assert searcher.suggest("two") is None
    now[0] = 6.0
    assert searcher.suggest("two")
    assert searcher.suggest("three")
    assert searcher.suggest("four") is None
    now[0] = 12.0  # all nodes have left: one pending run makes the autoscaler add a node
    for trial in ("one", "two"):
        searcher.on_trial_complete(trial, {"outcome": json.dumps(asdict(DONE))})
    assert searcher.suggest("four") is None
    searcher.on_trial_complete("three", {"outcome": json.dumps(asdict(DONE))})
    assert searcher.suggest("four")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunPruned("no promise"), Outcome("pruned", (), "no promise")),
        (StudyStopped("asked to"), Outcome("stopped", (), "asked to")),
        (NotANumberError("NaN"), Outcome("failed", (), "NotANumberError: NaN", "not a number")),
        (ConfigError("wrong"), Outcome("failed", (), "ConfigError: wrong", "bad configuration")),
        (ValueError("n is\nbroken"), Outcome("failed", (), "ValueError: n is broken", "other")),
        (OSError(28, "No space left on device"), Outcome("failed", (), "OSError: [Errno 28] No space left on device",
                                                         "disk full")),
        (DamagedStoreError("x"), Outcome("failed", (), "DamagedStoreError: x", "damaged corpus")),
        (RuntimeError("A worker failed: The store c is damaged: x."), Outcome(
            "failed", (), "RuntimeError: A worker failed: The store c is damaged: x.", "damaged corpus")),
        (ModuleNotFoundError("No module named 'x'"), Outcome("failed", (), "ModuleNotFoundError: No module named 'x'",
                                                             "import error")),
        (RuntimeError("CUDA out of memory"), Outcome("failed", (), "RuntimeError: CUDA out of memory",
                                                     "out of memory")),
    ],
)  # fmt: skip
def test_every_error_becomes_an_outcome(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: Outcome) -> None:
    def ends(job: Job, callback: PruningCallback) -> dict[str, float]:
        assert (job, callback) == (JOB, CALLBACK)
        raise error

    monkeypatch.setattr(tasks, "launch", ends)
    assert run_jobs([JOB], [CALLBACK]) == expected


def test_a_full_disk_is_found_behind_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(job: Job, callback: PruningCallback) -> dict[str, float]:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise TrainingError("the checkpoint must be written") from error

    monkeypatch.setattr(tasks, "launch", full)
    assert run_jobs([JOB], [CALLBACK]).cause == "disk full"


def test_the_first_seed_that_fails_ends_the_trial_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [replace(JOB, name=name) for name in ("one", "two", "three")]
    ran = []

    def second_fails(job: Job, callback: PruningCallback) -> dict[str, float]:
        ran.append(job.name)
        if job.name == "two":
            raise ValueError("broken")
        return {"x": 1.0}

    monkeypatch.setattr(tasks, "launch", second_fails)
    assert run_jobs(jobs, [CALLBACK] * 3) == Outcome("failed", ({"x": 1.0},), "two: ValueError: broken", "other")
    assert ran == ["one", "two"]


def test_a_worker_process_reports_the_outcome_of_its_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Job] = []

    def completes(job: Job, callback: PruningCallback) -> dict[str, float]:
        given.append(job)
        return {"x": 1.0}

    monkeypatch.setattr(tasks, "launch", completes)
    (tmp_path / "study.yaml").touch()
    content = {"jobs": [JOB.to_json()], "callbacks": [asdict(replace(CALLBACK, folder=str(tmp_path)))]}
    place = {"threads": 3, "gpus": 0.5, "barrier": None}
    process = SimpleNamespace(config={"task": json.dumps(content), "place": place})
    reported = TrialProcess.step(cast(TrialProcess, process))
    outcome = json.loads(reported["outcome"])
    assert reported["done"] is True
    assert (outcome["state"], outcome["summaries"]) == ("complete", [{"x": 1.0}])
    assert (given[0].threads, given[0].gpus) == (3, 0.5)


def test_output_of_the_study_is_shown_while_that_of_tune_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    def print_words(words: Sequence[str]) -> None:
        print(*words)

    with tasks._quiet() as audible:
        print("farewell")
        audible(print_words)(["one", "two"])
    assert capsys.readouterr().out == "one two\n"


def test_the_name_of_a_task_has_method_stage_and_number() -> None:
    assert TASK.name == "remix-search-3"
    assert Path(TASK.callbacks[0].folder).name == "study"
