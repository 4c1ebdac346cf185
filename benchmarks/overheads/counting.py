"""CPU seconds of a thread, and the database statements and HTTP requests that it makes"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
import sqlalchemy as sa


def cpu_seconds(work: Callable[[], object], calls: int = 1) -> float:
    """Return the median CPU seconds of this thread over `calls` calls of `work`."""
    return statistics.median(_once(work) for _ in range(calls))


def _once(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


class Counter:
    """Number of database statements and HTTP requests of the thread that created the counter.

    Other threads are excluded, because a study's MLflow sender makes requests of its own.
    """

    def __init__(self) -> None:
        self.statements = self.requests = 0
        self._thread = threading.get_ident()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        self._send = requests.Session.send
        send = self._send

        def counting(session: requests.Session, *given: Any, **more: Any) -> requests.Response:
            self.requests += threading.get_ident() == self._thread
            return send(session, *given, **more)

        requests.Session.send = counting  # type: ignore[method-assign, assignment]  # requests has no global hook

    def _statement(self, *_: Any) -> None:
        self.statements += threading.get_ident() == self._thread

    def close(self) -> None:
        """Stop counting."""
        sa.event.remove(sa.Engine, "before_cursor_execute", self._statement)
        requests.Session.send = self._send  # type: ignore[method-assign]  # restores the original


@contextmanager
def count_calls() -> Iterator[Counter]:
    """Count the statements and requests that this thread makes inside the `with` block."""
    counter = Counter()
    try:
        yield counter
    finally:
        counter.close()
