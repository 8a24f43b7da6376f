"""The first page: how many jobs there are, what is wrong, and what happened over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.operations.overview import QUEUES_TO_WAIT_FOR
from ojs_cluster.ui.languages.translate import later
from ojs_cluster.ui.pages.shared.marks import may_mark, read_marks
from ojs_cluster.ui.pages.shared.problems import MUTE_HOURS, may_mute
from ojs_cluster.ui.problems.find import Condition, find_problems, read_condition
from ojs_cluster.ui.snapshots import Aged
from ojs_cluster.ui.visit import Answer, Page, Visit

RANGES: Final = {
    "1h": ("1m", later("1 hour"), later("Statistics of the last 1 hour")),
    "6h": ("5m", later("6 hours"), later("Statistics of the last 6 hours")),
    "24h": ("5m", later("24 hours"), later("Statistics of the last 24 hours")),
    "7d": ("1h", later("7 days"), later("Statistics of the last 7 days")),
    "30d": ("1d", later("30 days"), later("Statistics of the last 30 days")),
}
"""The time spans of the charts: period of a point, label, and caption."""
_RATES: Final = ("enqueued", "completed", "failed", "discarded")
_TIMES: Final = ("latency_p50_ms", "latency_p95_ms", "duration_p50_ms", "duration_p95_ms")
_ZOOMS: Final = {"1m": 3 * 3600, "5m": 26 * 3600, "1h": 14 * 86_400, "1d": 10**10}
"""The periods of a point, and the length in seconds of the longest zoom that has them."""
_MAX_DIGITS: Final = 10
_DAY_S: Final = 86_400
_SHARED_S: Final = 1.0
"""Time in seconds for which open pages share what was read."""
TILES: Final = (
    State.AVAILABLE,
    State.ACTIVE,
    State.SCHEDULED,
    State.RETRYABLE,
    State.DISCARDED,
    State.COMPLETED,
)


async def show(visit: Visit) -> Answer:
    """Show the overview.

    The page also answers while masters are down: with the last known numbers, or without numbers.
    Open pages of users who see the whole cluster share it for a second.
    """
    chosen = visit.query.get("range", "1h")
    chosen = chosen if chosen in RANGES else "1h"
    zoom = zoom_of(visit.query, visit.clock.now_s())
    if zoom is not None:
        return await _read(visit, chosen, may_mute(visit), zoom)
    if not (visit.is_refresh and visit.sees_cluster):
        return await _read(visit, chosen, may_mute(visit))
    visit.app.access.count_request(visit.principal)
    shared = visit.as_any_viewer()
    mutes = may_mute(visit)
    name = f"overview {chosen} {mutes} {visit.language.code}"
    return await visit.pages.get(name, lambda: _read(shared, chosen, mutes), _SHARED_S)


@dataclass(frozen=True, slots=True)
class Zoom:
    """A part of the history that the user has chosen in a chart.

    Attributes:
        period: the period of a point.
        since: where it begins, as RFC 3339.
        until: where it ends.
    """

    period: str
    since: str
    until: str


def zoom_of(query: Mapping[str, str], now_s: float) -> Zoom | None:
    """Return the part of the history that an address names by Unix seconds; None for none.

    Statistics by the minute reach back a day.
    """
    given = [query.get(name, "") for name in ("from", "to")]
    if not all(each.isascii() and each.isdigit() and len(each) <= _MAX_DIGITS for each in given):
        return None
    begin_s, end_s = map(int, given)
    if begin_s >= end_s:
        return None
    is_old = now_s - begin_s > _DAY_S
    fitting = [name for name, most_s in _ZOOMS.items() if end_s - begin_s <= most_s]
    period = next(name for name in fitting if name not in ("1m", "5m") or not is_old)
    return Zoom(period, *(format_ms(each * 1000).decode() for each in (begin_s, end_s)))


async def _read(visit: Visit, chosen: str, mutes: bool, zoom: Zoom | None = None) -> Page:
    """Read what the page shows.

    Args:
        visit: the request.
        chosen: the time span of the history.
        mutes: whether the user may mute problems.
        zoom: a part of the history, which replaces the time span.
    """
    known: Aged[bytes] | None = None
    condition: Condition | None = None
    points: list[dict[str, Any]] | None = None
    marks: list[dict[str, Any]] = []

    async def read_stats() -> None:
        nonlocal known
        known = await visit.shared_or_last("admin", "stats")

    async def read_problems() -> None:
        nonlocal condition
        condition = await read_condition(visit)

    async def read_history() -> None:
        nonlocal points, marks
        if visit.sees_cluster and not visit.is_refresh:
            points = await series(visit, chosen, zoom=zoom)
            marks = await read_marks(visit, "30d" if zoom else chosen) or []

    await run_concurrently([read_stats, read_problems, read_history], lambda read: read())
    stats = None if known is None else orjson.loads(known.value)
    problems = find_problems(visit, stats, condition)
    age_ms = 0 if known is None else known.age_s * 1000
    as_of = ""
    if stats is not None:
        # The fragment stays the same while what it shows does.
        del stats["uptime_seconds"]
        as_of = stats.pop("as_of", "")
        as_of = as_of if stats["queues_counted"] > QUEUES_TO_WAIT_FOR else ""
    return Page(
        "overview.html",
        {
            "stats": stats,
            "as_of": as_of,
            "age_ms": age_ms,
            "tiles": [state.value for state in TILES],
            "problems": problems,
            "may_mute": mutes,
            "mute_hours": MUTE_HOURS,
            "ranges": RANGES,
            "range": "" if zoom else chosen,
            "zoom": zoom,
            "points": points,
            "marks": marks,
            "may_mark": may_mark(visit),
        },
        # It shows how long ago a problem began.
        shows=None if problems or points else orjson.dumps([stats, as_of, age_ms, chosen]),
    )


async def series(
    visit: Visit, chosen: str, queue: str | None = None, zoom: Zoom | None = None
) -> list[dict[str, Any]] | None:
    """Return the points of a time span, the oldest first, with rates per minute.

    None stands for points that cannot be read, because a master is down.

    Args:
        visit: the request.
        chosen: a key of ``RANGES``, or an age that is shown by the minute.
        queue: a queue; None for the whole cluster.
        zoom: a part of the history, which replaces the time span.
    """
    period = RANGES[chosen][0] if chosen in RANGES else "1m"
    given = {"period": period, "since": chosen}
    if zoom is not None:
        given = {"period": zoom.period, "since": zoom.since, "until": zoom.until}
    known = await visit.shared_or_last("admin", "stats", "history", queue=queue, **given)
    return None if known is None else points_of(orjson.loads(known.value))


def points_of(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of a history of the API, the oldest first, with rates per minute.

    A point of a period that no scheduler has recorded has no numbers, and one in which no job
    started or ended has no times: charts have gaps there.
    """
    return [
        {
            "at": point["timestamp"],
            **{name: _per_minute(point, name) if is_known else None for name in _RATES},
            **{name: point[name] or None if is_known else None for name in _TIMES},
            "depth": point["depth"] if is_known else dict.fromkeys(point["depth"]),
        }
        for point in history["data"]
        for is_known in (point["recorded"],)
    ]


def _per_minute(point: dict[str, Any], name: str) -> float:
    """Return a number of a period per minute of the time that the statistics cover."""
    minutes: float = max(1, point["covered_seconds"] / 60)
    return round(point[name] / minutes, 2) if point[name] else 0.0
