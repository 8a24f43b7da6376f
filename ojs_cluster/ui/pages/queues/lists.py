"""The list of queues, and one queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import OJSError
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.statistics.recent_minutes import recent_minutes
from ojs_cluster.ui.drawings.sparkline import sparkline
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.overview import series
from ojs_cluster.ui.pages.queues.settings import FORMS, QueueForms, read_settings
from ojs_cluster.ui.pages.shared.marks import may_mark, read_marks
from ojs_cluster.ui.pages.workers import workers_of
from ojs_cluster.ui.serving import read_workers_by_queue
from ojs_cluster.ui.visit import Answer, Page, Visit
from ojs_cluster.ui.workers_by_queue import RECENT_MINUTES

_PER_PAGE: Final = 50
_MINUTES: Final = 60
"""Number of minutes that a sparkline shows."""
_SPARKLINES_KEPT_S: Final = 30.0
"""The statistics grow once per minute, so sparklines are kept longer than other replies."""


async def show_all(visit: Visit) -> Answer:
    """List queues by name."""
    page = visit.page
    raw = await visit.shared("admin", "queues", page=page, per_page=_PER_PAGE)
    listed = orjson.loads(raw)
    queues = listed["items"]
    oldest, by_queue = await _oldest(visit), await read_workers_by_queue(visit)
    minutes = await _minutes(visit, [queue["name"] for queue in queues])
    unserved = {
        queue["name"]
        for queue in queues
        if by_queue is not None
        and by_queue.lacks(queue, oldest.get(queue["name"], 0), _has_run(minutes, queue["name"]))
    }
    return Page(
        "queues/list.html",
        {
            "queues": queues,
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
            "oldest": oldest,
            "by_queue": by_queue,
            "unserved": unserved,
            "sparklines": {name: sparkline(each) for name, each in minutes.items()},
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def show_one(visit: Visit, name: str) -> Answer:
    """Show one queue with its numbers, its settings and its last hour."""
    return await queue_page(visit, name)


async def queue_page(
    visit: Visit, name: str, forms: QueueForms | None = None, status: int = 200
) -> Page:
    """Return the page of a queue.

    Args:
        visit: the request.
        name: the queue.
        forms: the forms that were sent and refused; None to show the settings of the queue.
        status: the status of the response.
    """
    queue = orjson.loads(await visit.get("admin", "queues", name))
    is_partial = "hx-request" in visit.head.headers
    points: list[dict[str, Any]] | None = None
    marks: list[dict[str, Any]] = []
    if not is_partial:
        points = await series(visit, "1h", name)
        marks = await read_marks(visit, "1h") or []
    oldest = await _oldest(visit)
    may_write = visit.may_change(Scope.ADMIN_WRITE)
    may_purge = visit.may_change(Scope.ADMIN_PURGE)
    shown: QueueForms = {}
    if may_write and not is_partial:
        shown = await read_settings(visit, name)
    return Page(
        "queues/queue.html",
        {
            "queue": queue,
            "points": points,
            "marks": marks,
            "may_mark": may_mark(visit),
            "oldest": oldest,
            "serving": await workers_of(visit, name),
            "is_unserved": await _is_unserved(visit, queue, oldest.get(name, 0)),
            "forms": {**FORMS, **shown, **(forms or {})},
            "refused": forms is not None,
            "may_write": may_write,
            "may_purge": may_purge,
        },
        status,
    )


async def pause(visit: Visit, name: str) -> Answer:
    """Pause a queue."""
    await visit.send("POST", "admin", "queues", name, "pause")
    return visit.back(_("The queue %(name)s is paused. Active jobs run to their end.", name=name))


async def resume(visit: Visit, name: str) -> Answer:
    """Resume a queue."""
    await visit.send("POST", "admin", "queues", name, "resume")
    return visit.back(_("The queue %(name)s runs again.", name=name))


async def _is_unserved(visit: Visit, queue: Mapping[str, Any], oldest_ms: int) -> bool:
    """Return whether the jobs of a queue wait because no worker fetches them.

    The queue is read once more only if it seems so.
    """
    by_queue = await read_workers_by_queue(visit)
    if by_queue is not None and by_queue.lacks(queue, oldest_ms, False):
        with suppress(OJSError):
            stats = await get_stats(visit.app.store, queue["name"])
            return not stats.has_run_since(RECENT_MINUTES)
    return False


def _has_run(minutes: Mapping[str, Sequence[Sequence[int]]], name: str) -> bool:
    """Return whether an attempt has ended lately in a queue, or may have, if it is not known."""
    return name not in minutes or any(map(any, minutes[name][-RECENT_MINUTES - 1 :]))


async def _minutes(visit: Visit, names: Sequence[str]) -> dict[str, list[list[int]]]:
    """Return what the listed queues did in the last hour; nothing while Redis does not answer.

    The names come from a list that the user may see, so all viewers of these queues can share it.
    """
    store = visit.app.store

    async def read() -> bytes:
        return orjson.dumps(
            await recent_minutes(store, names, _MINUTES, store.clock.now_ms() // 60_000)
        )

    try:
        shared = await visit.snapshots.get(
            f"sparklines {' '.join(names)}", read, _SPARKLINES_KEPT_S
        )
    except OJSError:
        return {}
    minutes: dict[str, list[list[int]]] = orjson.loads(shared)
    return minutes


async def _oldest(visit: Visit) -> dict[str, int]:
    """Return the age of the oldest available job by queue, in milliseconds, if it is known."""
    try:
        queues = (await visit.app.brief_metrics.get()).queues
    except OJSError:
        return {}
    admitted = visit.principal.queues
    return {
        name: queue.oldest_ms
        for name, queue in queues.items()
        if admitted is None or admitted.admits(name)
    }
