"""One study in virtual time: what waits for what

    a free worker      driver: Tune, ask                  then it trains
    after each epoch   its judge asks the storage; its line waits for the sender
    at a rung          the judge reads what other trials reached there
    at its end         driver: tell; the worker is free
    a lost worker      its trial goes on from its last epoch in another process, and a new worker comes later

Four parts are shared by all: the `driver` (one thread: one trial after the other, and the sender's own share of the
processor, because both are one Python process), the `storage` server, the `sender` (one thread, one run after the
other, waits for every answer) and the `mlflow` server. Files are written by the workers side by side; `files_s` of a
run's epoch is their waiting. Everything random comes from the seed.
"""

# W workers, N trials on record, E epochs

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
ATTEMPTS = 3  # as study/tasks.py: of a trial that does not come further
_PERIOD_S = 1.0  # as tracking/syncer.py


@dataclass(frozen=True)
class Setting:
    """A study, and where it runs.

    epoch_s: mean of the trials' epochs; each trial draws its own from a log-normal distribution of relative
        deviation `spread`.
    losses_per_hour: of each worker; `replace_s` until another one is there.
    round_trip_s: to the database and to MLflow, per statement and request.
    files_s: what an epoch's files take on the worker: checkpoint and line, on a shared disk or in an object store.
    on_record: trials of all methods that ended before. remembered: the driver remembers running trials, as it does.
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
    """epoch: complete ones; waiting: those that MLflow has not been told; queued: the sender will come to it.

    begun: MLflow knows it. attempts: lost processes since it came further than `reached`.
    """

    method: int
    epoch_s: float
    epoch: int = 0
    attempts: int = 0
    reached: int = 0  # epochs at the last loss
    begun: bool = False
    ended: bool = False
    waiting: int = 0
    queued: bool = False


@dataclass
class Worker:
    """A process; `life` grows when it begins and when it is lost, by which events of an earlier life are known.

    read: per method, trials on record that its judge has read.
    """

    life: int = 0
    read: list[int] = field(default_factory=list)
    trial: Trial | None = None


@dataclass(frozen=True)
class Told:
    """What came of it. Shares in [0, 1]; utilisation per stretch of `stretch_s`.

    seconds, begun_s: until the last trial ended, and until it began.
    training_share: of the workers' time until the last trial ended, new ones not yet there included.
    demand_s: of one server's time, per trial. mlflow_behind_s: how long after the last trial MLflow knew everything.
    """

    setting: Setting
    seconds: float
    begun_s: float
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
        """How busy each part is while there are trials to begin, the first quarter of that time left out."""
        return {part: float(np.mean(self._middle(curve))) for part, curve in self.over_time.items()}

    @property
    def steady_training(self) -> float:
        """Which part of the workers' time is training then."""
        return float(np.mean(self._middle(self.training)))

    def _middle(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        until = max(1, int(self.begun_s // self.stretch_s))
        return curve[until // 4 : until]


class Simulation:
    """`Simulation(setting, costs).run()`"""

    def __init__(self, setting: Setting, costs: Costs, stretch_s: float = 600.0) -> None:
        self._s, self._c = setting, costs
        self._rng = np.random.default_rng(setting.seed)
        self._clock = Clock()
        servers = {"driver": 1, "storage": setting.storage_cores, "sender": 1, "mlflow": setting.mlflow_cores}
        self._stations = {part: Station(self._clock, servers[part], stretch_s) for part in PARTS}
        self._stretch_s = stretch_s
        self._rungs = {setting.grace * setting.reduction**k for k in range(20)} if setting.pruned else set()
        self._on_record = [setting.on_record // setting.methods] * setting.methods
        self._at_work = [0] * setting.methods
        self._begun = 0
        self._again: deque[Trial] = deque()
        self._free: list[Worker] = []  # there was no trial for them; one may be lost by another yet
        self._ended = dict.fromkeys(("complete", "pruned", "failed"), 0)
        self._epochs = self._lost = 0
        self._training = Station(self._clock, setting.workers, stretch_s)
        self._last_begin = self._last_end = 0.0
        self._outbox: deque[Trial] = deque()
        self._sending = False
        self._open = 0
        self._settled = 0.0
        sigma = math.sqrt(math.log1p(setting.spread**2))
        self._epochs_s = setting.epoch_s * self._rng.lognormal(-(sigma**2) / 2, sigma, setting.trials)

    def run(self) -> Told:
        s = self._s
        # A driver that starts again reads every method's trials before anybody gets one.
        settled = s.methods * self._c.settle_s(self._on_record[0]) if s.on_record else 0.0
        self._stations["driver"].serve(settled)
        for _ in range(s.workers):
            self._clock.after(self._c.processes_s, partial(self._arrive, Worker()))
        self._clock.run()
        end = self._last_end
        assert sum(self._ended.values()) == s.trials, "no trial may be lost"
        return Told(
            setting=s,
            seconds=end,
            begun_s=self._last_begin,
            ended=self._ended,
            epochs=self._epochs,
            lost=self._lost,
            training_share=self._training.busy_s / (s.workers * end),
            utilisation={part: of.busy_s / (of.servers * self._clock.now) for part, of in self._stations.items()},
            over_time={part: of.utilisation(self._clock.now) for part, of in self._stations.items()},
            training=self._training.utilisation(self._clock.now),
            stretch_s=self._stretch_s,
            demand_s={part: of.busy_s / of.servers / s.trials for part, of in self._stations.items()},
            mlflow_behind_s=self._settled - end if s.tracked else 0.0,
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
        """A trial for a worker that is free: one that lost its worker, else a new one."""
        seconds = self._c.tune_s(self._begun)
        if self._again:
            trial = self._again.popleft()
        elif self._begun < self._s.trials:
            number, method = self._begun, self._begun % self._s.methods
            self._begun += 1
            self._last_begin = self._clock.now
            trial = Trial(method, float(self._epochs_s[number]))
            seconds += self._c.ask_s(self._on_record[method]) + self._storage_s(self._c.ask_statements)
            if not self._s.remembered:
                seconds += self._c.unremembered_s(self._at_work[method])
            self._at_work[method] += 1
        else:
            self._free.append(worker)
            return
        self._clock.at(self._stations["driver"].serve(seconds), partial(self._train, worker, worker.life, trial))

    def _storage_s(self, statements: float) -> float:
        """How long the driver waits for its statements: their way, and the storage's other work."""
        return statements * self._s.round_trip_s + self._stations["storage"].backlog_s

    def _train(self, worker: Worker, life: int, trial: Trial) -> None:
        if worker.life != life:  # lost on the way
            self._give_again(trial)
            return
        worker.trial = trial
        self._tell_sender(trial)
        self._clock.after(trial.epoch_s + self._s.files_s, partial(self._epoch_ends, worker, life, trial))

    def _epoch_ends(self, worker: Worker, life: int, trial: Trial) -> None:
        if worker.life != life:
            return
        trial.epoch += 1
        self._epochs += 1
        self._training.busy(self._clock.now - trial.epoch_s, self._clock.now)
        trial.waiting += 1
        self._tell_sender(trial)
        rung = trial.epoch in self._rungs and trial.epoch < self._s.epochs
        judged = self._judged_at(worker, trial, rung) if self._s.pruned else self._clock.now
        if trial.epoch == self._s.epochs:
            self._clock.at(judged, partial(self._end, worker, life, trial, "complete"))
        elif rung and self._rng.random() >= 1 / self._s.reduction:
            self._clock.at(judged, partial(self._end, worker, life, trial, "pruned"))
        else:
            next_end = judged + trial.epoch_s + self._s.files_s
            self._clock.at(next_end, partial(self._epoch_ends, worker, life, trial))

    def _judged_at(self, worker: Worker, trial: Trial, rung: bool) -> float:
        """When the judge has spoken: the server's work in its turn, then its own and the way of its statements."""
        own_s = self._c.judge_s + self._c.judge_statements * self._s.round_trip_s
        server_s = self._c.judge_server_s
        if rung:
            running = self._at_work[trial.method]
            unread = self._on_record[trial.method] - worker.read[trial.method]
            worker.read[trial.method] = self._on_record[trial.method]
            own_s += self._c.rung_s(running) + unread * self._c.read_s_per_trial
            server_s += self._c.rung_server_s(running) + unread * self._c.read_server_s_per_trial
        return self._stations["storage"].serve(server_s) + own_s

    def _end(self, worker: Worker, life: int, trial: Trial, how: str) -> None:
        if worker.life != life:
            if how != "failed":
                return  # lost while it was judged: `_lose` has given the trial again
        elif worker.trial is trial:
            worker.trial = None
        trial.ended = True
        self._tell_sender(trial)
        seconds = self._c.tell_s(self._on_record[trial.method]) + self._storage_s(self._c.tell_statements)
        self._clock.at(self._stations["driver"].serve(seconds), partial(self._told, worker, life, trial, how))

    def _told(self, worker: Worker, life: int, trial: Trial, how: str) -> None:
        self._ended[how] += 1
        self._on_record[trial.method] += 1
        self._at_work[trial.method] -= 1
        self._last_end = self._clock.now
        if self._over and not self._sending:
            self._clock.stop()
        if worker.life == life:
            self._next(worker)

    # --- losses ------------------------------------------------------------------------------------------------------

    def _lose(self, worker: Worker, life: int) -> None:
        """The machine is taken away: the epoch under way is lost, and a new process has read nothing."""
        if worker.life != life or self._over:
            return
        worker.life += 1
        self._lost += 1
        if worker in self._free:
            self._free.remove(worker)
        trial, worker.trial = worker.trial, None
        if trial is not None:
            trial.attempts = 1 if trial.epoch > trial.reached else trial.attempts + 1
            trial.reached = trial.epoch
            if trial.attempts >= ATTEMPTS:
                self._end(worker, life, trial, "failed")
            else:
                self._give_again(trial)
        self._clock.after(self._s.replace_s + self._c.processes_s, partial(self._arrive, worker))

    def _give_again(self, trial: Trial) -> None:
        self._again.append(trial)
        if self._free:
            self._next(self._free.pop())

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def _tell_sender(self, trial: Trial) -> None:
        if not self._s.tracked or trial.queued:
            return
        trial.queued = True
        self._outbox.append(trial)
        if not self._sending:
            self._sending = True
            # It looks about once a second, at all runs that are at work.
            self._clock.after(_PERIOD_S, self._look)

    def _look(self) -> None:
        looked_s = self._c.look_s * self._open
        self._stations["driver"].serve(looked_s)
        self._clock.after(looked_s, self._send)

    def _send(self) -> None:
        """The next run that has told something: all of it in one request, its start and its end in some more."""
        if not self._outbox:
            self._sending = False
            self._settled = self._clock.now
            if self._over:
                self._clock.stop()
            return
        trial, sent = self._outbox.popleft(), self._c.sent
        trial.queued = False
        own_s = server_s = asked = 0.0
        if not trial.begun:
            trial.begun = True
            self._open += 1
            own_s, server_s, asked = sent.start_s, sent.start_server_s, sent.start_requests
        if trial.waiting:
            more = trial.waiting - 1
            own_s += sent.epoch_s + more * sent.more_s
            server_s += sent.epoch_server_s + more * sent.more_server_s
            asked += sent.epoch_requests
            trial.waiting = 0
        if trial.ended:
            own_s, server_s, asked = own_s + sent.end_s, server_s + sent.end_server_s, asked + sent.end_requests
            self._open -= 1
        # Two threads of one interpreter take turns: each of them takes twice as long, and the queue is not waited for.
        begun, driver = self._clock.now, self._stations["driver"]
        own_done = begun + own_s * (2 if driver.backlog_s > 0 else 1)
        driver.serve(own_s)
        # MLflow has nobody else to serve.
        self._stations["mlflow"].busy(own_done, own_done + server_s)
        answered = own_done + server_s + asked * self._s.round_trip_s
        self._stations["sender"].busy(begun, answered)
        self._clock.at(answered, self._send)


def bounds(setting: Setting, costs: Costs, trials: int) -> dict[str, float]:
    """Workers from which on each part cannot keep up, with `trials` of all methods on record.

    The law of asymptotic bounds: a part that a trial needs for D seconds serves 1 / D trials a second, and W workers
    end at most W / Z of them, if one takes Z seconds; so W* = Z / D.
    """
    rungs = [setting.grace * setting.reduction**k for k in range(20)] if setting.pruned else []
    rungs = [rung for rung in rungs if rung < setting.epochs]
    survive = [setting.reduction**-k for k in range(len(rungs) + 1)]
    ends = [*rungs, setting.epochs]
    epochs = sum(part * (end - begin)
                 for part, (begin, end) in zip(survive, itertools.pairwise([0, *ends]), strict=True))  # fmt: skip
    each = trials / setting.methods
    way = setting.round_trip_s
    sent = costs.sent
    own = sent.start_s + epochs * sent.epoch_s + sent.end_s
    served = sent.start_server_s + epochs * sent.epoch_server_s + sent.end_server_s
    asked = sent.start_requests + epochs * sent.epoch_requests + sent.end_requests
    driver = costs.tune_s(trials) + costs.ask_s(each) + costs.tell_s(each)
    if not setting.remembered:
        driver += costs.unremembered_s(setting.workers / setting.methods)
    driver += (costs.ask_statements + costs.tell_statements) * way + (own if setting.tracked else 0.0)
    demand = {"driver": driver}
    if setting.pruned:
        demand["storage"] = epochs * costs.judge_server_s / setting.storage_cores
    if setting.tracked:
        demand["sender"] = own + served + asked * way
        demand["mlflow"] = served / setting.mlflow_cores
    trial_s = epochs * (setting.epoch_s + setting.files_s)
    return {part: trial_s / seconds for part, seconds in demand.items()}
