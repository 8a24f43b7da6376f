"""Compare the run times of all job types before and after a mark, for the list of types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.histograms import RUN_BOUNDS_MS, quantile
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.type_hours import list_types_by_hour
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.type_minutes import (
    KEPT_MINUTES,
    TypeStatistics,
    list_types,
)
from ojs_cluster.ui.pages.shared.comparison import begin_after

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
MIN_JOBS: Final = 10
"""Minimum number of completed jobs on both sides of a mark: of fewer, a median says little."""


@dataclass(frozen=True, slots=True)
class SinceMark:
    """What followed a mark.

    Attributes:
        after: the run times of jobs that surely followed it, by type.
        not_before: those of the period of the mark and of all that followed.
        unread: number of shards that did not answer.
    """

    after: Mapping[str, Sequence[int]]
    not_before: Mapping[str, Sequence[int]]
    unread: int


async def read_since(store: Store, at_s: float, now_s: float) -> SinceMark:
    """Read what followed a mark: by the minute, or by the hour for a mark before the last two.

    The minute or the hour of the mark is on neither side. Nor is the minute after a mark that is
    less than ``FLUSH_S`` before it (see ``begin_after``).

    Args:
        store: the store.
        at_s: the time of the mark, in Unix seconds.
        now_s: the present time.
    """
    by_hour = at_s < now_s - (KEPT_MINUTES - 1) * _MINUTE_S
    period_s = _HOUR_S if by_hour else _MINUTE_S
    present = int(now_s // period_s)
    sums, unread = [], 0
    for first in (int(begin_after(at_s, period_s) // period_s), int(at_s // period_s)):
        # The numbers of hours are those of full hours, and those of minutes have the present one.
        # So nothing has followed yet a mark whose next hour is the present one.
        count = present - first + (not by_hour)
        found: list[TypeStatistics] = []
        if count > 0:
            read = list_types_by_hour if by_hour else list_types
            found, silent = await read(store, count, WIDTH)
            unread = max(unread, silent)
        sums.append({one.name: one.run_counts for one in found})
    return SinceMark(sums[0], sums[1], unread)


def change_of(one: TypeStatistics, since: SinceMark) -> dict[str, Any]:
    """Return the run times of a type before and after a mark, as members of JSON.

    Args:
        one: the numbers of a time span that has the mark in it and ends now.
        since: what followed the mark.

    Returns:
        For ``before`` and ``after`` the number of jobs, and the median and the 95th percentile in
        milliseconds, None without jobs. ``change`` is the change of the median in percent, None if
        one side has fewer than ``MIN_JOBS`` jobs.
    """
    nothing = [0] * len(one.run_counts)
    not_before = since.not_before.get(one.name, nothing)
    after = since.after.get(one.name, nothing)
    # The sums are read one after the other, so a part may be larger than the whole.
    before = [max(0, a - b) for a, b in zip(one.run_counts, not_before, strict=True)]
    old, new = _side(before), _side(after)
    change = None
    if min(old["jobs"], new["jobs"]) >= MIN_JOBS and old["p50_ms"]:
        change = round(100 * (new["p50_ms"] / old["p50_ms"] - 1))
    return {"before": old, "after": new, "change": change}


def _side(counts: Sequence[int]) -> dict[str, Any]:
    jobs = sum(counts)
    p50, p95 = (quantile(counts, RUN_BOUNDS_MS, part) if jobs else None for part in (0.5, 0.95))
    return {"jobs": jobs, "p50_ms": p50, "p95_ms": p95}
