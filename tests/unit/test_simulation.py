"""The simulated study against what queueing theory says of it"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulated_study
from benchmarks.simulation.costs import MEASURED, Costs, Line, Sent, Storage, read
from benchmarks.simulation.events import Clock, Station
from benchmarks.simulation.study import PARTS, Setting, Simulation, bounds


def flat(value: float) -> Line:
    return Line((1.0,), (value,))


def costs(ask_s: float = 0.03, tell_s: float = 0.02) -> Costs:
    """The same at every trial, so that theory has an answer."""
    return Costs(
        ask_s=flat(ask_s), ask_statements=0, tell_s=flat(tell_s), tell_statements=0, unremembered_s=flat(0.0),
        settle_s=flat(0.0), judge_s=0.005, judge_server_s=0.001, judge_statements=10, rung_s=flat(0.05),
        rung_server_s=flat(0.01), read_s_per_trial=1e-3, read_server_s_per_trial=1e-5,
        sent=Sent(0.03, 0.08, 8, 0.006, 0.02, 1, 1e-3, 1e-3, 0.02, 0.06, 7), look_s=1e-5, tune_s=flat(0.005),
    )  # fmt: skip


def _serve(station: Station, seconds: float) -> None:
    station.serve(seconds)


def small(**changes: object) -> Setting:
    known: dict[str, object] = {"workers": 20, "trials": 1_000, "losses_per_hour": 0.5, "epoch_s": 20.0}
    return Setting(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0.3, 0.7, 0.9])
def test_a_station_makes_work_wait_as_an_m_d_1_queue_does(busy: float) -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    station = Station(clock)
    for at in np.cumsum(rng.exponential(1 / busy, 200_000)):
        clock.at(float(at), partial(_serve, station, 1.0))
    clock.run()
    # Pollaczek and Khinchine, all service times alike: busy / (2 (1 - busy)) of them
    assert station.waited_s / station.served == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)
    assert station.busy_s / clock.now == pytest.approx(busy, rel=0.02)


def test_what_is_inside_is_the_rate_times_the_stay() -> None:
    clock, rng = Clock(), np.random.default_rng(1)
    station, changes, stays = Station(clock, servers=3), [], []

    def come() -> None:
        end = station.serve(float(rng.exponential(2.0)))
        changes.extend([(clock.now, 1), (end, -1)])
        stays.append(end - clock.now)

    for at in np.cumsum(rng.exponential(1.0, 5_000)):
        clock.at(float(at), come)
    clock.run()
    when, by = (np.array(part, float) for part in zip(*sorted(changes), strict=True))
    inside = float(np.sum(np.cumsum(by)[:-1] * np.diff(when)) / when[-1])
    assert inside == pytest.approx(len(stays) / when[-1] * np.mean(stays)), "Little's law"
    assert inside <= 3 + station.waited_s / when[-1], "three are served at most, the others wait"


def test_utilisation_over_time_is_all_the_work_that_was_done() -> None:
    clock = Clock()
    station = Station(clock, servers=2, stretch_s=10.0)
    for at, seconds in ((1.0, 25.0), (5.0, 4.0), (6.0, 7.0)):
        clock.at(at, partial(_serve, station, seconds))
    clock.run()
    shares = station.utilisation(26.0)
    assert shares * [20, 20, 12] == pytest.approx([9 + 4 + 1, 10 + 6, 6])
    assert station.busy_s == pytest.approx(36)


def test_events_do_not_go_back_and_equals_keep_their_order() -> None:
    clock, seen = Clock(), []
    clock.at(2.0, lambda: seen.append("b"))
    clock.at(2.0, lambda: seen.append("c"))
    clock.at(1.0, lambda: seen.append("a"))
    clock.run()
    assert seen == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="must not lie before"):
        clock.at(1.0, lambda: None)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_every_trial_ends_once_whatever_is_lost(pruned: bool, tracked: bool) -> None:
    told = Simulation(small(losses_per_hour=20.0, pruned=pruned, tracked=tracked, trials=300), costs()).run()
    assert sum(told.ended.values()) == 300
    assert told.lost > 100
    assert told.ended["complete"] > 0
    assert (told.ended["pruned"] > 0) is pruned
    assert told.epochs >= 50 * told.ended["complete"], "an epoch that was lost is trained again, one that ended is not"


def test_trials_that_lose_every_process_fail() -> None:
    told = Simulation(small(losses_per_hour=3600 / 5, trials=30), costs()).run()
    assert told.ended["failed"] == 30


def test_the_seed_decides_everything() -> None:
    one, same = (Simulation(small(), costs()).run() for _ in range(2))
    other = Simulation(small(seed=1), costs()).run()
    assert (one.seconds, one.ended, one.lost, one.steady) == (same.seconds, same.ended, same.lost, same.steady)
    assert one.seconds != other.seconds


@pytest.mark.parametrize("workers", [4, 20, 60, 400])
def test_no_study_is_faster_than_its_slowest_part(workers: int) -> None:
    """The law of asymptotic bounds: min(W / Z, 1 / D) trials a second at most, and near it far from the knee."""
    setting = small(
        workers=workers, trials=4_000, epochs=1, epoch_s=10.0, spread=0.0, files_s=0.0, pruned=False, tracked=False,
        losses_per_hour=0.0,
    )  # fmt: skip
    told = Simulation(setting, costs(ask_s=0.1, tell_s=0.045), stretch_s=10.0).run()
    demand = 0.005 + 0.1 + 0.045
    rate = setting.trials / told.seconds
    most = min(workers / (10 + demand), 1 / demand)
    assert rate <= most * 1.001
    if workers in (4, 400):
        assert rate == pytest.approx(most, rel=0.05)
    assert bounds(setting, costs(ask_s=0.1, tell_s=0.045), 0)["driver"] == pytest.approx(10 / demand)
    assert told.utilisation["driver"] == pytest.approx(rate * demand, rel=0.01), "the law of utilisation"


def test_mlflow_is_told_everything_in_the_end_and_a_slow_sender_holds_up_nobody() -> None:
    setting = small(epochs=10, epoch_s=2.0, pruned=False, losses_per_hour=0.0, round_trip_s=0.1)
    untold = Simulation(replace(setting, tracked=False), costs()).run()
    slow = Simulation(setting, costs()).run()
    assert slow.mlflow_behind_s > 60
    assert slow.utilisation["sender"] > 0.95
    assert slow.seconds == pytest.approx(untold.seconds, rel=0.1)


def test_a_suggestion_that_reads_every_running_trial_starves_the_workers() -> None:
    reading = replace(costs(), unremembered_s=Line((0.0, 100.0), (0.0, 1.0)))
    setting = small(workers=200, trials=4_000, methods=1, epochs=10, epoch_s=30.0, pruned=False, tracked=False)
    before = Simulation(replace(setting, remembered=False), reading).run()
    after = Simulation(setting, reading).run()
    assert before.steady_training < 0.8 < 0.9 < after.steady_training
    assert before.steady["driver"] > 0.95


def test_lines_go_on_as_they_ended() -> None:
    line = Line((100, 1_000, 10_000), (1.0, 2.0, 11.0))
    assert [line(x) for x in (1, 100, 550, 10_000, 19_000)] == pytest.approx([1, 1, 1.5, 11, 20])
    assert flat(3.0)(1e9) == 3.0


def test_the_shipped_measurement_is_whole() -> None:
    measured = read()
    assert measured["quick"] is False
    storages: tuple[Storage, ...] = ("sqlite", "journal", "postgresql")
    for storage in storages:
        for sampler in measured["samplers"]:
            found = Costs.of(measured, storage, sampler)
            assert min(found.ask_s.y) > 0
            assert found.ask_s(25_000) >= found.ask_s(10_000)


def test_a_quick_run_draws_the_table_the_picture_and_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, numbers = tmp_path / "scaling.png", tmp_path / "scaling.json"
    simulated_study.main(["--quick", "--measured", str(MEASURED), "--picture", str(picture), "--json", str(numbers)])
    out = capsys.readouterr().out
    assert all(part in out for part in (*PARTS, "up to workers", "random instead of tpe"))
    assert 5_000 < picture.stat().st_size < 150_000
    assert numbers.read_text().count('"name"') == len(simulated_study.cases())
