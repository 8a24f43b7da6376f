"""Count requests per route, for all processes of a node together.

The processes of a node share one port, so a scrape reaches only one of them. Counters of a single
process would not show the node. So each process counts in its own part of a memory area that all of
them share, and the process that is scraped adds the parts up. The supervisor owns the memory: a
replacement process continues the counters of the process that was killed. prometheus_client's
multiprocess mode was refused: it needs files, which must be removed after their processes end.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ojs_cluster.http.router import Route

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
"""Upper bounds of the histogram's buckets; one more has none."""
_STATUS_CLASSES: Final = 4  # 2xx to 5xx
_BUCKETS: Final = len(BOUNDS_S) + 1
_ROW_NUMBERS: Final = _STATUS_CLASSES + _BUCKETS + 1  # the last one is the sum of all times
_NUMBER_BYTES: Final = 8  # a double, exact for whole numbers up to 2^53
TrafficEvent = Literal["audit_written", "audit_dropped"]
"""What is counted besides responses."""
_EVENTS: Final[tuple[TrafficEvent, ...]] = get_args(TrafficEvent)


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """The responses of one route on a node.

    Attributes:
        method: the method of the route.
        template: the template of the route; empty, as the method, for requests without a route.
        statuses: responses by class, "2xx" to "5xx".
        buckets: responses by time; the buckets are not cumulative.
        seconds: the sum of their times.
    """

    method: str
    template: str
    statuses: dict[str, int]
    buckets: tuple[int, ...]
    seconds: float


class Traffic:
    """The counters of a node, as one of its processes uses them.

    Args:
        routes: the route table; requests without a route count in a row of their own.
        memory: the shared memory, of the length that ``size`` returns; None for private memory.
        slot: the number of this process's part.
    """

    def __init__(
        self, routes: Sequence[Route] = (), memory: mmap.mmap | None = None, slot: int = 0
    ) -> None:
        self._names = [("", ""), *((route.method, route.template) for route in routes)]
        self._rows = {name: row for row, name in enumerate(self._names)}
        self._responses = len(self._names) * _ROW_NUMBERS
        self._part = self._responses + len(_EVENTS)
        shared = bytearray(self._part * _NUMBER_BYTES) if memory is None else memory
        self._numbers = memoryview(shared).cast("d")
        self._base = slot * self._part

    @staticmethod
    def size(routes: Sequence[Route], slots: int) -> int:
        """Return the bytes of memory that ``slots`` processes need."""
        return ((len(routes) + 1) * _ROW_NUMBERS + len(_EVENTS)) * _NUMBER_BYTES * slots

    def count(self, route: Route | None, status: int, seconds: float) -> None:
        """Count one response."""
        row = 0 if route is None else self._rows.get((route.method, route.template), 0)
        start, numbers = self._base + row * _ROW_NUMBERS, self._numbers
        of_class = status // 100 - 2
        if not 0 <= of_class < _STATUS_CLASSES:
            of_class = 0 if of_class < 0 else _STATUS_CLASSES - 1
        numbers[start + of_class] += 1
        numbers[start + _STATUS_CLASSES + bisect_left(BOUNDS_S, seconds)] += 1
        numbers[start + _ROW_NUMBERS - 1] += seconds

    def add(self, event: TrafficEvent, count: int) -> None:
        """Count events of this process."""
        self._numbers[self._base + self._responses + _EVENTS.index(event)] += count

    def total(self, event: TrafficEvent) -> int:
        """Return how many events of this kind the node has counted."""
        first = self._responses + _EVENTS.index(event)
        return int(sum(self._numbers[at] for at in range(first, len(self._numbers), self._part)))

    def rows(self) -> Iterator[RouteCounts]:
        """Yield the counts of every route that was used on this node."""
        for row, (method, template) in enumerate(self._names):
            sums = [0.0] * _ROW_NUMBERS
            for start in range(row * _ROW_NUMBERS, len(self._numbers), self._part):
                part = self._numbers[start : start + _ROW_NUMBERS]
                sums = [total + number for total, number in zip(sums, part, strict=True)]
            statuses = {f"{n + 2}xx": int(sums[n]) for n in range(_STATUS_CLASSES) if sums[n]}
            if statuses:
                buckets = tuple(int(n) for n in sums[_STATUS_CLASSES:][:_BUCKETS])
                yield RouteCounts(method, template, statuses, buckets, sums[-1])
