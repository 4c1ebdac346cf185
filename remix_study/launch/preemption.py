"""The notice of a preemption: a node that Ray drains, SIGTERM, and Ray Train's own notice

Ray drains a node before its cloud, KubeRay or the autoscaler removes it. Ray Train tells the workers of a run, but
a run of one worker trains in its own process or in that of a Tune trial, so the process watches its node itself. A
process also hears SIGTERM, which Slurm and systemd send to every process before they kill it.
"""

import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

import ray

from remix_study import ray_private
from remix_study.patience import PATIENCE
from remix_study.tracking.signals import signal_handlers


@contextmanager
def preemption_notice(nodes: Collection[str] = ()) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether this process is about to be preempted; True from the first notice on.

    The notices are: SIGTERM, if the block runs in the main thread (a second SIGTERM raises SystemExit); Ray Train's, in
    a worker of it; and a draining node, if this process is connected to Ray.

    Args:
        nodes: ids of further Ray nodes that the run cannot do without.
    """
    noticed = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        if noticed.is_set():
            sys.exit(128 + number)
        noticed.set()

    with signal_handlers({signal.SIGTERM: hear}), _watched({*nodes, *_own_node()}, noticed):
        yield lambda: noticed.is_set() or ray_private.train_worker_is_preempted()


def node_is_draining() -> bool:
    """Return whether Ray drains the node of this process; False if the process is not connected to Ray."""
    return bool(ray_private.draining_nodes() & _own_node()) if ray.is_initialized() else False


def own_node() -> str:
    """Return the id of this process's Ray node. The process must be connected to Ray."""
    return str(ray.get_runtime_context().get_node_id())


def _own_node() -> set[str]:
    return {own_node()} if ray.is_initialized() else set()


@contextmanager
def _watched(nodes: set[str], noticed: threading.Event) -> Iterator[None]:
    """Set `noticed` when Ray drains one of `nodes`. A thread asks, because Ray's control store may not answer."""
    if not nodes:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not noticed.is_set():
            if ray_private.draining_nodes() & nodes:
                noticed.set()
            if over.wait(PATIENCE.preemption_poll_s):
                return

    thread = threading.Thread(target=watch, name="preemption", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
