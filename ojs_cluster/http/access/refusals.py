"""Count refused requests per source, so that a flood of them causes only a few audit entries.

The first refusal of a source becomes an entry at once. Further ones are counted, and become one
entry with their number at the end of the interval. The number of sources is bounded; the refusals
of all others are counted together. So the cost in memory, log lines and Redis calls does not depend
on the number of requests or addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

INTERVAL_S: Final = 60.0
"""How long the refusals of a source are counted before they become an entry, in seconds."""
MOST_SOURCES: Final = 50
"""Most sources of an interval that are counted separately."""

Fields = dict[str, Any]


class _OtherSources:
    """The key of all sources that are not counted separately."""


@dataclass(slots=True)
class _SourceCount:
    """The refusals of a source after its first one, which has an entry already."""

    ends_at: float
    fields: Fields
    count: int = 0


class RefusalCounter:
    """Counts the refusals of one kind in one process. Times are seconds of a monotonic clock."""

    def __init__(self, *, interval_s: float = INTERVAL_S, most_sources: int = MOST_SOURCES) -> None:
        """Create a counter without refusals.

        Args:
            interval_s: how long the refusals of a source are counted, in seconds.
            most_sources: most sources that are counted separately.
        """
        self._interval_s = interval_s
        self._most_sources = most_sources
        self._sources: dict[Hashable, _SourceCount] = {}

    def count(self, source: Hashable, fields: Fields, now: float) -> Fields | None:
        """Count a refusal.

        Args:
            source: the key of the refusals that are counted together.
            fields: the fields of the audit entry. In the entry of sources that are not counted
                separately, ``address`` and the other fields of a source are None.
            now: the time.

        Returns:
            The entry, if this is the first refusal of its source.
        """
        found = self._sources.get(source)
        if found is None and len(self._sources) >= self._most_sources:
            source, fields = _OtherSources, _without_source(fields)
            found = self._sources.get(source)
        if found is None:
            self._sources[source] = _SourceCount(now + self._interval_s, fields)
            return {**fields, "count": 1}
        found.count += 1
        found.fields = fields
        return None

    def pop_due(self, now: float) -> list[Fields]:
        """Return the entries of the intervals that have ended at ``now``, and remove those."""
        due = [key for key, source in self._sources.items() if source.ends_at <= now]
        ended = [self._sources.pop(key) for key in due]
        return [{**source.fields, "count": source.count} for source in ended if source.count]

    @property
    def next_due(self) -> float:
        """When the next interval ends; infinity without any."""
        return min((source.ends_at for source in self._sources.values()), default=inf)


def _without_source(fields: Fields) -> Fields:
    return {**fields, **dict.fromkeys(("address", "principal", "object", "request_id"))}
