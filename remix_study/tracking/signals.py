"""Signals that end a process: when they act, and that they do so by an exception"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def defer_stop_signals() -> Iterator[None]:
    """SIGINT and SIGTERM act after the block; a second one acts at once.

    Inside a database transaction they would leave the database locked by this very process, and the run could then not
    be recorded as KILLED.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
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
    """The handlers of SIGINT and SIGTERM are put back after the block, whatever it set.

    Ray Train leaves its own SIGINT handler behind: after a fit of several workers, Ctrl-C in this process would ask a
    controller that is gone.
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
    """In the block, SIGTERM and a terminal that goes away raise `error(number)`: what was started here ends with us.

    Unless they are ignored already, as nohup has it. A signal is Python's main thread's: elsewhere nothing changes.
    """

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise error(number)

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    with signal_handlers(dict.fromkeys(heard, leave)):
        yield


@contextmanager
def signal_handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """In the block, in Python's main thread."""
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
                continue  # the terminal has gone, and does not come back
            signal.signal(number, signal.SIG_DFL if old is None else old)
