"""A stop that waits for the line being sent

Ctrl-C or SIGTERM inside a database transaction would leave the database locked by this very process, and the run could
then not be recorded as KILLED.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """SIGINT and SIGTERM act after the block; a second one acts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    with handlers_kept():
        for number in STOPS:
            signal.signal(number, note)
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def handlers_kept() -> Iterator[None]:
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
