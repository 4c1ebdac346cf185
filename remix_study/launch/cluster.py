"""Which Ray we run on: the one that RAY_ADDRESS names, or one of our own"""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

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
