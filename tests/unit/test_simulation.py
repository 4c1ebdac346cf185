"""The simulated study, compared with queueing theory"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulated_study
from benchmarks.simulation.costs import MEASURED, Costs, Line, Sent, Storage, read
from benchmarks.simulation.events import Clock, Station
from benchmarks.simulation.study import PARTS, Setting, Simulation, bounds


def constant(value: float) -> Line:
    return Line((1.0,), (value,))


def costs(ask_s: float = 0.03, tell_s: float = 0.02) -> Costs:
    """Return costs that are the same for every trial, as the theory requires."""
    return Costs(
        ask_s=constant(ask_s), ask_statements=0, tell_s=constant(tell_s), tell_statements=0, uncached_s=constant(0.0),
        resume_s=constant(0.0), pruner_s=0.005, pruner_server_s=0.001, pruner_statements=10, rung_s=constant(0.05),
        rung_server_s=constant(0.01), read_s_per_trial=1e-3, read_server_s_per_trial=1e-5,
        sent=Sent(0.03, 0.08, 8, 0.006, 0.02, 1, 1e-3, 1e-3, 0.02, 0.06, 7), poll_s=1e-5, tune_s=constant(0.005),
    )  # fmt: skip


def _serve(station: Station, seconds: float) -> None:
    station.serve(seconds)


def small(**changes: object) -> Setting:
    known: dict[str, object] = {"workers": 20, "trials": 1_000, "losses_per_hour": 0.5, "epoch_s": 20.0}
    return Setting(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0.3, 0.7, 0.9])
def test_waiting_times_match_an_m_d_1_queue(busy: float) -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    station = Station(clock)
    for at in np.cumsum(rng.exponential(1 / busy, 200_000)):
        clock.at(float(at), partial(_serve, station, 1.0))
    clock.run()
    # Pollaczek-Khinchine formula for a constant service time of 1: busy / (2 (1 - busy))
    assert station.waited_s / station.served == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)
    assert station.busy_s / clock.now == pytest.approx(busy, rel=0.02)


def test_littles_law_holds_for_a_station() -> None:
    clock, rng = Clock(), np.random.default_rng(1)
    station, changes, stays = Station(clock, servers=3), [], []

    def arrive() -> None:
        end = station.serve(float(rng.exponential(2.0)))
        changes.extend([(clock.now, 1), (end, -1)])
        stays.append(end - clock.now)

    for at in np.cumsum(rng.exponential(1.0, 5_000)):
        clock.at(float(at), arrive)
    clock.run()
    when, by = (np.array(part, float) for part in zip(*sorted(changes), strict=True))
    inside = float(np.sum(np.cumsum(by)[:-1] * np.diff(when)) / when[-1])
    assert inside == pytest.approx(len(stays) / when[-1] * np.mean(stays)), "Little's law"
    assert inside <= 3 + station.waited_s / when[-1], "at most three are served at once"


def test_utilisation_over_time_adds_up_to_the_busy_time() -> None:
    clock = Clock()
    station = Station(clock, servers=2, stretch_s=10.0)
    for at, seconds in ((1.0, 25.0), (5.0, 4.0), (6.0, 7.0)):
        clock.at(at, partial(_serve, station, seconds))
    clock.run()
    shares = station.utilisation(26.0)
    assert shares * [20, 20, 12] == pytest.approx([9 + 4 + 1, 10 + 6, 6])
    assert station.busy_s == pytest.approx(36)


def test_events_run_in_order_of_time_and_then_of_scheduling() -> None:
    clock, ran = Clock(), []
    clock.at(2.0, lambda: ran.append("b"))
    clock.at(2.0, lambda: ran.append("c"))
    clock.at(1.0, lambda: ran.append("a"))
    clock.run()
    assert ran == ["a", "b", "c"]
    with pytest.raises(AssertionError, match=r"must be at least 2\.0 .*, but is 1\.0"):
        clock.at(1.0, lambda: None)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_every_trial_ends_once_when_workers_are_lost(pruned: bool, tracked: bool) -> None:
    result = Simulation(small(losses_per_hour=20.0, pruned=pruned, tracked=tracked, trials=300), costs()).run()
    assert sum(result.ended.values()) == 300
    assert result.lost > 100
    assert result.ended["complete"] > 0
    assert (result.ended["pruned"] > 0) is pruned
    assert result.epochs >= 50 * result.ended["complete"], "a trial resumes after its last completed epoch"


def test_trials_fail_if_they_lose_every_worker() -> None:
    result = Simulation(small(losses_per_hour=3600 / 5, trials=30), costs()).run()
    assert result.ended["failed"] == 30


def test_the_same_seed_gives_the_same_result() -> None:
    one, same = (Simulation(small(), costs()).run() for _ in range(2))
    other = Simulation(small(seed=1), costs()).run()
    assert (one.seconds, one.ended, one.lost, one.steady) == (same.seconds, same.ended, same.lost, same.steady)
    assert one.seconds != other.seconds


@pytest.mark.parametrize("workers", [4, 20, 60, 400])
def test_no_study_is_faster_than_its_slowest_part(workers: int) -> None:
    """Asymptotic bound: at most min(W / Z, 1 / D) trials per second, and close to it far from the knee."""
    setting = small(
        workers=workers, trials=4_000, epochs=1, epoch_s=10.0, spread=0.0, files_s=0.0, pruned=False, tracked=False,
        losses_per_hour=0.0,
    )  # fmt: skip
    result = Simulation(setting, costs(ask_s=0.1, tell_s=0.045), stretch_s=10.0).run()
    demand = 0.005 + 0.1 + 0.045
    rate = setting.trials / result.seconds
    most = min(workers / (10 + demand), 1 / demand)
    assert rate <= most * 1.001
    if workers in (4, 400):
        assert rate == pytest.approx(most, rel=0.05)
    assert bounds(setting, costs(ask_s=0.1, tell_s=0.045), 0)["driver"] == pytest.approx(10 / demand)
    assert result.utilisation["driver"] == pytest.approx(rate * demand, rel=0.01), "utilisation law"


def test_a_slow_sender_delays_mlflow_but_no_trial() -> None:
    setting = small(epochs=10, epoch_s=2.0, pruned=False, losses_per_hour=0.0, round_trip_s=0.1)
    untracked = Simulation(replace(setting, tracked=False), costs()).run()
    slow = Simulation(setting, costs()).run()
    assert slow.mlflow_behind_s > 60
    assert slow.utilisation["sender"] > 0.95
    assert slow.seconds == pytest.approx(untracked.seconds, rel=0.1)


def test_workers_idle_if_every_suggestion_reads_every_running_trial() -> None:
    reading = replace(costs(), uncached_s=Line((0.0, 100.0), (0.0, 1.0)))
    setting = small(workers=200, trials=4_000, methods=1, epochs=10, epoch_s=30.0, pruned=False, tracked=False)
    before = Simulation(replace(setting, remembered=False), reading).run()
    after = Simulation(setting, reading).run()
    assert before.steady_training < 0.8 < 0.9 < after.steady_training
    assert before.steady["driver"] > 0.95


def test_lines_interpolate_and_extrapolate() -> None:
    line = Line((100, 1_000, 10_000), (1.0, 2.0, 11.0))
    assert [line(x) for x in (1, 100, 550, 10_000, 19_000)] == pytest.approx([1, 1, 1.5, 11, 20])
    assert constant(3.0)(1e9) == 3.0


def test_the_shipped_measurement_has_every_storage_and_sampler() -> None:
    measured = read()
    assert measured["quick"] is False
    storages: tuple[Storage, ...] = ("sqlite", "journal", "postgresql")
    for storage in storages:
        for sampler in measured["samplers"]:
            found = Costs.of(measured, storage, sampler)
            assert min(found.ask_s.y) > 0
            assert found.ask_s(25_000) >= found.ask_s(10_000)


def test_a_quick_run_writes_table_figure_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, numbers = tmp_path / "scaling.png", tmp_path / "scaling.json"
    simulated_study.main(["--quick", "--measured", str(MEASURED), "--picture", str(picture), "--json", str(numbers)])
    out = capsys.readouterr().out
    assert all(part in out for part in (*PARTS, "up to workers", "random instead of tpe"))
    assert 5_000 < picture.stat().st_size < 150_000
    assert numbers.read_text().count('"name"') == len(simulated_study.cases())
