"""Count requests per route, for all processes of a node together.

The processes of a node share one port, so a scrape reaches only one process, but must show the
counters of the whole node. So the processes share a memory area that has one part for each process.
A process counts in its own part, and the process that is scraped adds up all parts. The supervisor
owns the memory: a replacement process continues the counters of the process that was killed.
prometheus_client's multiprocess mode was refused: it needs files, which must be removed after their
processes end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ojs_cluster.http.routing.router import Route

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds. The last bucket has no upper bound."""
_STATUS_CLASSES: Final = 4  # 2xx to 5xx
_BUCKETS: Final = len(BOUNDS_S) + 1
_ROW_NUMBERS: Final = _STATUS_CLASSES + _BUCKETS + 1
"""Numbers of a route: responses by status class, responses by bucket, and the sum of all times."""
_LAST_NUMBER: Final = _ROW_NUMBERS - 1
_LAST_CLASS: Final = _STATUS_CLASSES - 1
_CLASS_OF: Final = tuple(max(0, status // 100 - 2) for status in range(600))
"""The class of each status, from 0 for 2xx. A table, because every response is counted."""
_NO_ROUTE: Final = ("", "")
"""The name of the row for requests without a route, which is the first row."""
_NUMBER_BYTES: Final = 8  # each number is a double
TrafficEvent = Literal["audit_written", "audit_dropped"]
"""An event that is counted besides responses: an entry of the audit."""
_EVENTS: Final[tuple[TrafficEvent, ...]] = get_args(TrafficEvent)


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """The responses of one route on a node.

    Attributes:
        method: the method of the route.
        template: the template of the route. Method and template are empty for the requests that
            have no route.
        statuses: number of responses by status class, "2xx" to "5xx".
        buckets: number of responses by time; the buckets are not cumulative.
        seconds: the sum of the times of all responses.
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
        process: the number of this process on its node, from 0. It decides which part of the memory
            the process uses.
    """

    def __init__(
        self, routes: Sequence[Route] = (), memory: memoryview | None = None, process: int = 0
    ) -> None:
        self._names = [_NO_ROUTE, *((route.method, route.template) for route in routes)]
        self._events_offset = len(self._names) * _ROW_NUMBERS
        self._part_length = self._events_offset + len(_EVENTS)
        if memory is None:
            memory = memoryview(bytearray(self.size(routes, process + 1)))
        self._numbers = memory.cast("d")
        self._part_start = process * self._part_length
        self._starts = {
            name: self._part_start + row * _ROW_NUMBERS for row, name in enumerate(self._names)
        }
        """Where the row of each route begins in ``_numbers``."""

    @staticmethod
    def size(routes: Sequence[Route], processes: int) -> int:
        """Return the bytes of memory that this number of processes needs."""
        return ((len(routes) + 1) * _ROW_NUMBERS + len(_EVENTS)) * _NUMBER_BYTES * processes

    def count(self, route: Route | None, status: int, seconds: float) -> None:
        """Count one response."""
        name = _NO_ROUTE if route is None else (route.method, route.template)
        start, numbers = self._starts.get(name, self._part_start), self._numbers
        numbers[start + (_CLASS_OF[status] if status < 600 else _LAST_CLASS)] += 1
        numbers[start + _STATUS_CLASSES + bisect_left(BOUNDS_S, seconds)] += 1
        numbers[start + _LAST_NUMBER] += seconds

    def add(self, event: TrafficEvent, count: int) -> None:
        """Count events of this process."""
        self._numbers[self._part_start + self._events_offset + _EVENTS.index(event)] += count

    def total(self, event: TrafficEvent) -> int:
        """Return how many events of this kind all processes of the node have counted."""
        first = self._events_offset + _EVENTS.index(event)
        return int(sum(self._numbers[first :: self._part_length]))

    def rows(self) -> Iterator[RouteCounts]:
        """Yield the counts of every route that was used on this node."""
        for row, (method, template) in enumerate(self._names):
            sums = [0.0] * _ROW_NUMBERS
            for start in range(row * _ROW_NUMBERS, len(self._numbers), self._part_length):
                counts = self._numbers[start : start + _ROW_NUMBERS]
                sums = [total + number for total, number in zip(sums, counts, strict=True)]
            statuses = {f"{n + 2}xx": int(sums[n]) for n in range(_STATUS_CLASSES) if sums[n]}
            if statuses:
                buckets = tuple(int(n) for n in sums[_STATUS_CLASSES:][:_BUCKETS])
                yield RouteCounts(method, template, statuses, buckets, sums[-1])
