"""Studies that are run, killed, stopped, extended, edited and retried in any order, against a model in memory"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remix_study.config.study import StudyConfig
from remix_study.errors import StudyError, StudyStopped
from remix_study.study.ledger import REPLICATE, TrialRecord, read_ledger
from remix_study.study.storage import study_folder
from remix_study.study.tasks import Task
from tests.examples import examples
from tests.faults import Faults
from tests.small_studies import StoppingRunner, points_of, quick_studies, run_small, small, trials_of
from tests.studies import RATE, DriverDied

SPACE = {
    RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True},
    "global_batch": {"kind": "int", "low": 16, "high": 64},
}
NEEDING: dict[str, Any] = {
    "umt": {"set": {"method": {"name": "umt"}}},
    **{f"{m}_alone": {"set": {"method": {"name": "unimodal", "modality": m}}, "ceiling_of": m}
       for m in ("audio", "video")},
}  # fmt: skip
ENDED = ("complete", "pruned", "failed")
Fails = Callable[[Task], bool]


def failing(numbers: frozenset[int]) -> Fails:
    """Return which tasks fail: the trials of all methods with these numbers."""
    return lambda task: task.stage == "search" and task.number in numbers


class StudyMachine(RuleBasedStateMachine):
    """The model: what each trial was when it was seen first, and the plan. The system: a study in a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.workspace = Path(tempfile.mkdtemp(prefix="machine-"))
        self.quick = quick_studies()
        self.quick.__enter__()
        self.points: dict[tuple[str, int], dict[str, Any]] = {}  # of trials whose run has started
        self.ended: dict[tuple[str, int], TrialRecord] = {}
        self.retried = False

    @initialize(
        sampler=st.sampled_from(["random", "tpe"]), fails=st.frozensets(st.integers(0, 5), max_size=2),
        trials=st.integers(1, 3),
    )  # fmt: skip
    def begin(self, sampler: str, fails: frozenset[int], trials: int) -> None:
        self.fails = failing(fails)
        self.plan: dict[str, Any] = {"trials": trials, "replicates": 1, "sampler": sampler, "space": SPACE}

    @property
    def study(self) -> StudyConfig:
        return small(**self.plan)

    def start(self, *, retry_failed: bool = False, **runner: Any) -> StoppingRunner:
        """Start the study, and check that no trial that had ended runs again."""
        made = StoppingRunner(fails=self.fails, **runner)
        try:
            run_small(self.workspace, self.study, made, retry_failed=retry_failed)
        finally:
            again = {(task.method, task.number) for task in made.ran if task.stage == "search"}
            assert not again & self.ended.keys()
        return made

    def failed(self) -> set[tuple[str, int]]:
        """Return the trials that failed and were not retried."""
        return {
            (method, trial.number)
            for method, trials in trials_of(self.workspace).items()
            for trial in trials
            if trial.state == "failed" and not trial.retried
        }

    # --- what may happen ----------------------------------------------------------------------------------------------

    @rule()
    def run(self) -> None:
        self.start()
        self.require_complete()

    @rule(tasks=st.integers(0, 5))
    def kill_between_tasks(self, tasks: int) -> None:
        try:
            self.start(life=tasks)
        except DriverDied:
            event("killed between tasks")

    @rule(operation=st.integers(1, 150), torn=st.booleans())
    def kill_while_writing(self, operation: int, torn: bool) -> None:
        faults = Faults(operation, "killed" if torn else 28)
        with faults.injected():
            try:
                self.start()
            except AssertionError:
                raise
            except BaseException:
                if not faults.happened:
                    raise
                event("killed while writing" if torn else "failed while writing")

    @rule(tasks=st.integers(0, 4))
    def stop(self, tasks: int) -> None:
        try:
            self.start(stop_after=tasks)
        except StudyStopped:
            event("stopped")

    @rule(more=st.integers(1, 2))
    def add_trials(self, more: int) -> None:
        self.plan["trials"] = min(6, self.plan["trials"] + more)

    @rule()
    def add_a_replicate(self) -> None:
        self.plan["replicates"] = min(3, self.plan["replicates"] + 1)

    @precondition(lambda self: self.plan["trials"] > 1)
    @rule()
    def remove_a_trial(self) -> None:
        """But not an interrupted one: with fewer trials than its number, it stays as it is."""
        last = self.plan["trials"] - 1
        trials = [trial for of_method in trials_of(self.workspace).values() for trial in of_method]
        if all(trial.state in ENDED or trial.number < last for trial in trials):
            self.plan["trials"] = last

    @rule(interrupted=st.booleans(), tasks=st.integers(0, 2))
    def retry_failed(self, interrupted: bool, tasks: int) -> None:
        failed = self.failed()
        self.retried |= bool(failed)
        try:
            self.start(retry_failed=True, life=tasks if interrupted else 10_000)
            self.require_complete()
            assert not failed & self.failed()
        except DriverDied:
            event("killed while retrying")

    @rule()
    def edit(self) -> None:
        """Another question is refused, and changes nothing."""
        if not (study_folder(self.workspace, "s") / "question.json").exists():
            return
        before = points_of(self.workspace)
        space = {**SPACE, RATE: {**SPACE[RATE], "high": 0.2}}
        with pytest.raises(StudyError, match="something has changed"):
            run_small(self.workspace, small(**{**self.plan, "space": space}), StoppingRunner())
        assert points_of(self.workspace) == before

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def no_trial_is_lost_doubled_or_changed(self) -> None:
        for method, trials in trials_of(self.workspace).items():
            assert [t.number for t in trials] == list(range(len(trials)))
            for trial in trials:
                key = (method, trial.number)
                if trial.folders:
                    assert self.points.setdefault(key, trial.params) == trial.params
                if trial.state in ENDED:
                    known = self.ended.setdefault(key, trial)
                    assert known._replace(retried=trial.retried) == trial
            assert {key for key in self.ended if key[0] == method} <= {(method, t.number) for t in trials}

    def require_complete(self) -> None:
        """After a start that ended by itself, all trials and replicates of the plan are there.

        With fewer trials than before, one that was interrupted, or was to be retried, may be left over.
        """
        ledger = read_ledger(study_folder(self.workspace, "s"))
        for method, trials in ledger.trials.items():
            counted = sum(t.state in ENDED and not (t.state == "failed" and t.retried) for t in trials)
            assert self.plan["trials"] <= counted
            if any(t.state == "complete" for t in trials):
                chosen = ledger.chosen(method)
                assert chosen is not None
                replicates = [
                    r for r in ledger.replicates[method]
                    if r.stage == REPLICATE and r.params == chosen.params and r.state == "complete"
                ]  # fmt: skip
                assert len(replicates) >= self.plan["replicates"]
                assert len({r.number for r in replicates}) == len(replicates)

    def teardown(self) -> None:
        """A study that was never retried has the trials of one that was never interrupted."""
        try:
            if not hasattr(self, "plan"):
                return
            self.start()
            self.require_complete()
            found = points_of(self.workspace)
            if not self.retried:
                whole = self.workspace / "whole"
                self.plan["trials"] = max(len(trials) for trials in found.values())
                run_small(whole, self.study, StoppingRunner(fails=self.fails))
                wanted = points_of(whole)
                for method, trials in found.items():
                    assert trials == wanted[method][: len(trials)]
        finally:
            self.quick.__exit__(None, None, None)
            shutil.rmtree(self.workspace)


class NeedsMachine(StudyMachine):
    """The same for a study of which one method needs the runs of two others, and whose trials are not reduced.

    Fewer trials than before leave an interrupted trial as it is.
    """

    remove_a_trial = None  # type: ignore[assignment]  # leaves out a rule

    @property
    def study(self) -> StudyConfig:
        return small(**self.plan, methods=NEEDING, reference="umt")


TestStudyMachine = pytest.mark.slow(StudyMachine.TestCase)
TestStudyMachine.settings = examples(10, stateful_step_count=8)
TestNeedsMachine = pytest.mark.slow(NeedsMachine.TestCase)
TestNeedsMachine.settings = examples(5, stateful_step_count=8)
