"""The job types of the last hour, and one type over time."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.store.statistics.job_counts import WIDTH
from ojs_cluster.store.statistics.type_minutes import MAX_TYPES, list_types
from ojs_cluster.ui.drawings.histogram import histogram
from ojs_cluster.ui.pages.overview import points_of
from ojs_cluster.ui.pages.shared.marks import may_mark, read_marks
from ojs_cluster.ui.visit import Answer, Page, Visit

RANGES: Final = {"2h": ("1m", "2 hours"), "24h": ("1h", "24 hours"), "72h": ("1h", "3 days")}
"""The time spans of one type: period of a point, and label."""
_SPAN_MINUTES: Final = 60
_KEPT_S: Final = 10.0
"""Maximum age of the list in seconds. Processes write their counts every 15 seconds."""
_MAX_SHOWN: Final = 500


async def show_all(visit: Visit) -> Answer:
    """List the types with jobs in the last hour, those with most jobs first."""
    if not visit.sees_cluster:
        return _hidden(visit)
    visit.app.access.count_request(visit.principal)
    listed = orjson.loads(await visit.snapshots.get("types", lambda: _read(visit), _KEPT_S))
    return Page(
        "types.html",
        {
            "types": listed["types"][:_MAX_SHOWN],
            "hidden": max(0, len(listed["types"]) - _MAX_SHOWN),
            "unread": listed["unread"],
            "max_types": MAX_TYPES,
        },
    )


async def show_one(visit: Visit, name: str) -> Answer:
    """Show one type over time, and how long its jobs ran."""
    if not visit.sees_cluster:
        return _hidden(visit)
    chosen = visit.query.get("range", "2h")
    chosen = chosen if chosen in RANGES else "2h"
    context: dict[str, Any] = {"name": name, "ranges": RANGES, "range": chosen}
    context |= {"points": None, "rows": [], "marks": [], "may_mark": may_mark(visit)}
    if not visit.is_refresh:
        known = await visit.shared_or_last(
            *("admin", "stats", "history"), period=RANGES[chosen][0], since=chosen, type=name
        )
        if known is not None:
            history = orjson.loads(known.value)
            context |= {"points": points_of(history), "rows": histogram(history["run_times"])}
        context["marks"] = await read_marks(visit, chosen)
    return Page("type.html", context)


async def _read(visit: Visit) -> bytes:
    types, unread = await list_types(visit.app.store, _SPAN_MINUTES, WIDTH)
    shown = [
        {
            "name": one.name,
            "enqueued": one.enqueued,
            "completed": one.completed,
            "discarded": one.discarded,
            "wait_p50_ms": one.wait_ms(0.5),
            "wait_p95_ms": one.wait_ms(0.95),
            "run_p50_ms": one.run_ms(0.5),
            "run_p95_ms": one.run_ms(0.95),
        }
        for one in types
    ]
    return orjson.dumps({"types": shown, "unread": unread})


def _hidden(visit: Visit) -> Page:
    context = {
        "what": "Your API key may not see the statistics by type",
        "why": f"The key '{visit.principal.name}' is for some queues only, and a type has jobs in "
        "any queues.",
        "hint": "Log in with a key for all queues.",
    }
    return Page("error.html", context, 403)
