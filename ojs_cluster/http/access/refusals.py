"""Count refused requests per source, so that a flood of them causes only a few audit entries.

The first refusal of a source becomes an entry at once. Further refusals of the source are counted,
and become one entry with their number at the end of an interval. Only a limited number of sources
is counted separately; the refusals of all other sources are counted together. So the cost in
memory, log lines and Redis calls does not grow with the number of requests or addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

INTERVAL_S: Final = 60.0
"""How long the refusals of a source are counted before they become an entry, in seconds."""
MAX_SOURCES: Final = 50
"""Maximum number of sources that are counted separately."""

Fields = dict[str, Any]


class _OtherSources:
    """Stands for all sources that are not counted separately."""


@dataclass(slots=True)
class _SourceCount:
    """The refusals of a source in an interval, except the first refusal."""

    ends_at: float
    fields: Fields
    count: int = 0


class RefusalCounter:
    """Counts the refusals of one kind in one process. Times are seconds of a monotonic clock."""

    def __init__(self, *, interval_s: float = INTERVAL_S, max_sources: int = MAX_SOURCES) -> None:
        """Create a counter without refusals.

        Args:
            interval_s: how long the refusals of a source are counted, in seconds.
            max_sources: maximum number of sources that are counted separately.
        """
        self._interval_s = interval_s
        self._max_sources = max_sources
        self._sources: dict[Hashable, _SourceCount] = {}

    def count(self, source: Hashable, fields: Fields, now: float) -> Fields | None:
        """Count a refusal.

        Args:
            source: identifies the source. Refusals with an equal source are counted together.
            fields: the fields of the audit entry. In an entry about several sources, the fields
                that differ between sources, such as ``address``, are None.
            now: the present time.

        Returns:
            The entry, if this is the first refusal of its source.
        """
        source_count = self._sources.get(source)
        if source_count is None and len(self._sources) >= self._max_sources:
            source, fields = _OtherSources, _without_source(fields)
            source_count = self._sources.get(source)
        if source_count is None:
            self._sources[source] = _SourceCount(now + self._interval_s, fields)
            return {**fields, "count": 1}
        source_count.count += 1
        source_count.fields = fields
        return None

    def pop_due(self, now: float) -> list[Fields]:
        """Remove the sources whose interval has ended at ``now``, and return their entries.

        A source without further refusals in its interval has no entry.
        """
        due = [source for source, counted in self._sources.items() if counted.ends_at <= now]
        ended = [self._sources.pop(source) for source in due]
        return [{**counted.fields, "count": counted.count} for counted in ended if counted.count]

    @property
    def next_due(self) -> float:
        """When the next interval ends; infinity if there is no interval."""
        return min((counted.ends_at for counted in self._sources.values()), default=inf)


def _without_source(fields: Fields) -> Fields:
    return {**fields, **dict.fromkeys(("address", "principal", "object", "request_id"))}
