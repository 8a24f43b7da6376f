"""Refused requests, counted per source: a flood of them is a few audit entries.

The first refusal of a source is an entry at once. Further ones are counted, and become one entry
with their number when the interval is over. The number of sources is bounded; what comes from more
of them is counted together. So memory, log and Redis bear the same however many requests come, and
from however many addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

INTERVAL_S: Final = 60.0
"""For how long the refusals of a source are counted before they become an entry, in seconds."""
MOST_SOURCES: Final = 50
"""Sources that are counted apart in an interval."""

Fields = dict[str, Any]


class _Others:
    """The key of all sources that are not counted apart."""


@dataclass(slots=True)
class _Source:
    """Refusals since the first one, which has its entry."""

    ends_at: float
    fields: Fields
    count: int = 0


class Refusals:
    """The refusals of one kind in one process. Times are seconds of a monotonic clock."""

    def __init__(self, *, interval_s: float = INTERVAL_S, most_sources: int = MOST_SOURCES) -> None:
        """Begin without any."""
        self._interval_s = interval_s
        self._most_sources = most_sources
        self._sources: dict[Hashable, _Source] = {}

    def note(self, source: Hashable, fields: Fields, now: float) -> Fields | None:
        """Count a refusal; return its entry when it is the first one of its source.

        Args:
            source: what is counted together.
            fields: of the entry. ``address`` and what else tells sources apart is None in an entry
                of sources that are not counted apart.
            now: the time.
        """
        found = self._sources.get(source)
        if found is None and len(self._sources) >= self._most_sources:
            source, fields = _Others, _without_source(fields)
            found = self._sources.get(source)
        if found is None:
            self._sources[source] = _Source(now + self._interval_s, fields)
            return {**fields, "count": 1}
        found.count += 1
        found.fields = fields
        return None

    def take_due(self, now: float) -> list[Fields]:
        """Return the entries of the intervals that are over at ``now``, and forget those."""
        over = [key for key, source in self._sources.items() if source.ends_at <= now]
        ended = [self._sources.pop(key) for key in over]
        return [{**source.fields, "count": source.count} for source in ended if source.count]

    @property
    def next_due(self) -> float:
        """When the next interval is over; infinity without any."""
        return min((source.ends_at for source in self._sources.values()), default=inf)


def _without_source(fields: Fields) -> Fields:
    return {**fields, **dict.fromkeys(("address", "principal", "object", "request_id"))}
