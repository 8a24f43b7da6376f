"""Virtual time: runs events in order. Times are in microseconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Engine:
    """A clock that jumps from one event to the next.

    Events at the same time run in the order in which they were planned. So a run depends only on
    its random numbers.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        self._planned: list[tuple[float, int, Action]] = []
        self._order = count()

    def at(self, moment: float, action: Action) -> None:
        """Plan ``action`` for ``moment``, which must not be in the past."""
        if moment < self.now:
            raise ValueError(f"{moment} us is over: it is {self.now} us")
        heapq.heappush(self._planned, (moment, next(self._order), action))

    def run(self, until: float) -> None:
        """Run the events up to ``until``, which is the time afterwards."""
        while self._planned and self._planned[0][0] <= until:
            self.now, _, action = heapq.heappop(self._planned)
            self.happened += 1
            action()
        self.now = max(self.now, until)
