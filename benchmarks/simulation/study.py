"""Simulation of one study in virtual time, with queues at the components that all trials share

    idle worker        the driver runs Ray Tune and ask, then the worker trains
    end of an epoch    the pruner queries the storage; the epoch's metrics wait for the sender
    rung               the pruner reads the values of the other trials
    end of a trial     the driver runs tell, then the worker is idle
    lost worker        another worker resumes the trial after its last epoch; a replacement arrives later

All trials share four components: the `driver` (one thread, which handles one trial at a time and shares its CPU with
the sender, because both are in one Python process), the `storage` server, the `sender` (one thread, which sends one
run at a time and waits for every response), and the `mlflow` server. Workers write files in parallel; `files_s` is
the time that this adds to an epoch. All random numbers come from the seed.
"""

# W workers

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.events import Clock, Station

PARTS = ("driver", "storage", "sender", "mlflow")
ATTEMPTS = 3  # of a trial that completes no further epoch, as in study/tasks.py
_PERIOD_S = 1.0  # between two polls, as in tracking/syncer.py


@dataclass(frozen=True)
class Setting:
    """A study and the cluster that it runs on.

    Attributes:
        epoch_s: mean seconds of an epoch. Each trial samples its own value from a log-normal distribution whose
            standard deviation is `spread` times the mean.
        grace: epochs before the first rung of successive halving.
        reduction: factor between two rungs; one of `reduction` trials survives a rung.
        pruned: whether a pruner decides after each epoch.
        tracked: whether the sender sends metrics to MLflow.
        losses_per_hour: how often each worker is lost.
        replace_s: seconds until a lost worker is replaced.
        round_trip_s: latency of a database statement or a request to MLflow.
        files_s: seconds that a worker needs to write an epoch's checkpoint and metrics.
        on_record: trials of all methods that ended before the simulation starts.
        remembered: whether the driver caches running trials. The real driver does.
    """

    workers: int = 1_000
    trials: int = 100_000
    methods: int = 4
    epochs: int = 50
    epoch_s: float = 60.0
    spread: float = 0.5
    grace: int = 4
    reduction: int = 3
    pruned: bool = True
    tracked: bool = True
    losses_per_hour: float = 0.02
    replace_s: float = 300.0
    round_trip_s: float = 0.0005
    files_s: float = 0.2
    storage_cores: int = 4
    mlflow_cores: int = 4
    on_record: int = 0
    remembered: bool = True
    seed: int = 0


@dataclass
class Trial:
    """A trial that has started.

    Attributes:
        epoch: completed epochs.
        failures: lost workers since the trial last completed an epoch.
        reached: completed epochs when a worker was last lost.
        sent: whether the sender has sent the start of the run to MLflow.
        waiting: completed epochs that the sender has not sent.
        queued: whether the trial is in the sender's queue.
    """

    method: int
    epoch_s: float
    epoch: int = 0
    failures: int = 0
    reached: int = 0
    sent: bool = False
    ended: bool = False
    waiting: int = 0
    queued: bool = False


@dataclass
class Worker:
    """A worker process.

    Attributes:
        life: incremented when the process starts and when it is lost, so that events of an earlier life can be ignored.
        read: recorded trials that its pruner has read, by method.
    """

    life: int = 0
    read: list[int] = field(default_factory=list)
    trial: Trial | None = None


@dataclass(frozen=True)
class SimulationResult:
    """Result of a simulation. All shares are in [0, 1].

    Attributes:
        seconds: until the last trial ended.
        last_start_s: seconds until the last trial started.
        ended: trials by end (`complete`, `pruned`, `failed`).
        lost: lost workers.
        training_share: share of the workers' time in training until the last trial ended. The time until a lost
            worker is replaced counts as its time.
        utilisation: share of each component's time in which it was busy.
        over_time: the same for each interval of `stretch_s` seconds.
        training: share of the workers' time in training, for each interval.
        demand_s: seconds of one server per trial, by component.
        mlflow_behind_s: seconds from the end of the last trial until MLflow had received everything.
    """

    setting: Setting
    seconds: float
    last_start_s: float
    ended: dict[str, int]
    epochs: int
    lost: int
    training_share: float
    utilisation: dict[str, float]
    over_time: dict[str, NDArray[np.float64]]
    training: NDArray[np.float64]
    stretch_s: float
    demand_s: dict[str, float]
    mlflow_behind_s: float

    @property
    def steady(self) -> dict[str, float]:
        """Mean utilisation of each component while trials remain to be started, after the first quarter."""
        return {part: float(np.mean(self._middle(curve))) for part, curve in self.over_time.items()}

    @property
    def steady_training(self) -> float:
        """Share of the workers' time in training during the same period."""
        return float(np.mean(self._middle(self.training)))

    def _middle(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        until = max(1, int(self.last_start_s // self.stretch_s))
        return curve[until // 4 : until]


class Simulation:
    """A study in virtual time; `run` returns the result.

    Args:
        stretch_s: length of the intervals for which utilisation is recorded, in seconds.
    """

    def __init__(self, setting: Setting, costs: Costs, stretch_s: float = 600.0) -> None:
        self._s, self._c = setting, costs
        self._rng = np.random.default_rng(setting.seed)
        self._clock = Clock()
        servers = {"driver": 1, "storage": setting.storage_cores, "sender": 1, "mlflow": setting.mlflow_cores}
        self._stations = {part: Station(self._clock, servers[part], stretch_s) for part in PARTS}
        self._stretch_s = stretch_s
        self._rungs = {setting.grace * setting.reduction**k for k in range(20)} if setting.pruned else set()
        self._on_record = [setting.on_record // setting.methods] * setting.methods
        self._running = [0] * setting.methods
        self._started = 0
        self._interrupted: deque[Trial] = deque()
        self._free: list[Worker] = []  # wait for a trial that another worker may lose
        self._ended = dict.fromkeys(("complete", "pruned", "failed"), 0)
        self._epochs = self._lost = 0
        self._training = Station(self._clock, setting.workers, stretch_s)
        self._last_start = self._last_end = 0.0
        self._outbox: deque[Trial] = deque()
        self._sending = False
        self._unended = 0
        self._all_sent_at = 0.0
        sigma = math.sqrt(math.log1p(setting.spread**2))
        self._epochs_s = setting.epoch_s * self._rng.lognormal(-(sigma**2) / 2, sigma, setting.trials)

    def run(self) -> SimulationResult:
        """Simulate the study until all trials have ended and, if it is tracked, everything has been sent."""
        s = self._s
        # A restarted driver reads the trials of every method before it starts one.
        resumed_s = s.methods * self._c.resume_s(self._on_record[0]) if s.on_record else 0.0
        self._stations["driver"].serve(resumed_s)
        for _ in range(s.workers):
            self._clock.after(self._c.processes_s, partial(self._arrive, Worker()))
        self._clock.run()
        end = self._last_end
        assert sum(self._ended.values()) == s.trials, "every trial must end"
        return SimulationResult(
            setting=s,
            seconds=end,
            last_start_s=self._last_start,
            ended=self._ended,
            epochs=self._epochs,
            lost=self._lost,
            training_share=self._training.busy_s / (s.workers * end),
            utilisation={part: of.busy_s / (of.servers * self._clock.now) for part, of in self._stations.items()},
            over_time={part: of.utilisation(self._clock.now) for part, of in self._stations.items()},
            training=self._training.utilisation(self._clock.now),
            stretch_s=self._stretch_s,
            demand_s={part: of.busy_s / of.servers / s.trials for part, of in self._stations.items()},
            mlflow_behind_s=self._all_sent_at - end if s.tracked else 0.0,
        )  # fmt: skip

    # --- workers -----------------------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return sum(self._ended.values()) == self._s.trials

    def _arrive(self, worker: Worker) -> None:
        if self._over:
            return
        worker.life += 1
        worker.read = [0] * self._s.methods
        if self._s.losses_per_hour > 0:
            life = worker.life
            until_s = self._rng.exponential(3600 / self._s.losses_per_hour)
            self._clock.after(until_s, lambda: self._lose(worker, life))
        self._next(worker)

    def _next(self, worker: Worker) -> None:
        """Give an idle worker a trial: one that lost its worker, or else a new one."""
        seconds = self._c.tune_s(self._started)
        if self._interrupted:
            trial = self._interrupted.popleft()
        elif self._started < self._s.trials:
            number, method = self._started, self._started % self._s.methods
            self._started += 1
            self._last_start = self._clock.now
            trial = Trial(method, float(self._epochs_s[number]))
            seconds += self._c.ask_s(self._on_record[method]) + self._storage_s(self._c.ask_statements)
            if not self._s.remembered:
                seconds += self._c.uncached_s(self._running[method])
            self._running[method] += 1
        else:
            self._free.append(worker)
            return
        self._clock.at(self._stations["driver"].serve(seconds), partial(self._train, worker, worker.life, trial))

    def _storage_s(self, statements: float) -> float:
        """Return how long the driver waits for statements: their latency, and the storage's queue."""
        return statements * self._s.round_trip_s + self._stations["storage"].backlog_s

    def _train(self, worker: Worker, life: int, trial: Trial) -> None:
        if worker.life != life:  # the worker was lost before the trial reached it
            self._requeue(trial)
            return
        worker.trial = trial
        self._queue_for_sender(trial)
        self._clock.after(trial.epoch_s + self._s.files_s, partial(self._epoch_ends, worker, life, trial))

    def _epoch_ends(self, worker: Worker, life: int, trial: Trial) -> None:
        if worker.life != life:
            return
        trial.epoch += 1
        self._epochs += 1
        self._training.busy(self._clock.now - trial.epoch_s, self._clock.now)
        trial.waiting += 1
        self._queue_for_sender(trial)
        rung = trial.epoch in self._rungs and trial.epoch < self._s.epochs
        decided = self._pruning_ends(worker, trial, rung) if self._s.pruned else self._clock.now
        if trial.epoch == self._s.epochs:
            self._clock.at(decided, partial(self._end, worker, life, trial, "complete"))
        elif rung and self._rng.random() >= 1 / self._s.reduction:
            self._clock.at(decided, partial(self._end, worker, life, trial, "pruned"))
        else:
            next_end = decided + trial.epoch_s + self._s.files_s
            self._clock.at(next_end, partial(self._epoch_ends, worker, life, trial))

    def _pruning_ends(self, worker: Worker, trial: Trial, rung: bool) -> float:
        """Return when the pruner has decided: after the server's queue and work, its own work, and latency."""
        own_s = self._c.pruner_s + self._c.pruner_statements * self._s.round_trip_s
        server_s = self._c.pruner_server_s
        if rung:
            running = self._running[trial.method]
            unread = self._on_record[trial.method] - worker.read[trial.method]
            worker.read[trial.method] = self._on_record[trial.method]
            own_s += self._c.rung_s(running) + unread * self._c.read_s_per_trial
            server_s += self._c.rung_server_s(running) + unread * self._c.read_server_s_per_trial
        return self._stations["storage"].serve(server_s) + own_s

    def _end(self, worker: Worker, life: int, trial: Trial, how: str) -> None:
        if worker.life != life:
            if how != "failed":
                return  # lost during the decision: `_lose` has requeued the trial
        elif worker.trial is trial:
            worker.trial = None
        trial.ended = True
        self._queue_for_sender(trial)
        seconds = self._c.tell_s(self._on_record[trial.method]) + self._storage_s(self._c.tell_statements)
        self._clock.at(self._stations["driver"].serve(seconds), partial(self._tell_ends, worker, life, trial, how))

    def _tell_ends(self, worker: Worker, life: int, trial: Trial, how: str) -> None:
        self._ended[how] += 1
        self._on_record[trial.method] += 1
        self._running[trial.method] -= 1
        self._last_end = self._clock.now
        if self._over and not self._sending:
            self._clock.stop()
        if worker.life == life:
            self._next(worker)

    # --- losses ------------------------------------------------------------------------------------------------------

    def _lose(self, worker: Worker, life: int) -> None:
        """Preempt the worker: its current epoch is lost, and the pruner of its replacement has read no trials."""
        if worker.life != life or self._over:
            return
        worker.life += 1
        self._lost += 1
        if worker in self._free:
            self._free.remove(worker)
        trial, worker.trial = worker.trial, None
        if trial is not None:
            trial.failures = 1 if trial.epoch > trial.reached else trial.failures + 1
            trial.reached = trial.epoch
            if trial.failures >= ATTEMPTS:
                self._end(worker, life, trial, "failed")
            else:
                self._requeue(trial)
        self._clock.after(self._s.replace_s + self._c.processes_s, partial(self._arrive, worker))

    def _requeue(self, trial: Trial) -> None:
        self._interrupted.append(trial)
        if self._free:
            self._next(self._free.pop())

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def _queue_for_sender(self, trial: Trial) -> None:
        if not self._s.tracked or trial.queued:
            return
        trial.queued = True
        self._outbox.append(trial)
        if not self._sending:
            self._sending = True
            self._clock.after(_PERIOD_S, self._poll)

    def _poll(self) -> None:
        poll_s = self._c.poll_s * self._unended
        self._stations["driver"].serve(poll_s)
        self._clock.after(poll_s, self._send)

    def _send(self) -> None:
        """Send the next queued run: all its epochs in one request, its start and its end in further ones."""
        if not self._outbox:
            self._sending = False
            self._all_sent_at = self._clock.now
            if self._over:
                self._clock.stop()
            return
        trial, sent = self._outbox.popleft(), self._c.sent
        trial.queued = False
        own_s = server_s = requests = 0.0
        if not trial.sent:
            trial.sent = True
            self._unended += 1
            own_s, server_s, requests = sent.start_s, sent.start_server_s, sent.start_requests
        if trial.waiting:
            more = trial.waiting - 1
            own_s += sent.epoch_s + more * sent.more_s
            server_s += sent.epoch_server_s + more * sent.more_server_s
            requests += sent.epoch_requests
            trial.waiting = 0
        if trial.ended:
            own_s, server_s, requests = own_s + sent.end_s, server_s + sent.end_server_s, requests + sent.end_requests
            self._unended -= 1
        # The driver and the sender share the interpreter lock: when both work, each takes twice as long.
        started, driver = self._clock.now, self._stations["driver"]
        own_done = started + own_s * (2 if driver.backlog_s > 0 else 1)
        driver.serve(own_s)
        # The sender is MLflow's only client, so that nothing waits in a queue there.
        self._stations["mlflow"].busy(own_done, own_done + server_s)
        answered = own_done + server_s + requests * self._s.round_trip_s
        self._stations["sender"].busy(started, answered)
        self._clock.at(answered, self._send)


def bounds(setting: Setting, costs: Costs, trials: int) -> dict[str, float]:
    """Return the number of workers at which each component saturates, with `trials` recorded trials of all methods.

    This is the law of asymptotic bounds: a component that needs D seconds per trial serves at most 1 / D trials per
    second, and W workers complete at most W / Z trials per second if a trial takes Z seconds. Therefore W* = Z / D.
    """
    rungs = [setting.grace * setting.reduction**k for k in range(20)] if setting.pruned else []
    rungs = [rung for rung in rungs if rung < setting.epochs]
    survive = [setting.reduction**-k for k in range(len(rungs) + 1)]
    ends = [*rungs, setting.epochs]
    epochs = sum(part * (end - begin)
                 for part, (begin, end) in zip(survive, itertools.pairwise([0, *ends]), strict=True))  # fmt: skip
    each = trials / setting.methods
    latency_s = setting.round_trip_s
    sent = costs.sent
    own = sent.start_s + epochs * sent.epoch_s + sent.end_s
    served = sent.start_server_s + epochs * sent.epoch_server_s + sent.end_server_s
    requests = sent.start_requests + epochs * sent.epoch_requests + sent.end_requests
    driver = costs.tune_s(trials) + costs.ask_s(each) + costs.tell_s(each)
    if not setting.remembered:
        driver += costs.uncached_s(setting.workers / setting.methods)
    driver += (costs.ask_statements + costs.tell_statements) * latency_s + (own if setting.tracked else 0.0)
    demand = {"driver": driver}
    if setting.pruned:
        demand["storage"] = epochs * costs.pruner_server_s / setting.storage_cores
    if setting.tracked:
        demand["sender"] = own + served + requests * latency_s
        demand["mlflow"] = served / setting.mlflow_cores
    trial_s = epochs * (setting.epoch_s + setting.files_s)
    return {part: trial_s / seconds for part, seconds in demand.items()}
