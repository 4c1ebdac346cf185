"""The scheduler of a study: what runs next, given what has ended, what is running, and the budget

Pure functions of a `StudyState`: no I/O, no Optuna, no clock. `next_step` follows these rules, in this order:

    stop        a study that is stopping, or that has used up its budget, starts nothing
    fail        what needs a run that failed fails, too
    search      start a trial of the method with the most trials left, so that all methods get the same number
    close       stop searching early if one more trial of every method would leave no budget for the replicates
    replicate   first replicate of every method, then the second of every method, and so on
    wait        the last trials of a method must end before its best configuration is known

A method may need runs of other methods. Its trials start after the configurations of those are chosen, its replicate k
after their replicates k are complete.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from remix_study.config.study import BudgetConfig
from remix_study.study.budget import Rates, Used


@dataclass(frozen=True)
class MethodState:
    """Trials and replicates of one method.

    Args:
        trials: trials wanted.
        ended: trials that are complete, pruned or failed; a failed trial that was retried does not count.
        running: trials that are running.
        replicates: replicates wanted.
        replicated: replicates that are complete.
        next_replicate: number of the next replicate to start; None before the best configuration is chosen, and after
            the last replicate was started.
        chosen: whether the configuration to replicate is chosen.
        needs: the methods whose runs its own runs need.
        complete: numbers of the replicates that are complete.
        failed: numbers of the replicates that failed since the study was started last, with the reasons.
    """

    trials: int
    ended: int
    running: int
    replicates: int
    replicated: int = 0
    next_replicate: int | None = None
    chosen: bool = False
    needs: tuple[str, ...] = ()
    complete: frozenset[int] = frozenset()
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def started(self) -> int:
        """Trials that are running or have ended."""
        return self.ended + self.running


@dataclass(frozen=True)
class StudyState:
    """All that decides what a study runs next.

    Args:
        methods: state of each method, in the order of the study file.
        searching: whether trials may start; False for `retrain`, which only starts replicates.
        seeds_per_trial: runs of one trial.
        budget: limits of the study.
        used: what the study has used of them.
        rates: what a second of one run costs.
        run_s: mean duration of a run of a complete trial, in seconds; None before the first trial is complete.
        closed: why no method gets more than `closed_at` trials (see `CloseSearch`); None while the search is open.
        stopping: whether the study was asked to stop, or cannot start runs because its disk is full.
    """

    methods: Mapping[str, MethodState]
    searching: bool = True
    seeds_per_trial: int = 1
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    used: Used = field(default_factory=lambda: Used(0.0, 0.0, 0.0))
    rates: Rates = field(default_factory=lambda: Rates(1.0, 0.0, 1))
    run_s: float | None = None
    closed: str | None = None
    closed_at: int = 0
    stopping: bool = False

    def left(self, method: str) -> int:
        """Trials of a method that may still start; negative if `trials` was lowered."""
        m = self.methods[method]
        return (m.trials if self.closed is None else min(m.trials, self.closed_at)) - m.started

    def is_searched(self, method: str) -> bool:
        """Whether all trials of a method have ended."""
        return self.left(method) <= 0 and self.methods[method].running == 0

    @property
    def total(self) -> int:
        """Runs that the study wants: one for each seed of a trial, and one for each replicate."""
        return sum(self._runs(m.trials, m.replicates) for m in self.methods.values())

    @property
    def ended(self) -> int:
        """Runs of `total` that have ended; of a trial that ended before its last seed, all of them."""
        # `trials` may have been lowered since more of them ended.
        return sum(self._runs(min(m.ended, m.trials), m.replicated) for m in self.methods.values())

    def _runs(self, trials: int, replicates: int) -> int:
        return (trials * self.seeds_per_trial if self.searching else 0) + replicates

    def to_choose(self) -> list[str]:
        """Methods that get no more trials, and whose configuration to replicate is not chosen yet."""
        if not self.searching:
            return []
        return [
            name
            for name, m in self.methods.items()
            if not m.chosen and self.is_searched(name) and all(self.methods[other].chosen for other in m.needs)
        ]


@dataclass(frozen=True)
class StartTrial:
    """Start a trial of this method."""

    method: str


@dataclass(frozen=True)
class StartReplicate:
    """Start this replicate of this method."""

    method: str
    number: int


@dataclass(frozen=True)
class Fail:
    """Record that a trial of this method, or its replicate `number`, cannot run, because a run that it needs failed."""

    method: str
    reason: str
    number: int | None = None


@dataclass(frozen=True)
class CloseSearch:
    """Give no method more than `trials`: with one more of every method, the budget would not cover the replicates.

    `reason`: the limit of the budget.
    """

    reason: str
    trials: int = 0


@dataclass(frozen=True)
class Wait:
    """Start nothing until a run ends."""


@dataclass(frozen=True)
class Done:
    """Start nothing more. `reason`: the limit of the budget that is reached; None otherwise."""

    reason: str | None = None


Step = StartTrial | StartReplicate | Fail | CloseSearch | Wait | Done


def next_step(state: StudyState) -> Step:
    """Return what to do next. After `CloseSearch`, ask again with `closed` set and the best configurations chosen."""
    if state.stopping:
        return Done()
    if (reached := state.used.exceeds(state.budget)) is not None:
        return Done(reached)
    if state.searching and (step := _next_of_search(state)) is not None:
        return step
    waiting = {name: m.next_replicate for name, m in state.methods.items() if m.next_replicate is not None}
    for name, number in waiting.items():
        if (reason := _failed_need(state, name, number)) is not None:
            return Fail(name, reason, number)
    ready = {
        name: number
        for name, number in waiting.items()
        if all(number in state.methods[other].complete for other in state.methods[name].needs)
    }
    if ready:
        method = min(ready, key=lambda name: ready[name])
        return StartReplicate(method, ready[method])
    return Wait() if any(m.running for m in state.methods.values()) else Done()


def _next_of_search(state: StudyState) -> StartTrial | Fail | CloseSearch | None:
    """The next trial; None if no trial can start now."""
    left = {name: state.left(name) for name in state.methods if state.left(name) > 0}
    ready = {}
    for name, trials in left.items():
        lacking = [other for other in state.methods[name].needs if not state.methods[other].chosen]
        for other in lacking:
            if state.is_searched(other):
                return Fail(name, f"it needs a run of `{other}`, of which no trial is complete")
        if not lacking:
            ready[name] = trials
    if not ready:
        return None
    method = max(ready, key=lambda name: ready[name])
    round_ = max(m.started for m in state.methods.values())
    # All methods get the same number of trials: a round that has begun is completed.
    if state.methods[method].started >= round_ and (exceeded := _exceeded_by_another_round(state, round_)) is not None:
        return CloseSearch(exceeded, round_)
    return StartTrial(method)


def _failed_need(state: StudyState, method: str, number: int) -> str | None:
    """Why a replicate cannot run: a run that it needs failed; None if none did."""
    for other in state.methods[method].needs:
        if number in state.methods[other].failed:
            return f"it needs replicate {number} of `{other}`, which failed: {state.methods[other].failed[number]}"
    return None


def _exceeded_by_another_round(state: StudyState, round_: int) -> str | None:
    """The limit that a round more than `round_` for every method, and then all replicates, would reach; None: none."""
    if state.run_s is None:
        return None
    methods = state.methods.values()
    trials = sum(m.running + max(0, min(m.trials, round_ + 1) - m.started) for m in methods)
    runs = trials * state.seeds_per_trial + sum(m.replicates for m in methods)
    reached = state.used.plus(state.rates.of_runs(runs, state.run_s)).exceeds(state.budget)
    return None if reached is None else f"{reached} with the runs that are still to come"
