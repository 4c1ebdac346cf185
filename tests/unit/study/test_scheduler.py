"""The scheduler, with simulated runs"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.config.study import BudgetConfig
from remix_study.study.budget import Rates
from remix_study.study.scheduler import (
    CloseSearch,
    Done,
    Fail,
    MethodState,
    StartReplicate,
    StartTrial,
    StudyState,
    Wait,
    next_step,
)
from tests.examples import examples

UNLIMITED = BudgetConfig()
RUN_S = 360.0  # a tenth of an hour


@dataclass
class Simulation:
    """Starts the tasks that the scheduler returns, and ends running tasks in the order given by `pick`.

    Args:
        methods: number of methods.
        at_once: tasks that run at the same time.
        pick: returns the position of the next task to end, given how many run.
        needs: the methods that m0 needs, by their numbers.
        fails: methods of which all tasks fail, by their numbers.
        started: the tasks, in the order of their start: (method, "trial") or (method, number of the replicate).
        failed: the tasks that failed because of what they need, in their order.
        events: starts and ends of tasks, in their order.
    """

    methods: int
    trials: int
    replicates: int
    at_once: int = 1
    budget: BudgetConfig = UNLIMITED
    searching: bool = True
    pick: Callable[[int], int] = lambda running: 0
    needs: tuple[int, ...] = ()
    fails: tuple[int, ...] = ()
    started: list[tuple[str, str | int]] = field(default_factory=list)
    failed: list[tuple[str, str | int]] = field(default_factory=list)
    events: list[tuple[str, tuple[str, str | int]]] = field(default_factory=list)
    closed: str | None = None
    done: str | None = None
    most: int = 10_000

    def run(self) -> "Simulation":
        """Run to the end."""
        running: list[tuple[str, str | int]] = []
        names = [f"m{n}" for n in range(self.methods)]
        methods = {name: MethodState(self.trials, 0, 0, self.replicates) for name in names}
        methods["m0"] = replace(methods["m0"], needs=tuple(f"m{n}" for n in self.needs))
        if not self.searching:
            methods = {name: replace(m, chosen=True, next_replicate=0) for name, m in methods.items()}
        state = StudyState(methods, self.searching, budget=self.budget)
        ended = 0
        for _ in range(self.most):
            step = next_step(state) if len(running) < self.at_once else Wait()
            match step:
                case StartTrial(method):
                    running.append((method, "trial"))
                    state = self._with(state, method, running=state.methods[method].running + 1)
                case StartReplicate(method, number):
                    running.append((method, number))
                    state = self._with(state, method, next_replicate=self._coming(number))
                case Fail(method, reason, number):
                    assert "needs" in reason
                    self.failed.append((method, "trial" if number is None else number))
                    m = state.methods[method]
                    if number is None:
                        state = self._choose(self._with(state, method, ended=m.ended + 1))
                    else:
                        state = self._with(state, method, next_replicate=self._coming(number))
                    continue
                case CloseSearch(reason, trials):
                    assert self.closed is None, "the search is closed once"
                    self.closed = reason
                    state = self._choose(replace(state, closed=reason, closed_at=trials))
                    continue
                case Wait() | Done() if running:
                    method, what = running.pop(self.pick(len(running)))
                    m = state.methods[method]
                    self.events.append(("end", (method, what)))
                    if what == "trial":
                        state = self._with(state, method, running=m.running - 1, ended=m.ended + 1)
                        state = self._choose(replace(state, run_s=RUN_S))
                    elif int(method[1:]) in self.fails:
                        state = self._with(state, method, failed={**m.failed, what: "NaN"})
                    else:
                        state = self._with(
                            state, method, replicated=m.replicated + 1, complete=m.complete | {int(what)}
                        )
                    ended += 1
                    state = replace(state, used=Rates(1.0, 0.0, self.at_once).used(ended * RUN_S, 0.0))
                    continue
                case Done(reason):
                    self.done = reason
                    self.state = state
                    return self
                case Wait():
                    raise AssertionError("the scheduler waits, but no task is running")
            self.started.append(running[-1])
            self.events.append(("start", running[-1]))
        raise AssertionError(f"no end after {self.most} steps")

    def _coming(self, number: int) -> int | None:
        return number + 1 if number + 1 < self.replicates else None

    def _with(self, state: StudyState, method: str, **changes: Any) -> StudyState:
        return replace(state, methods={**state.methods, method: replace(state.methods[method], **changes)})

    def _choose(self, state: StudyState) -> StudyState:
        while chosen := state.to_choose():
            method = chosen[0]
            m = replace(state.methods[method], chosen=True, next_replicate=0 if self.replicates else None)
            state = replace(state, methods={**state.methods, method: m})
        return state

    @property
    def trials_of(self) -> list[int]:
        """The number of started trials of each method."""
        found = Counter(method for method, what in self.started if what == "trial")
        return [found[f"m{n}"] for n in range(self.methods)]

    @property
    def replicates_started(self) -> list[tuple[int, str]]:
        """(number, method) of each replicate, in order of their start."""
        return [(what, method) for method, what in self.started if isinstance(what, int)]


SIZES = {
    "methods": st.integers(1, 4), "trials": st.integers(1, 5), "replicates": st.integers(1, 4),
    "at_once": st.integers(1, 5),
}  # fmt: skip


def picks(draw: st.DataObject) -> Callable[[int], int]:
    return lambda running: draw.draw(st.integers(0, running - 1))


@examples(100)
@given(**SIZES, data=st.data())
def test_every_study_ends_with_all_its_trials_and_replicates_in_any_order_of_ends(
    methods: int, trials: int, replicates: int, at_once: int, data: st.DataObject
) -> None:
    first = Simulation(methods, trials, replicates, at_once).run()
    other = Simulation(methods, trials, replicates, at_once, pick=picks(data)).run()
    assert first.trials_of == [trials] * methods
    assert Counter(first.replicates_started) == Counter((n, f"m{m}") for n in range(replicates) for m in range(methods))
    assert Counter(other.started) == Counter(first.started)
    assert (other.done, other.closed, other.state.ended) == (None, None, other.state.total)


@examples(100)
@given(**SIZES, data=st.data())
def test_trials_are_shared_out_evenly_at_any_time(
    methods: int, trials: int, replicates: int, at_once: int, data: st.DataObject
) -> None:
    started = Simulation(methods, trials, replicates, at_once, pick=picks(data)).run().started
    counts: Counter[str] = Counter({f"m{n}": 0 for n in range(methods)})
    for method, what in started:
        counts[method] += what == "trial"
        assert max(counts.values()) - min(counts.values()) <= 1


@examples(100)
@given(methods=st.integers(1, 4), replicates=st.integers(1, 4), at_once=st.integers(1, 5), data=st.data())
def test_the_first_replicate_of_every_method_starts_before_the_second_of_any(
    methods: int, replicates: int, at_once: int, data: st.DataObject
) -> None:
    started = Simulation(methods, 1, replicates, at_once, searching=False, pick=picks(data)).run().replicates_started
    assert [number for number, _ in started] == [number for number in range(replicates) for _ in range(methods)]


BUDGETS = st.floats(0.05, 4.0)


@examples(100)
@given(**SIZES, hours=BUDGETS, data=st.data())
def test_nothing_starts_after_the_budget_is_reached(
    methods: int, trials: int, replicates: int, at_once: int, hours: float, data: st.DataObject
) -> None:
    limit = BudgetConfig(cpu_hours=hours)
    study = Simulation(methods, trials, replicates, at_once, limit, pick=picks(data)).run()
    # A run that starts just below the limit is not ended by it, nor are those that run beside it.
    assert len(study.started) * RUN_S / 3600 <= hours + at_once * RUN_S / 3600 + 1e-9
    assert (study.done is not None) == (study.state.used.exceeds(limit) is not None)


@examples(100)
@given(**SIZES, hours=BUDGETS, data=st.data())
def test_a_round_of_trials_that_has_begun_is_completed(
    methods: int, trials: int, replicates: int, at_once: int, hours: float, data: st.DataObject
) -> None:
    study = Simulation(methods, trials, replicates, at_once, BudgetConfig(cpu_hours=hours), pick=picks(data)).run()
    searched = study.trials_of
    if study.closed is not None:
        assert searched == [searched[0]] * methods
    assert max(searched) - min(searched) <= 1


@examples(100)
@given(methods=st.integers(1, 4), replicates=st.integers(1, 4), hours=BUDGETS)
def test_a_search_that_the_budget_ends_leaves_enough_for_the_replicates(
    methods: int, replicates: int, hours: float
) -> None:
    study = Simulation(methods, 50, replicates, 1, BudgetConfig(cpu_hours=hours)).run()
    if study.closed is not None and study.trials_of[0] > 1:  # the cost of the first round is unknown
        assert len(study.replicates_started) == methods * replicates
        # The last replicate may use up the budget to its last second: nothing is left to start then.
        assert study.state.ended == study.state.total - (50 * methods - sum(study.trials_of))


def test_a_stopping_study_starts_nothing() -> None:
    state = StudyState({"m0": MethodState(3, 0, 0, 2)}, stopping=True)
    assert next_step(state) == Done()


def test_replicates_wait_for_the_last_trials_of_their_method() -> None:
    state = StudyState({"m0": MethodState(3, 2, 1, 2)})
    assert next_step(state) == Wait()
    assert state.to_choose() == []
    assert StudyState({"m0": MethodState(3, 3, 0, 2)}).to_choose() == ["m0"]


def test_the_reason_names_the_limit() -> None:
    used = Rates(1.0, 0.0, 1).used(7200.0, 0.0)
    state = StudyState({"m0": MethodState(3, 0, 0, 2)}, budget=BudgetConfig(cpu_hours=2), used=used)
    assert next_step(state) == Done("2.00 of 2 CPU hours")
    half = replace(state, used=Rates(1.0, 0.0, 1).used(3600.0, 0.0), run_s=1200.0)
    assert next_step(half) == CloseSearch("2.00 of 2 CPU hours with the runs that are still to come")


@pytest.mark.parametrize("trials", [0, 1])
def test_fewer_trials_than_have_ended_start_none(trials: int) -> None:
    state = StudyState({"m0": MethodState(trials, 2, 0, 1, 0, 0, chosen=True)})
    assert next_step(state) == StartReplicate("m0", 0)


NEEDS = st.integers(1, 3).map(lambda most: tuple(range(1, most + 1)))


@examples(100)
@given(needs=NEEDS, others=st.integers(0, 2), trials=st.integers(1, 4), replicates=st.integers(1, 4),
       at_once=st.integers(1, 5), data=st.data())  # fmt: skip
def test_a_method_that_needs_others_starts_after_them_and_gets_as_much(
    needs: tuple[int, ...], others: int, trials: int, replicates: int, at_once: int, data: st.DataObject
) -> None:
    methods = 1 + len(needs) + others
    study = Simulation(methods, trials, replicates, at_once, needs=needs, pick=picks(data)).run()
    assert study.trials_of == [trials] * methods
    assert (study.done, study.closed, study.state.ended) == (None, None, study.state.total)
    for at, (what, task) in enumerate(study.events):
        if what == "start" and task[0] == "m0":
            before = Counter(each for kind, each in study.events[:at] if kind == "end")
            wanted = trials if task[1] == "trial" else 1
            assert all(before[f"m{n}", task[1]] == wanted for n in needs)


@examples(100)
@given(needs=NEEDS, trials=st.integers(1, 5), replicates=st.integers(1, 3), at_once=st.integers(1, 4), hours=BUDGETS,
       data=st.data())  # fmt: skip
def test_a_closed_search_gives_a_method_that_needs_others_as_many_trials_as_the_others(
    needs: tuple[int, ...], trials: int, replicates: int, at_once: int, hours: float, data: st.DataObject
) -> None:
    limit = BudgetConfig(cpu_hours=hours)
    study = Simulation(1 + len(needs), trials, replicates, at_once, limit, needs=needs, pick=picks(data)).run()
    if study.done is None:
        assert study.trials_of == [study.trials_of[0]] * len(study.trials_of)
        assert len(study.replicates_started) == replicates * (1 + len(needs))


@examples(50)
@given(trials=st.integers(1, 4), replicates=st.integers(1, 4), at_once=st.integers(1, 5), data=st.data())
def test_what_needs_a_failed_run_fails_and_nothing_else(
    trials: int, replicates: int, at_once: int, data: st.DataObject
) -> None:
    study = Simulation(4, trials, replicates, at_once, needs=(1, 2), fails=(2,), pick=picks(data)).run()
    assert study.failed == [("m0", number) for number in range(replicates)]
    assert Counter(method for _, method in study.replicates_started) == {f"m{n}": replicates for n in (1, 2, 3)}


def test_a_method_that_needs_one_without_any_complete_trial_fails() -> None:
    searched = MethodState(2, 2, 0, 1)
    state = StudyState({"umt": MethodState(2, 0, 0, 1, needs=("audio",)), "audio": searched})
    assert next_step(state) == Fail("umt", "it needs a run of `audio`, of which no trial is complete")
    waiting = replace(state, methods={**state.methods, "audio": replace(searched, ended=1, running=1)})
    assert next_step(waiting) == Wait()
