"""The ports that a local Ray and the workers of a run open"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from remix_study.config.run import RunConfig
from remix_study.launch.ray_init import join_or_start, on_loopback
from remix_study.launch.run import launch, make_job
from remix_study.training.state import Record

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


_LISTEN = "0A"  # a state in /proc/net/tcp


def listening(driver: int) -> dict[str, str]:
    """Return the addresses on which a process and its descendants listen, with the name of the process."""
    addresses = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTEN:
                addresses[f"socket:[{words[9]}]"] = words[1]
    found = {}
    for process in descendants(driver):
        with suppress(OSError):  # it has just ended
            name = (process / "cmdline").read_text().partition("\0")[0]
            for opened in (process / "fd").iterdir():
                with suppress(OSError):
                    if (address := addresses.get(str(opened.readlink()))) is not None:
                        found[address] = name
    return found


def descendants(pid: int) -> Iterator[Path]:
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    for each in parents:
        above: int | None = each
        while above not in (pid, None):
            above = parents.get(above)
        if above == pid:
            yield Path(f"/proc/{each}")


def is_loopback(address: str) -> bool:
    """Whether an address of /proc/net/tcp is 127.0.0.0/8, as IPv4 or in IPv6, or ::1."""
    host = address.partition(":")[0]
    return host.endswith("7F") or host == "00000000000000000000000001000000"


@dataclass(frozen=True)
class NotePorts:
    """An epoch callback that writes the addresses on which the processes of a driver listen to a file."""

    driver: int
    file: str

    def __call__(self, history: Sequence[Record]) -> None:
        Path(self.file).write_text(json.dumps(listening(self.driver)))


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert join_or_start(
        num_cpus=2, object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore", "RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]}},
    )  # fmt: skip
    yield
    ray.shutdown()


def test_a_local_ray_and_its_workers_listen_on_the_loopback_address_only(
    local_ray: None, recipe: Callable[..., RunConfig], tmp_path: Path
) -> None:
    assert on_loopback()
    with socket.create_server(("0.0.0.0", 0)) as everywhere:  # to see that such a port would be found
        file = tmp_path / "ports.json"
        job = make_job(recipe({"workers": 2, "global_batch": 28}), "digest", tmp_path, "pair")
        launch(job, NotePorts(os.getpid(), str(file)))
        found = json.loads(file.read_text())
        outside = {address: name for address, name in found.items() if not is_loopback(address)}
        assert outside.pop(f"00000000:{everywhere.getsockname()[1]:04X}")
    assert outside == {}
    assert len(found) > 10
    assert any("RayTrainWorker" in name for name in found.values())
