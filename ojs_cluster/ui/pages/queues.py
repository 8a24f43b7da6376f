"""The list of queues, and one queue."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import OJSError
from ojs_cluster.ui.pages.overview import series
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50


async def show_all(visit: Visit) -> Answer:
    """List queues by name."""
    page = visit.page
    raw = await visit.shared("admin", "queues", page=page, per_page=_PER_PAGE)
    listed = orjson.loads(raw)
    return Page(
        "queues.html",
        {
            "queues": listed["items"],
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
            "oldest": await _oldest(visit),
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def show_one(visit: Visit, name: str) -> Answer:
    """Show one queue with its numbers, its configuration and its last hour."""
    queue = orjson.loads(await visit.get("admin", "queues", name))
    points: list[dict[str, Any]] | None = None
    if "hx-request" not in visit.head.headers:
        points = await series(visit, "1h", name)
    return Page(
        "queue.html",
        {
            "queue": queue,
            "points": points,
            "oldest": await _oldest(visit),
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def pause(visit: Visit, name: str) -> Answer:
    """Pause a queue."""
    await visit.send("POST", "admin", "queues", name, "pause")
    return visit.back(f"The queue {name} is paused. Active jobs run to their end.")


async def resume(visit: Visit, name: str) -> Answer:
    """Resume a queue."""
    await visit.send("POST", "admin", "queues", name, "resume")
    return visit.back(f"The queue {name} runs again.")


async def _oldest(visit: Visit) -> dict[str, int]:
    """Return the age of the oldest available job by queue, in milliseconds, if it is known."""
    try:
        queues = (await visit.app.cached_metrics.get()).queues
    except OJSError:
        return {}
    admitted = visit.principal.queues
    return {
        name: queue.oldest_ms
        for name, queue in queues.items()
        if admitted is None or admitted.admits(name)
    }
