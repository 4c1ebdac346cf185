"""Handlers of SIGINT, SIGTERM and SIGHUP; all of them change nothing outside Python's main thread"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived; handled as Ctrl-C is, with another exit status."""


def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    """A handler of SIGTERM: end as after Ctrl-C, so that child processes are ended and locks are released.

    Raises:
        Terminated: always.
    """
    raise Terminated


@contextmanager
def defer_stop_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM after the block; a second signal raises KeyboardInterrupt at once.

    Interrupting a database transaction would leave the database locked by this process, so that the run could not be
    recorded as KILLED.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    with restore_signal_handlers():
        for number in STOPS:
            signal.signal(number, note)
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def restore_signal_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM after the block.

    Ray Train leaves its SIGINT handler in place after `fit`. Ctrl-C would then call a controller that no longer exists.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def raise_on_termination(error: Callable[[int], BaseException]) -> Iterator[None]:
    """Raise `error(number)` on SIGTERM or SIGHUP in the block, so that child processes can be ended.

    A signal that is ignored already stays ignored, such as SIGHUP under nohup.
    """

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        raise error(number)

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    with signal_handlers(dict.fromkeys(heard, leave)):
        yield


@contextmanager
def signal_handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Install `handlers` for the block, and restore the former ones after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # the terminal is closed: further SIGHUPs stay ignored
            signal.signal(number, signal.SIG_DFL if old is None else old)
