"""Which Ray we start, and what its processes inherit"""

import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from remix_study.launch.ray_init import join_or_start, ray_resources


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


LAUNCHER = """
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 2}}
  gpu_spot: {resources: {CPU: 8, GPU: 1}, max_workers: 4}
  cpu: {resources: {CPU: 32}, max_workers: 10}
"""


@pytest.mark.parametrize(
    ("launcher", "have", "expected"),
    [
        (LAUNCHER, {"CPU": 2.0}, (2, 0, 2 + 4 * 8 + 2 * 32, 4)),
        (LAUNCHER, {"CPU": 500.0, "GPU": 9.0}, (500, 9, 500, 9)),
        (None, {"CPU": 4.0}, (4, 0, 4, 0)),
        ("{half a file", {"CPU": 4.0}, (4, 0, 4, 0)),
        ("head_node_type: nobody\navailable_node_types: {}", {}, (0, 0, 0, 0)),
        ("just words", {}, (0, 0, 0, 0)),
    ],
)
def test_room_is_what_the_autoscaler_may_come_to(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    launcher: str | None,
    have: dict[str, float],
    expected: tuple[float, ...],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if launcher is not None:
        (tmp_path / "ray_bootstrap_config.yaml").write_text(launcher)
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}, {"Alive": False}])
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert tuple(ray_resources()) == (*expected, 2, False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert ray_resources().may_grow
