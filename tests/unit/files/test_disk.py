"""Who may write, and who only looks"""

import fcntl
import os
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from remix_study.errors import StoreError
from remix_study.files.disk import holder, sole_writer


def test_one_writer_at_a_time_is_named_to_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert holder(lock) is None
    with sole_writer(lock):
        assert holder(lock) == str(os.getpid())
        with pytest.raises(StoreError, match=f"and process {os.getpid()} does"), sole_writer(lock):
            pass
    assert holder(lock) is None
    with sole_writer(lock):
        pass


def test_who_looks_at_the_moment_of_a_start_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`holder` shares the lock for some microseconds; here that lasts until the writer has met it."""
    lock = tmp_path / "lock"
    lock.touch()
    asked = []
    with lock.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        real = fcntl.flock

        def met(file: Any, how: int) -> None:
            asked.append(how)
            if len(asked) == 5:
                real(looking, fcntl.LOCK_UN)
            real(file, how)

        monkeypatch.setattr(fcntl, "flock", met)
        with sole_writer(lock):
            assert len(asked) > 5


def test_of_many_who_start_at_once_one_is_let_in_however_many_look(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    ready, refused, over = Barrier(4), Barrier(4), Event()
    outcomes: list[str] = []

    def start() -> None:
        ready.wait(30)
        try:
            with sole_writer(lock):
                outcomes.append("in")
                refused.wait(30)  # not out again before all others have tried
        except StoreError:
            outcomes.append("refused")
            refused.wait(30)

    def look() -> None:
        while not over.is_set():
            holder(lock)

    lookers = [Thread(target=look) for _ in range(3)]
    starters = [Thread(target=start) for _ in range(4)]
    for thread in lookers + starters:
        thread.start()
    for thread in starters:
        thread.join(30)
    over.set()
    for thread in lookers:
        thread.join(30)
    assert sorted(outcomes) == ["in", "refused", "refused", "refused"]
