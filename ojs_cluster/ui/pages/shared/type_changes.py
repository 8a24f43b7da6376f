"""Compare the failures and run times of all job types before and after a mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
        after: the numbers of what surely followed it, by type.
        not_before: those of the period of the mark and of all that followed.
        unread: number of shards that did not answer.
    """

    after: Mapping[str, TypeStatistics]
    not_before: Mapping[str, TypeStatistics]
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
        sums.append({one.name: one for one in found})
    return SinceMark(sums[0], sums[1], unread)


def change_of(one: TypeStatistics, since: SinceMark) -> dict[str, Any]:
    """Return the numbers of a type before and after a mark, as members of JSON.

    Args:
        one: the numbers of a time span that has the mark in it and ends now.
        since: what followed the mark.

    Returns:
        For ``before`` and ``after`` the number of completed jobs, of ended attempts, the part of
        them that failed, the number of discarded jobs, and the median and the 95th percentile of
        the run times in milliseconds, None without jobs. ``change`` is the change of the median in
        percent, and ``failed_change`` that of the part that failed in percentage points; None if
        one side has fewer than ``MIN_JOBS``.
    """
    not_before = since.not_before.get(one.name)
    before = one if not_before is None else one.without(not_before)
    old, new = _side(before), _side(since.after.get(one.name, one.without(one)))
    change = failed_change = None
    if min(old["jobs"], new["jobs"]) >= MIN_JOBS and old["p50_ms"]:
        change = round(100 * (new["p50_ms"] / old["p50_ms"] - 1))
    if min(old["attempts"], new["attempts"]) >= MIN_JOBS:
        failed_change = round(100 * (new["failed_share"] - old["failed_share"]))
    return {"before": old, "after": new, "change": change, "failed_change": failed_change}


def _side(one: TypeStatistics) -> dict[str, Any]:
    jobs = sum(one.run_counts)
    p50, p95 = (one.run_ms(part) if jobs else None for part in (0.5, 0.95))
    return {
        "jobs": jobs,
        "attempts": one.attempts,
        "failed_share": one.failed_share,
        "discarded": one.discarded,
        "p50_ms": p50,
        "p95_ms": p95,
    }
