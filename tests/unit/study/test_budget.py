import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remix_study.config.study import BudgetConfig
from remix_study.files import operations
from remix_study.patience import PATIENCE
from remix_study.study.budget import Clock, Rates, Used, read_clock


def test_hours_follow_from_durations_and_the_clock() -> None:
    used = Rates(cpus=4, gpus=0.5, at_once=2).used(work_s=3600, clock_s=1800)
    assert used == Used(0.5, 4.0, 0.5)


def test_runs_to_come_share_the_clock() -> None:
    assert Rates(2, 1, 4).of_runs(8, 900) == Used(0.5, 4.0, 2.0)
    assert Rates(1, 0, 4).of_runs(5, 3600).hours == 2.0, "the fifth run waits for one of the first four"


@pytest.mark.parametrize(
    ("budget", "reached"),
    [
        ({}, None),
        ({"hours": 2}, None),
        ({"hours": 1}, "1.00 of 1 hours"),
        ({"hours": 2, "cpu_hours": 3.5}, "4.00 of 3.5 CPU hours"),
        ({"gpu_hours": 0.5}, "0.50 of 0.5 GPU hours"),
    ],
)
def test_the_first_reached_limit_is_returned(budget: dict[str, float], reached: str | None) -> None:
    assert Used(1.0, 4.0, 0.5).exceeds(BudgetConfig(**budget)) == reached


def test_only_limits_are_shown() -> None:
    assert Used(1.0, 4.0, 0.5).limits(BudgetConfig(cpu_hours=8)) == {"cpu_hours": (4.0, 8.0)}


def test_the_clock_continues_over_all_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert read_clock(tmp_path) == (0.0, Rates(1.0, 0.0, 1))
    clock = Clock(tmp_path, Rates(1, 0, 2))
    now[0] = 130.0
    clock.write()
    assert read_clock(tmp_path) == (30.0, Rates(1, 0, 2))
    now[0] = 500.0  # no process ran the study in between
    again = Clock(tmp_path, Rates(2, 0, 1))
    now[0] = 505.0
    assert again.seconds == pytest.approx(35.0)


def test_the_clock_is_written_while_a_long_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill of the driver loses little of it."""
    monkeypatch.setattr(PATIENCE, "clock_s", 0.001)
    clock, written = Clock(tmp_path, Rates(1, 0, 1)), threading.Event()
    write = clock.write

    def write_and_tell() -> None:
        write()
        written.set()

    monkeypatch.setattr(clock, "write", write_and_tell)
    with clock.kept():
        assert written.wait(60)
    assert (tmp_path / "clock.json").exists()
    assert "clock" not in {thread.name for thread in threading.enumerate()}


def test_the_clock_is_written_by_two_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the study, and the one that writes while runs train."""
    monkeypatch.setattr(operations, "fsync", lambda descriptor: None)
    clock = Clock(tmp_path, Rates(1, 0, 1))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(clock.write) for _ in range(400)]:
            done.result()
    assert read_clock(tmp_path)[1] == Rates(1, 0, 1)
