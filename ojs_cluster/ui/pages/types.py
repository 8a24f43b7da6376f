"""The job types of a time span, and one type over time."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final

import orjson

from ojs_cluster.store.features.statistics.type_hours import list_types_by_hour
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.type_minutes import MAX_TYPES, list_types
from ojs_cluster.ui.drawings.histogram import histogram
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.pages.overview import points_of
from ojs_cluster.ui.pages.shared.comparison import compare
from ojs_cluster.ui.pages.shared.marks import may_mark, read_marks
from ojs_cluster.ui.pages.shared.ordered import Sorts, by_number, order_of
from ojs_cluster.ui.pages.shared.type_changes import MIN_JOBS, change_of, read_since
from ojs_cluster.ui.visit import Answer, Page, Visit

RANGES: Final = {
    "2h": ("1m", later("2 hours")),
    "24h": ("1h", later("24 hours")),
    "72h": ("1h", later("3 days")),
}
"""The time spans of one type: period of a point, and label."""
SPANS: Final = {"1h": later("1 hour"), "24h": later("24 hours"), "72h": later("3 days")}
"""The time spans of the list, with their labels."""
_HOURS: Final = {"24h": 24, "72h": 72}
"""The spans that are sums of full hours, and of the minutes since then."""
_KEPT_S: Final = 10.0
"""Maximum age of the list in seconds. Processes write their counts every 15 seconds."""
_KEPT_BY_HOUR_S: Final = 60.0
"""Maximum age in seconds of a list of many hours, which has more records to sum."""
_MAX_SHOWN: Final = 500
_SORTS: Final[Sorts] = {
    "name": lambda one: one["name"],
    **{
        name: by_number(name)
        for name in (
            *("enqueued", "attempts", "completed", "failed", "failed_share", "discarded"),
            *("wait_p50_ms", "wait_p95_ms", "run_p50_ms", "run_p95_ms"),
        )
    },
}
_SORTS_WITH_MARK: Final[Sorts] = {
    **{name: key for name, key in _SORTS.items() if not name.startswith(("run", "discarded"))},
    "failed_share": lambda one: -(one["failed_change"] or 0),
    "change": lambda one: inf if one["change"] is None else -one["change"],
}
"""The columns of a comparison, of which some have two numbers."""


async def show_all(visit: Visit) -> Answer:
    """List the types with jobs in the chosen time span, those with most jobs first."""
    if not visit.sees_cluster:
        return _hidden(visit)
    chosen = visit.query.get("range", "1h")
    chosen = chosen if chosen in SPANS else "1h"
    marks = await read_marks(visit, chosen) or []  # counts as a request of the user
    wanted = visit.query.get("mark", "")
    mark = next((each for each in marks if each["id"] == wanted), None)
    # A comparison reads three times as much.
    kept_s = _KEPT_BY_HOUR_S if chosen in _HOURS or mark else _KEPT_S
    name = f"types {chosen} {mark['id'] if mark else ''}"
    shared = await visit.snapshots.get(name, lambda: _read(visit, chosen, mark), kept_s)
    listed = orjson.loads(shared)
    sorts = _SORTS_WITH_MARK if mark else _SORTS
    order = order_of(visit, "types", sorts, ("find", "mark"), {"range": chosen})
    types = order.sorted(one for one in listed["types"] if order.finds(one["name"]))
    return Page(
        "types.html",
        {
            "ranges": {key: _(label) for key, label in SPANS.items()},
            "range": chosen,
            "range_of_type": chosen if chosen in RANGES else "",
            "types": types[:_MAX_SHOWN],
            "order": order,
            "marks": marks,
            "mark": mark,
            "min_jobs": MIN_JOBS,
            "hidden": max(0, len(types) - _MAX_SHOWN),
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
    ranges = {key: (period, _(label)) for key, (period, label) in RANGES.items()}
    context: dict[str, Any] = {"name": name, "ranges": ranges, "range": chosen}
    context |= {"points": None, "rows": [], "marks": [], "may_mark": may_mark(visit)}
    context |= {"mark": None, "comparison": None, "wanted": "", "is_unknown": False}
    if not visit.is_refresh:
        known = await visit.shared_or_last(
            *("admin", "stats", "history"), period=RANGES[chosen][0], since=chosen, type=name
        )
        if known is not None:
            history = orjson.loads(known.value)
            context |= {"points": points_of(history), "rows": histogram(history["run_times"])}
        marks = await read_marks(visit, chosen)
        context["marks"] = marks or []
        wanted = context["wanted"] = visit.query.get("mark", "")
        mark = next((each for each in marks or () if each["id"] == wanted), None)
        if mark is not None:
            comparison = await compare(visit, name, int(chosen.removesuffix("h")), mark)
            context |= {"mark": mark, "comparison": comparison}
        elif wanted:
            context["is_unknown"] = marks is not None
    return Page("type.html", context)


async def _read(visit: Visit, chosen: str, mark: Mapping[str, Any] | None) -> bytes:
    store = visit.app.store
    if chosen in _HOURS:
        types, unread = await list_types_by_hour(store, _HOURS[chosen], WIDTH)
    else:
        types, unread = await list_types(store, 60, WIDTH)
    since = None
    if mark is not None:
        since = await read_since(store, epoch_s(mark["at"]) or 0.0, store.clock.now_s())
        unread = max(unread, since.unread)
    shown = [
        {
            **({} if since is None else change_of(one, since)),
            "name": one.name,
            "enqueued": one.enqueued,
            "attempts": one.attempts,
            "completed": one.completed,
            "discarded": one.discarded,
            "failed": one.failed,
            "failed_share": one.failed_share,
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
        "what": _("Your API key may not see the statistics by type"),
        "why": _(
            "The key '%(name)s' is for some queues only, and a type has jobs in any queues.",
            name=visit.principal.name,
        ),
        "hint": _("Log in with a key for all queues."),
    }
    return Page("error.html", context, 403)
