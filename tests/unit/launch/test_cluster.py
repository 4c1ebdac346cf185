"""Which Ray we start, and what its processes inherit"""

import signal
from typing import Any

import pytest
import ray

from remix_study.launch.cluster import join_or_start


def blocked() -> set[signal.Signals]:
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_a_ray_of_our_own_is_no_other_and_does_not_hear_a_hangup(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    masks: list[set[signal.Signals]] = []

    def init(**settings: Any) -> None:
        started.append(settings)
        masks.append(blocked())  # which the processes that are started here inherit

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = blocked()
    assert join_or_start(num_cpus=2)
    assert started[0]["address"] == "local"  # also where somebody ran `ray start` on this machine
    assert started[0]["num_cpus"] == 2
    assert masks[0] == before | {signal.SIGHUP}
    assert blocked() == before
