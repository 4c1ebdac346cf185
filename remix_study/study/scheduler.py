"""The scheduler of a study: what runs next, given what has ended, what is running, and the budget

Pure functions of a `StudyState`: no I/O, no Optuna, no clock. `next_step` follows these rules, in this order:

    stop        a study that is stopping, or that has used up its budget, starts nothing
    search      start a trial of the method with the most trials left, so that all methods get the same number
    close       stop searching early if one more trial of every method would leave no budget for the replicates
    replicate   first replicate of every method, then the second of every method, and so on
    wait        the last trials of a method must end before its best configuration is known
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
    """

    trials: int
    ended: int
    running: int
    replicates: int
    replicated: int = 0
    next_replicate: int | None = None
    chosen: bool = False

    @property
    def left(self) -> int:
        """Trials that may still start; negative if `trials` was lowered."""
        return self.trials - self.ended - self.running


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
        closed: why no new trial starts (see `CloseSearch`); None while the search is open.
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
    stopping: bool = False

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
            if not m.chosen and m.running == 0 and (m.left <= 0 or self.closed is not None)
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
class CloseSearch:
    """Start no new trial: with one more of every method, the budget (`reason`) would not cover the replicates."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Start nothing until a run ends."""


@dataclass(frozen=True)
class Done:
    """Start nothing more. `reason`: the limit of the budget that is reached; None otherwise."""

    reason: str | None = None


Step = StartTrial | StartReplicate | CloseSearch | Wait | Done


def next_step(state: StudyState) -> Step:
    """Return what to do next. After `CloseSearch`, ask again with `closed` set and the best configurations chosen."""
    if state.stopping:
        return Done()
    if (reached := state.used.exceeds(state.budget)) is not None:
        return Done(reached)
    if state.searching and state.closed is None and any(m.left > 0 for m in state.methods.values()):
        if (exceeded := _exceeded_by_another_round(state)) is not None:
            return CloseSearch(exceeded)
        return StartTrial(max(state.methods, key=lambda name: state.methods[name].left))
    waiting = {name: m.next_replicate for name, m in state.methods.items() if m.next_replicate is not None}
    if waiting:
        method = min(waiting, key=lambda name: waiting[name])
        return StartReplicate(method, waiting[method])
    return Wait() if any(m.running for m in state.methods.values()) else Done()


def _exceeded_by_another_round(state: StudyState) -> str | None:
    """The limit that one more trial of every method, and then all replicates, would reach; None: none."""
    left = [m.left for m in state.methods.values()]
    # All methods get the same number of trials: a round that has begun is completed.
    if state.run_s is None or max(left) > min(left):
        return None
    trials = sum(m.running for m in state.methods.values()) + len(left)
    runs = trials * state.seeds_per_trial + sum(m.replicates for m in state.methods.values())
    reached = state.used.plus(state.rates.of_runs(runs, state.run_s)).exceeds(state.budget)
    return None if reached is None else f"{reached} with the runs that are still to come"
