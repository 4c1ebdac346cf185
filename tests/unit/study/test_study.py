"""The study's decisions, with runs that are made up: no Ray, no training"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from remix_study.config import RunConfig, StudyConfig
from remix_study.errors import ConfigError, StudyError
from remix_study.launch.folder import RunFolder
from remix_study.study import study as study_module
from remix_study.study.record import Presentation
from remix_study.study.results import StudyResult
from remix_study.study.study import FIRST_REPLICATE_SEED, Study, Watch
from remix_study.study.tasks import Outcome, Task
from remix_study.tracking import default_uri

RATE = "optimizer.learning_rate"
ONE = {"kind": "float", "low": 1, "high": 1}


class DriverDied(Exception):  # noqa: N818 - a kill is not an error
    """What kills a driver in these tests."""


@dataclass
class Runner:
    """Stands for Ray: two made-up runs at once; dies after `life` of them."""

    life: int = 10_000
    fails: Callable[[Task], bool] = lambda task: False  # noqa: ARG005
    summary: Callable[[Task], dict[str, float]] | None = None
    ran: list[Task] = field(default_factory=list)

    def __call__(  # as `execute` is called; what only Tune needs is not used
        self,
        ask: Callable[[], Task | None],
        tell: Callable[[Task, Outcome], None],
        total: int,  # noqa: ARG002
        concurrency: int,  # noqa: ARG002
        folder: Path,  # noqa: ARG002
    ) -> None:
        at_work: list[Task] = []
        while True:
            try:
                task = ask() if len(at_work) < 2 else None
            except StopIteration:
                task = None
                if not at_work:
                    return
            if task is not None:
                at_work.append(task)
                continue
            assert at_work, "asked to wait, but for nothing"
            if len(self.ran) == self.life:
                raise DriverDied
            tell(at_work[0], self._run(at_work.pop(0)))

    def _run(self, task: Task) -> Outcome:
        self.ran.append(task)
        if self.fails(task):
            return Outcome(None, "TrainingError: the loss must be a number")
        config = RunConfig.model_validate(task.job.config)
        folder = RunFolder(Path(task.job.folder))
        folder.prepare(config, task.job.digest)
        summary = {
            "best/val_accuracy": config.optimizer.learning_rate,  # the higher, the better
            "test/accuracy": 0.5 + 0.001 * task.seed % 0.01 + (0.1 if task.method == "remix" else 0.0),
            "probe/accuracy/audio": 0.5,
            "time/total_train_s": 1.0,
            "time/total_score_s": 0.0,
        }
        folder.write_result(summary if self.summary is None else self.summary(task))
        found = folder.result()
        assert found is not None
        return Outcome(found)


def config(**changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s",
        "question": "does it help?",
        "base": {"corpus": "set below", "epochs": 3, "device": "cpu", "tracking": {"uri": "off"}},
        "space": {RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True}},
        "methods": {
            "joint": {"set": {"method": {"name": "joint"}}, "first": [{RATE: 0.002}]},
            "remix": {"set": {"method": {"name": "remix", "warmup": 1}}, "first": [{RATE: 0.003}]},
        },
        "reference": "remix", "trials": 3, "replicates": 2,
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def present(result: StudyResult) -> Presentation:
    return Presentation({"answer.txt": result.sentence}, {})


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudyResult]:
    def run(
        runner: Runner, study: StudyConfig | None = None, watch: Watch | None = None, **settings: Any
    ) -> StudyResult:
        monkeypatch.setattr(study_module, "execute", runner)
        return Study(study or config(), {"corpus": str(small_corpus), **settings}, tmp_path, watch or Watch()).run(
            present
        )

    return run


def trials(workspace: Path, method: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{workspace / 'studies' / 's' / 'optuna.db'}"
    return optuna.load_study(study_name=method, storage=storage).get_trials()


def test_every_method_gets_the_same_budget_then_the_best_is_replicated(
    conduct: Callable[..., StudyResult], tmp_path: Path
) -> None:
    runner = Runner()
    seen: list[tuple[object, ...]] = []
    result = conduct(runner, watch=Watch(done=lambda *told: seen.append(told[2:])))
    assert Counter((t.stage, t.method) for t in runner.ran) == {
        ("search", "joint"): 3, ("search", "remix"): 3, ("replicate", "joint"): 2, ("replicate", "remix"): 2,
    }  # fmt: skip
    assert seen == [(n, 10) for n in range(1, 11)]
    best = {m: max(trials(tmp_path, m), key=lambda t: t.value or 0).params for m in ("joint", "remix")}
    for task in runner.ran:
        run = RunConfig.model_validate(task.job.config)
        replicate = task.stage == "replicate"
        assert run.evaluation.test == replicate  # the test split is looked at once, by what chose nothing
        assert run.seed == (FIRST_REPLICATE_SEED + task.number if replicate else 0)
        if replicate:
            assert run.optimizer.learning_rate == best[task.method][RATE]
    # The known-good point comes first.
    assert [trials(tmp_path, m)[0].params[RATE] for m in ("joint", "remix")] == [0.002, 0.003]
    joint, remix = result.contenders
    assert (dict(joint.params), dict(remix.params)) == (best["joint"], best["remix"])
    assert joint.ahead is not None
    assert [joint.ahead.mean, joint.ahead.wins] == pytest.approx([10, 2])


def test_a_finished_study_runs_nothing_again_and_answers_the_same(conduct: Callable[..., StudyResult]) -> None:
    first = conduct(Runner())
    again = Runner()
    assert conduct(again) == first
    assert again.ran == []


@pytest.mark.parametrize("life", [1, 3, 5, 7, 9])
def test_a_study_whose_driver_dies_goes_on(conduct: Callable[..., StudyResult], tmp_path: Path, life: int) -> None:
    whole = Runner()
    first = Runner(life=life)
    with pytest.raises(DriverDied):
        conduct(first)
    left = {m: [t for t in trials(tmp_path, m) if t.state == TrialState.RUNNING] for m in ("joint", "remix")}
    second = Runner()
    result = conduct(second)

    everything = {m: trials(tmp_path, m) for m in ("joint", "remix")}
    for method, found in everything.items():
        assert Counter(t.state for t in found)[TrialState.COMPLETE] == 3
        assert not [t for t in found if t.state in (TrialState.RUNNING, TrialState.WAITING)]
        for dead in left[method]:
            assert found[dead.number].state == TrialState.FAIL
            (heir,) = [t for t in found if t.user_attrs.get("resumes") == dead.number]
            assert (heir.params, heir.state) == (dead.params, TrialState.COMPLETE)
    # Nothing that was complete is run again, and a run that was cut off finds its own folder.
    done = [(t.stage, t.job.folder) for t in first.ran]
    assert not set(done) & {(t.stage, t.job.folder) for t in second.ran}
    assert len(first.ran) + len(second.ran) == 10
    assert len(result.contenders[0].seeds) == len(result.contenders[1].seeds) == 2
    assert whole.ran == []


def test_a_failing_trial_is_counted_reported_and_survived(conduct: Callable[..., StudyResult], tmp_path: Path) -> None:
    runner = Runner(fails=lambda task: task.method == "remix" and task.stage == "search" and task.number == 0)
    result = conduct(runner)
    assert result.failures == ("remix-search-0: TrainingError: the loss must be a number",)
    states = Counter(t.state for t in trials(tmp_path, "remix"))
    assert states == {TrialState.FAIL: 1, TrialState.COMPLETE: 2}  # it has had its budget
    assert len(runner.ran) == 10


def test_a_failing_replicate_leaves_the_others(conduct: Callable[..., StudyResult]) -> None:
    result = conduct(
        Runner(fails=lambda task: task.stage == "replicate" and task.method == "joint" and task.number == 1)
    )
    assert [sorted(c.seeds) for c in result.contenders] == [[0], [0, 1]]
    assert result.failures == ("joint-replicate-1: TrainingError: the loss must be a number",)
    again = Runner()
    assert [sorted(c.seeds) for c in conduct(again).contenders] == [[0, 1], [0, 1]]  # and has another chance
    assert [(t.stage, t.method, t.number) for t in again.ran] == [("replicate", "joint", 1)]


def test_a_method_of_which_nothing_completes_ends_the_study_with_its_reasons(
    conduct: Callable[..., StudyResult],
) -> None:
    with pytest.raises(
        StudyError, match="at least one trial of `remix` must complete, but none did: TrainingError: the loss"
    ):
        conduct(Runner(fails=lambda task: task.method == "remix"))


def test_an_objective_that_no_run_has_is_named(conduct: Callable[..., StudyResult]) -> None:
    with pytest.raises(StudyError, match=r"`objective` must be one of best/val_accuracy, .* but is best/val_acuracy"):
        conduct(Runner(), config(objective="best/val_acuracy"))


def test_more_trials_and_replicates_are_the_same_study(conduct: Callable[..., StudyResult]) -> None:
    conduct(Runner())
    runner = Runner()
    result = conduct(runner, config(trials=4, replicates=3))
    assert Counter(t.stage for t in runner.ran)["search"] == 2
    assert [sorted(c.seeds) for c in result.contenders] == [[0, 1, 2]] * 2


def test_another_question_under_the_same_name_is_refused_and_marks_nothing(
    conduct: Callable[..., StudyResult], tmp_path: Path
) -> None:
    tracked = {"tracking": {"uri": None, "experiment": "e", "model": False}}
    conduct(Runner(), **tracked)
    client = MlflowClient(tracking_uri=default_uri(tmp_path))

    def parent() -> Any:
        experiment = client.get_experiment_by_name("e")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        return run

    assert (parent().info.status, parent().info.run_name) == ("FINISHED", "s")
    assert "does it help?" in parent().data.tags["mlflow.note.content"]
    runner = Runner()
    with pytest.raises(StudyError, match="must be asked the same question, but question has changed"):
        conduct(runner, config(question="why?"), **tracked)
    assert runner.ran == []
    assert parent().info.status == "FINISHED"
    assert "failure_reason" not in parent().data.tags


def test_a_wrong_study_is_refused_before_anything_runs(conduct: Callable[..., StudyResult]) -> None:
    runner = Runner()
    with pytest.raises(ConfigError, match="did you mean `learning_rate`"):
        conduct(runner, config(space={RATE: {"kind": "float", "low": 1, "high": 2}, "optimizer.learnin_rate": ONE}))
    remix = {"set": {"method": {"name": "remix", "warmup": 1, "filter": {"rule": "margin", "threshold": 9}}}}
    with pytest.raises(ConfigError, match=r"`method\.filter\.threshold` must be at most 2"):
        conduct(runner, config(methods={"remix": remix}))
    assert runner.ran == []


def test_a_grid_is_tried_point_by_point_and_extended(conduct: Callable[..., StudyResult], tmp_path: Path) -> None:
    space = {RATE: {"kind": "choice", "of": [0.001, 0.002, 0.003, 0.004]}}
    conduct(Runner(), config(space=space, sampler="grid", trials=2))
    conduct(Runner(), config(space=space, sampler="grid", trials=4))
    for method, first in (("joint", 0.002), ("remix", 0.003)):
        tried = [t.params[RATE] for t in trials(tmp_path, method)]
        assert tried[0] == first
        assert sorted(tried) == [0.001, 0.002, 0.003, 0.004]


def test_a_gaussian_process_searches_too(conduct: Callable[..., StudyResult], tmp_path: Path) -> None:
    conduct(Runner(), config(sampler="gp", trials=5))
    for method in ("joint", "remix"):
        tried = [t.params[RATE] for t in trials(tmp_path, method)]
        assert len(set(tried)) > 2  # the best end of the range may be suggested twice
        assert all(0.001 <= rate <= 0.1 for rate in tried)
