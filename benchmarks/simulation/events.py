"""Discrete events: a clock that jumps from one to the next, and stations where work waits its turn

A station serves in the order of arrival, with so many servers. How long a piece of work takes is known when it comes,
so its end is, too: no event is needed to wait in a queue, however long it is.
"""

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Then = Callable[[], None]


class Clock:
    """Virtual seconds; events at the same time happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._asked = 0
        self._stopped = False

    def at(self, when: float, then: Then) -> None:
        assert when >= self.now, f"an event at {when} must not lie before {self.now}"
        self._asked += 1
        heapq.heappush(self._events, (when, self._asked, then))

    def after(self, seconds: float, then: Then) -> None:
        self.at(self.now + seconds, then)

    def run(self) -> None:
        """Until nothing is to come, or `stop`."""
        while self._events and not self._stopped:
            self.now, _, then = heapq.heappop(self._events)
            then()

    def stop(self) -> None:
        self._stopped = True


class Station:
    """`servers` of them work at once; `busy_s` per stretch of `stretch_s` seconds is kept for a curve over time."""

    def __init__(self, clock: Clock, servers: int = 1, stretch_s: float = 600.0) -> None:
        self._clock, self.servers, self._stretch_s = clock, servers, stretch_s
        self._free = [0.0] * servers  # when each server is free: a heap
        self._busy: dict[int, float] = {}
        self.served = 0
        self.busy_s = self.waited_s = 0.0

    @property
    def backlog_s(self) -> float:
        """How long a piece of work would wait that came now."""
        return max(0.0, self._free[0] - self._clock.now)

    def serve(self, seconds: float) -> float:
        """A piece of work of so many seconds comes; when it will be done."""
        now = self._clock.now
        begin = max(now, self._free[0])
        end = begin + seconds
        heapq.heapreplace(self._free, end)
        self.served += 1
        self.waited_s += begin - now
        self.busy(begin, end)
        return end

    def busy(self, begin: float, end: float) -> None:
        """One server was at work, with something that `serve` does not know of."""
        self.busy_s += end - begin
        first, last = int(begin // self._stretch_s), int(end // self._stretch_s)
        if first == last:
            self._busy[first] = self._busy.get(first, 0.0) + end - begin
            return
        for number in range(first, last + 1):
            inside = min(end, (number + 1) * self._stretch_s) - max(begin, number * self._stretch_s)
            self._busy[number] = self._busy.get(number, 0.0) + inside

    def utilisation(self, end: float) -> NDArray[np.float64]:
        """Of each stretch until `end`: which part of the servers' time was work; the last one may be shorter."""
        stretches = int(np.ceil(end / self._stretch_s - 1e-9))  # an end on the border opens no other
        busy = np.array([self._busy.get(number, 0.0) for number in range(stretches)])
        length = np.full(stretches, float(self._stretch_s))
        length[-1] = end - (stretches - 1) * self._stretch_s
        shares: NDArray[np.float64] = busy / (length * self.servers)
        return shares
