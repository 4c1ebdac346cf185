"""Starting a local Ray, and the resources of a cluster"""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from remix_study.launch.ray_init import join_or_start, on_loopback, ray_resources
from remix_study.tracking.signals import signal_handlers


def blocked() -> set[signal.Signals]:
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_a_local_ray_is_started_anew_and_ignores_sighup(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    masks: list[set[signal.Signals]] = []

    def init(**settings: Any) -> None:
        started.append(settings)
        masks.append(blocked())  # Ray's processes inherit this mask

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = blocked()
    assert join_or_start(num_cpus=2)
    assert started[0]["address"] == "local"  # even if `ray start` was run on this machine
    assert started[0]["num_cpus"] == 2
    assert masks[0] == before | {signal.SIGHUP}
    assert blocked() == before


@pytest.mark.parametrize("address", [None, "auto"])
def test_ray_does_not_replace_the_handler_of_sigterm(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Ray sets its own handler, and C++ code sets one that prints a stack trace."""
    arrived: list[int] = []

    def init(**settings: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    def init_late(**settings: Any) -> None:
        init()
        signal.raise_signal(signal.SIGTERM)

    def ours(number: int, frame: object) -> None:
        arrived.append(number)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with signal_handlers({signal.SIGTERM: ours}):
        monkeypatch.setattr(ray, "init", init)
        join_or_start()
        assert signal.getsignal(signal.SIGTERM) is ours
        monkeypatch.setattr(ray, "init", init_late)
        with pytest.raises(KeyboardInterrupt):
            join_or_start()
        assert arrived == [signal.SIGTERM], "a SIGTERM while Ray starts is not lost"


def test_only_processes_of_a_local_ray_are_kept_on_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that the user has set are kept; the environment of this process does not change."""
    received: list[dict[str, str]] = []
    addresses: list[str] = []

    def init(**_: Any) -> None:
        received.append(dict(os.environ))
        addresses.append(services.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's gap

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    before = dict(os.environ)
    join_or_start()
    assert received == [before | {"GLOO_SOCKET_IFNAME": "lo"}]
    assert os.environ == before
    assert addresses == ["127.0.0.1"]


@pytest.mark.parametrize(("address", "local"), [("127.0.0.1", True), ("::1", True), ("10.0.0.7", False), (None, False)])
def test_a_ray_on_the_loopback_address_is_alone(
    monkeypatch: pytest.MonkeyPatch, address: str | None, local: bool
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: address is not None)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    assert on_loopback() is local


CLUSTER_FILE = """
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 2}}
  gpu_spot: {resources: {CPU: 8, GPU: 1}, max_workers: 4}
  cpu: {resources: {CPU: 32}, max_workers: 10}
"""


@pytest.mark.parametrize(
    ("cluster_file", "have", "expected"),
    [
        (CLUSTER_FILE, {"CPU": 2.0}, (2, 0, 2 + 4 * 8 + 2 * 32, 4)),
        (CLUSTER_FILE, {"CPU": 500.0, "GPU": 9.0}, (500, 9, 500, 9)),
        (None, {"CPU": 4.0}, (4, 0, 4, 0)),
        ("{half a file", {"CPU": 4.0}, (4, 0, 4, 0)),
        ("head_node_type: nobody\navailable_node_types: {}", {}, (0, 0, 0, 0)),
        ("just words", {}, (0, 0, 0, 0)),
    ],
)
def test_maximum_resources_follow_from_the_cluster_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cluster_file: str | None,
    have: dict[str, float],
    expected: tuple[float, ...],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if cluster_file is not None:
        (tmp_path / "ray_bootstrap_config.yaml").write_text(cluster_file)
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}, {"Alive": False}])
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert tuple(ray_resources()) == (*expected, 2, False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert ray_resources().may_grow
