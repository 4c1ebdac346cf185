"""Discrete-event simulation: a clock that jumps between events, and first-come, first-served queues

The duration of a job is known when it arrives, and therefore also its end. Waiting in a queue needs no event.
"""

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Then = Callable[[], None]


class Clock:
    """Virtual time in seconds. Events at the same time run in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._scheduled = 0
        self._stopped = False

    def at(self, when: float, then: Then) -> None:
        """Schedule `then` at the time `when`."""
        assert when >= self.now, f"the time of an event must be at least {self.now} (now), but is {when}"
        self._scheduled += 1
        heapq.heappush(self._events, (when, self._scheduled, then))

    def after(self, seconds: float, then: Then) -> None:
        """Schedule `then` in `seconds`."""
        self.at(self.now + seconds, then)

    def run(self) -> None:
        """Run events until none is left or `stop` is called."""
        while self._events and not self._stopped:
            self.now, _, then = heapq.heappop(self._events)
            then()

    def stop(self) -> None:
        """End `run` after the current event."""
        self._stopped = True


class Station:
    """A first-come, first-served queue with one or more servers.

    Args:
        servers: number of jobs that are served at once.
        stretch_s: length of the intervals for which utilisation is recorded, in seconds.
    """

    def __init__(self, clock: Clock, servers: int = 1, stretch_s: float = 600.0) -> None:
        self._clock, self.servers, self._stretch_s = clock, servers, stretch_s
        self._free = [0.0] * servers  # when each server is free: a heap
        self._busy: dict[int, float] = {}
        self.served = 0
        self.busy_s = self.waited_s = 0.0

    @property
    def backlog_s(self) -> float:
        """Seconds that a job arriving now would wait."""
        return max(0.0, self._free[0] - self._clock.now)

    def serve(self, seconds: float) -> float:
        """Add a job that takes `seconds` of a server, and return when it ends."""
        now = self._clock.now
        begin = max(now, self._free[0])
        end = begin + seconds
        heapq.heapreplace(self._free, end)
        self.served += 1
        self.waited_s += begin - now
        self.busy(begin, end)
        return end

    def busy(self, begin: float, end: float) -> None:
        """Record that a server is busy from `begin` to `end`, in addition to the jobs of `serve`."""
        self.busy_s += end - begin
        first, last = int(begin // self._stretch_s), int(end // self._stretch_s)
        if first == last:
            self._busy[first] = self._busy.get(first, 0.0) + end - begin
            return
        for number in range(first, last + 1):
            inside = min(end, (number + 1) * self._stretch_s) - max(begin, number * self._stretch_s)
            self._busy[number] = self._busy.get(number, 0.0) + inside

    def utilisation(self, end: float) -> NDArray[np.float64]:
        """Return the busy share of the servers' time for each interval until `end`; the last may be shorter."""
        stretches = int(np.ceil(end / self._stretch_s - 1e-9))  # an end on a border adds no interval
        busy = np.array([self._busy.get(number, 0.0) for number in range(stretches)])
        length = np.full(stretches, float(self._stretch_s))
        length[-1] = end - (stretches - 1) * self._stretch_s
        shares: NDArray[np.float64] = busy / (length * self.servers)
        return shares
