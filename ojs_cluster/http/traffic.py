"""Requests counted per route, over all processes of a node.

The processes of a node share one port, so a scrape reaches any one of them, and mostly the same.
Counters of a process would each be right and together be of no use. So each process counts in its
own part of a piece of memory that all of them see, and whichever is asked adds the parts up. The
memory is the supervisor's: a process that is replaced goes on counting where the one before it was
killed. prometheus_client's multiprocess mode does the same with files that must be cleaned up, of
processes that are gone too.
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
_CLASSES: Final = 4  # 2xx to 5xx
_BUCKETS: Final = len(BOUNDS_S) + 1
_ROW: Final = _CLASSES + _BUCKETS + 1  # and the sum of all times
_NUMBER: Final = 8  # bytes: numbers are doubles, whole ones exact up to 2^53
Event = Literal["audit_written", "audit_dropped"]
"""What is counted beside responses."""
_EVENTS: Final[tuple[Event, ...]] = get_args(Event)


@dataclass(frozen=True, slots=True)
class Row:
    """What a node knows of one route.

    ``statuses`` counts responses by class, "2xx" to "5xx". ``buckets`` counts them by time, each
    bucket alone; ``seconds`` is the sum.
    """

    method: str
    template: str
    statuses: dict[str, int]
    buckets: tuple[int, ...]
    seconds: float


class Traffic:
    """A process's view of its node's counters.

    Args:
        routes: the table; what it does not hold is counted as one row of its own.
        memory: of the length that `size` says, shared by all; the process's own when it is None.
        slot: which part is this process's.
    """

    def __init__(
        self, routes: Sequence[Route] = (), memory: mmap.mmap | None = None, slot: int = 0
    ) -> None:
        self._names = [("", ""), *((route.method, route.template) for route in routes)]
        self._rows = {name: row for row, name in enumerate(self._names)}
        self._responses = len(self._names) * _ROW
        self._part = self._responses + len(_EVENTS)
        shared = bytearray(self._part * _NUMBER) if memory is None else memory
        self._numbers = memoryview(shared).cast("d")
        self._base = slot * self._part

    @staticmethod
    def size(routes: Sequence[Route], slots: int) -> int:
        """Bytes of memory that ``slots`` processes need."""
        return ((len(routes) + 1) * _ROW + len(_EVENTS)) * _NUMBER * slots

    def count(self, route: Route | None, status: int, seconds: float) -> None:
        """Count one response."""
        row = 0 if route is None else self._rows.get((route.method, route.template), 0)
        at, numbers = self._base + row * _ROW, self._numbers
        numbers[at + min(max(status // 100, 2), 5) - 2] += 1
        numbers[at + _CLASSES + bisect_left(BOUNDS_S, seconds)] += 1
        numbers[at + _ROW - 1] += seconds

    def add(self, event: Event, count: int) -> None:
        """Count events of this process."""
        self._numbers[self._base + self._responses + _EVENTS.index(event)] += count

    def total(self, event: Event) -> int:
        """Return how many such events this node has counted."""
        first = self._responses + _EVENTS.index(event)
        return int(sum(self._numbers[at] for at in range(first, len(self._numbers), self._part)))

    def rows(self) -> Iterator[Row]:
        """Give every route that was used on this node."""
        for row, (method, template) in enumerate(self._names):
            sums = [0.0] * _ROW
            for base in range(row * _ROW, len(self._numbers), self._part):
                sums = [a + b for a, b in zip(sums, self._numbers[base : base + _ROW], strict=True)]
            statuses = {f"{n + 2}xx": int(sums[n]) for n in range(_CLASSES) if sums[n]}
            if statuses:
                buckets = tuple(int(n) for n in sums[_CLASSES : _CLASSES + _BUCKETS])
                yield Row(method, template, statuses, buckets, sums[-1])
