"""Connecting to the Ray cluster at RAY_ADDRESS, or starting a local Ray; the resources of either"""

import ipaddress
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
from remix_study.tracking.signals import restore_signal_handlers

_PATIENCE_S = 4.0
_log = logging.getLogger(__name__)


def join_or_start(**own: Any) -> bool:
    """Connect to the cluster at RAY_ADDRESS, or start a local Ray if it is not set. Do nothing if connected already.

    Args:
        own: arguments of `ray.init` for a local Ray.

    Returns:
        Whether this call started a local Ray.

    Raises:
        RemixStudyError: the cluster does not answer, or rejects the connection.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": _log.isEnabledFor(logging.INFO), "logging_level": logging.ERROR}
    if address is None:
        with (
            _hangups_kept_from_children(), _own_signal_handlers(), _loopback_variables(),
            ray_private.ports_on_loopback_only(),
        ):  # fmt: skip
            # "local": never a Ray that was started on this machine before; it lacks the custom resources in `own`.
            ray.init(address="local", include_dashboard=False, **quiet, **own)
        return True
    _require_answer(address)
    try:
        with _own_signal_handlers():
            ray.init(**quiet)
    except (ConnectionError, RuntimeError) as error:
        raise RemixStudyError(
            f"Cannot connect to Ray at RAY_ADDRESS={address}: {' '.join(str(error).split())[:200].rstrip('.')}. Set "
            "RAY_AUTH_MODE=token if it was started with a token, or unset RAY_ADDRESS to use a local Ray."
        ) from error
    return False


@contextmanager
def _hangups_kept_from_children() -> Iterator[None]:
    """Block SIGHUP, so that processes started in the block inherit the mask and survive a closed terminal.

    Ray does the same with SIGINT. A SIGHUP sent to this process meanwhile is delivered after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers of SIGINT and SIGTERM.

    `ray.init` replaces that of SIGTERM twice: in Python by one that ends the process, and in C++ by one that prints a
    stack trace.
    """
    try:
        with restore_signal_handlers():
            yield
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        signal.raise_signal(signal.SIGTERM)  # it arrived meanwhile: now our handler decides
        raise KeyboardInterrupt from None


@contextmanager
def _loopback_variables() -> Iterator[None]:
    """Let processes started in the block use the loopback interface for the connections between workers of a run.

    Gloo and NCCL would use the network interface of the host's name, or the first one.
    """
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    variables = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"} - os.environ.keys() if names else set()
    os.environ.update(dict.fromkeys(variables, names[0] if names else ""))
    try:
        yield
    finally:
        for variable in variables:
            del os.environ[variable]


def on_loopback() -> bool:
    """Return whether the connected Ray runs on this machine alone, as `join_or_start` starts it."""
    if not ray.is_initialized():
        return False
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's gap
    return ipaddress.ip_address(address).is_loopback


class RayResources(NamedTuple):
    """CPU cores and GPUs of the connected Ray cluster.

    Args:
        cpus: CPU cores of the nodes that exist.
        gpus: GPUs of the nodes that exist.
        max_cpus: CPU cores after the autoscaler has added all nodes that the cluster file allows.
        max_gpus: GPUs after that.
        machines: nodes that exist.
        may_grow: whether the autoscaler may add an unknown amount beyond the maxima.
    """

    cpus: float
    gpus: float
    max_cpus: float
    max_gpus: float
    machines: int
    may_grow: bool = False


def ray_resources() -> RayResources:
    """Return the current and the maximum resources of the connected cluster.

    Only the cluster file on the head node, where drivers run, says how many nodes the autoscaler may add. It does not
    list the resources of on-premise nodes, and does not exist on Kubernetes: then `may_grow` is True.
    """
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's gap
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    maximum, may_grow = cluster_file_resources(Path(ray_private.BOOTSTRAP_CONFIG).expanduser())
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's gap
    alive = sum(bool(node["Alive"]) for node in nodes)
    return RayResources(
        cpus, gpus, max(cpus, maximum.get("CPU", 0.0)), max(gpus, maximum.get("GPU", 0.0)), alive, may_grow
    )


def cluster_file_resources(file: Path) -> tuple[dict[str, float], bool]:
    """Return the resources of all nodes that a cluster file allows, and whether the cluster may grow beyond them.

    Args:
        file: for Ray's cluster launcher. If it is missing or invalid, the resources are empty.
    """
    on_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        kinds, head = content["available_node_types"], content["head_node_type"]
        left = int(content.get("max_workers", 0))
        may_grow = False
        found = Counter(_resources(kinds[head]))
        # The largest first: within the limit on all workers, the autoscaler may choose any node type.
        workers = sorted((k for name, k in kinds.items() if name != head), key=_size, reverse=True)
        for kind in workers:
            count = min(left, int(kind.get("max_workers", 0)))
            left -= count
            may_grow |= count > 0 and not kind.get("resources")
            found.update({name: count * value for name, value in _resources(kind).items()})
        return {name: float(value) for name, value in found.items()}, may_grow or on_kubernetes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}, on_kubernetes  # no cluster file, or not a valid one: only the existing nodes count


def _resources(kind: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(kind.get("resources", {}).get(name, 0)) for name in ("CPU", "GPU")}


def _size(kind: Mapping[str, Any]) -> tuple[float, float]:
    resources = _resources(kind)
    return resources["GPU"], resources["CPU"]


def _require_answer(address: str) -> None:
    """Raise at once if nothing listens at `address`; Ray itself retries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # such as "auto": Ray finds the address itself
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise RemixStudyError(
            f"Cannot connect to Ray at RAY_ADDRESS={address}: {error.strerror or error}. Start it with `ray start "
            "--head`, correct the address, or unset RAY_ADDRESS to use a local Ray."
        ) from error
