"""The first page: how many jobs there are, what is wrong, and what happened over time."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.ui.problems import find_problems
from ojs_cluster.ui.visit import Answer, Page, Visit

RANGES: Final = {
    "1h": ("1m", "1 hour", 1),
    "6h": ("5m", "6 hours", 5),
    "24h": ("5m", "24 hours", 5),
    "7d": ("1h", "7 days", 60),
    "30d": ("1d", "30 days", 1440),
}
"""The time spans of the charts: period of a point, label, and minutes of a period."""
_RATES: Final = ("enqueued", "completed", "failed", "discarded")
_TIMES: Final = ("latency_p50_ms", "latency_p95_ms", "duration_p50_ms", "duration_p95_ms")
TILES: Final = (
    State.AVAILABLE,
    State.ACTIVE,
    State.SCHEDULED,
    State.RETRYABLE,
    State.DISCARDED,
    State.COMPLETED,
)


async def show(visit: Visit) -> Answer:
    """Show the overview."""
    stats = orjson.loads(await visit.shared("admin", "stats"))
    chosen = visit.query.get("range", "1h")
    chosen = chosen if chosen in RANGES else "1h"
    points: list[dict[str, Any]] | None = None
    if visit.sees_cluster and "hx-request" not in visit.head.headers:
        points = await series(visit, chosen)
    return Page(
        "overview.html",
        {
            "stats": stats,
            "tiles": [state.value for state in TILES],
            "problems": await find_problems(visit, stats),
            "ranges": RANGES,
            "range": chosen,
            "points": points,
        },
    )


async def series(visit: Visit, chosen: str, queue: str | None = None) -> list[dict[str, Any]]:
    """Return the points of a time span, the oldest first, with rates per minute.

    Args:
        visit: the request.
        chosen: a key of ``RANGES``.
        queue: a queue; None for the whole cluster.
    """
    period, _, minutes = RANGES[chosen]
    raw = await visit.shared("admin", "stats", "history", period=period, since=chosen, queue=queue)
    return [
        {
            "at": point["timestamp"],
            **{name: round(point[name] / minutes, 2) for name in _RATES},
            **{name: point[name] for name in _TIMES},
            "depth": point["depth"],
        }
        for point in orjson.loads(raw)["data"]
    ]
