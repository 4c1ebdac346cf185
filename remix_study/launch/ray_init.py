"""Which Ray we run on: the one that RAY_ADDRESS names, or one of our own"""

import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml

from remix_study import ray_private
from remix_study.errors import RemixStudyError

_PATIENCE_S = 4.0
_log = logging.getLogger(__name__)


def join_or_start(**own: Any) -> bool:
    """Whether the Ray we are on now is our own; `own` are the arguments of `ray.init` for starting it.

    Raises:
        RemixStudyError: the Ray that RAY_ADDRESS names does not answer, or does not let us in.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": _log.isEnabledFor(logging.INFO), "logging_level": logging.ERROR}
    if address is None:
        with _hangups_kept_from_children():
            # "local": not a Ray that somebody else started on this machine, which knows nothing of our slots.
            ray.init(address="local", include_dashboard=False, **quiet, **own)
        return True
    _require_answer(address)
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError) as error:
        raise RemixStudyError(
            f"the Ray at RAY_ADDRESS={address} must let us in, but does not ({' '.join(str(error).split())[:200]}). "
            "Set RAY_AUTH_MODE=token if it was started with a token, or unset RAY_ADDRESS to run on a Ray of our own."
        ) from error
    return False


@contextmanager
def _hangups_kept_from_children() -> Iterator[None]:
    """A terminal that is closed sends SIGHUP to all processes of its job: Ray's would die of it. They inherit this
    mask (Ray itself does the same with SIGINT); a SIGHUP that comes meanwhile reaches us after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RayResources(NamedTuple):
    """CPU cores and GPUs of the Ray that we are on: now, and as far as its autoscaler may add machines.

    may_grow: whether there may come more, and nobody knows how much.
    """

    cpus: float
    gpus: float
    max_cpus: float
    max_gpus: float
    machines: int
    may_grow: bool = False


def ray_resources() -> RayResources:
    """What the Ray that we are on has, and may come to have.

    How far an open-source autoscaler goes is told by nobody but the launcher's file on the head, where drivers run.
    Machines of one's own are there without their resources, and on Kubernetes there is no such file.
    """
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's gap
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    most, may_grow = cluster_file_resources(Path(ray_private.BOOTSTRAP_CONFIG).expanduser())
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's gap
    alive = sum(bool(node["Alive"]) for node in nodes)
    return RayResources(cpus, gpus, max(cpus, most.get("CPU", 0.0)), max(gpus, most.get("GPU", 0.0)), alive, may_grow)


def cluster_file_resources(launcher: Path) -> tuple[dict[str, float], bool]:
    """Of all machines that a launcher's file allows at once, the head included; whether more than that may come."""
    on_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        content = yaml.safe_load(launcher.read_text(encoding="utf-8"))
        kinds, head = content["available_node_types"], content["head_node_type"]
        left = int(content.get("max_workers", 0))
        may_grow = False
        found = Counter(_resources(kinds[head]))
        # The richest first: a limit on all workers together leaves the choice to the autoscaler.
        workers = sorted((k for name, k in kinds.items() if name != head), key=_richness, reverse=True)
        for kind in workers:
            count = min(left, int(kind.get("max_workers", 0)))
            left -= count
            may_grow |= count > 0 and not kind.get("resources")
            found.update({name: count * value for name, value in _resources(kind).items()})
        return {name: float(value) for name, value in found.items()}, may_grow or on_kubernetes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}, on_kubernetes  # another Ray, or a file that somebody has edited: what is there now counts


def _resources(kind: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(kind.get("resources", {}).get(name, 0)) for name in ("CPU", "GPU")}


def _richness(kind: Mapping[str, Any]) -> tuple[float, float]:
    resources = _resources(kind)
    return resources["GPU"], resources["CPU"]


def _require_answer(address: str) -> None:
    """Ray itself tries a dead address for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray looks for itself
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise RemixStudyError(
            f"a Ray must answer at RAY_ADDRESS={address}, but does not ({error.strerror or error}). Start it "
            "(`ray start --head`), mend the address, or unset RAY_ADDRESS to run on a Ray of our own."
        ) from error
