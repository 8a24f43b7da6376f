"""The list of queues, and one queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.handlers.admin.overview import queue_json
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.statistics.recent_minutes import recent_minutes
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics, QueueMetrics
from ojs_cluster.ui.drawings.sparkline import sparkline
from ojs_cluster.ui.formats import number
from ojs_cluster.ui.json_view import short_json
from ojs_cluster.ui.languages.translate import _, ngettext
from ojs_cluster.ui.pages.jobs import JobRow, decode_jobs, hide_in_rows
from ojs_cluster.ui.pages.overview import series
from ojs_cluster.ui.pages.queues.settings import FORMS, QueueForms, read_settings
from ojs_cluster.ui.pages.shared.marks import may_mark, read_marks
from ojs_cluster.ui.pages.workers import workers_of
from ojs_cluster.ui.serving import read_workers_by_queue
from ojs_cluster.ui.visit import Answer, Page, Visit
from ojs_cluster.ui.workers_by_queue import RECENT_MINUTES

_PER_PAGE: Final = 50
_NEWEST_JOBS: Final = 10
_MINUTES: Final = 60
"""Number of minutes that a sparkline shows."""
_SPARKLINES_KEPT_S: Final = 30.0
"""The statistics grow once per minute, so sparklines are kept longer than other replies."""


async def show_all(visit: Visit) -> Answer:
    """List queues: those with the oldest jobs first, or as the user has sorted and filtered them.

    The order and the filters are in the address. While a master does not answer, the list has the
    queues of the others, and names those that are missing.
    """
    page, metrics = visit.page, await _metrics(visit)
    filters = {name: visit.query.get(name, "").strip() for name in ("find", "state", "sort")}
    sort = filters["sort"] if filters["sort"] in SORTS else "worst"
    oldest = {name: queue.oldest_ms for name, queue in metrics.queues.items()}
    unread: list[str] = []
    first = (page - 1) * _PER_PAGE
    is_whole = metrics.registered is not None and len(metrics.queues) + len(metrics.unread) >= (
        metrics.registered
    )
    if is_whole:
        found = _sorted(metrics, filters["find"], filters["state"], sort)
        total, names = len(found), found[first : first + _PER_PAGE]
        queues, unread = await _read_rows(visit, names)
        unread += [name for name in metrics.unread if filters["find"] in name]
    else:
        # More queues than the metrics have, or their list cannot be read: by name.
        known = await visit.shared_or_last("admin", "queues", page=page, per_page=_PER_PAGE)
        listed = None if known is None else orjson.loads(known.value)
        queues = listed["items"] if listed else []
        total, sort = listed["pagination"]["total"] if listed else 0, ""
    by_queue = await read_workers_by_queue(visit)
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
            "total": total,
            "page": page,
            "has_more": first + _PER_PAGE < total,
            "oldest": oldest,
            "by_queue": by_queue,
            "unserved": unserved,
            "unread": unread,
            "is_unknown": metrics.registered is None,
            "filters": filters,
            "sort": sort,
            "sparklines": {name: sparkline(each) for name, each in minutes.items()},
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


SORTS: Final[Mapping[str, Callable[[str, QueueMetrics], Any]]] = {
    # Queues that wait come before those that fail, and both before those that only have jobs.
    "worst": lambda name, one: (-one.oldest_ms, -one.jobs[State.RETRYABLE], name),
    "name": lambda name, one: name,
    "available": lambda name, one: (-one.jobs[State.AVAILABLE], name),
    "active": lambda name, one: (-one.jobs[State.ACTIVE], name),
    "scheduled": lambda name, one: (-one.jobs[State.SCHEDULED], name),
    "retryable": lambda name, one: (-one.jobs[State.RETRYABLE], name),
    "discarded": lambda name, one: (-one.jobs[State.DISCARDED], name),
    "dead": lambda name, one: (-one.dead_letters, name),
}
"""The orders of the list. All but ``name`` begin with the highest number."""


def _sorted(metrics: ClusterMetrics, find: str, state: str, sort: str) -> list[str]:
    """Return the names of the queues that match the filters, in order."""
    has_state: Callable[[QueueMetrics], bool] = {
        "paused": lambda one: one.paused,
        "waiting": lambda one: one.jobs[State.AVAILABLE] > 0,
        "failing": lambda one: one.jobs[State.RETRYABLE] + one.dead_letters > 0,
    }.get(state, lambda one: True)
    found = {name: one for name, one in metrics.queues.items() if find in name and has_state(one)}
    return sorted(found, key=lambda name: SORTS[sort](name, found[name]))


async def _metrics(visit: Visit) -> ClusterMetrics:
    """Return the numbers of the queues that the user may see; of none if they cannot be read."""
    visit.app.access.count_request(visit.principal)
    try:
        metrics = await visit.app.cached_metrics.get()
    except OJSError:
        return ClusterMetrics({}, None)
    admitted = visit.principal.queues
    if admitted is None:
        return metrics
    queues = {name: one for name, one in metrics.queues.items() if admitted.admits(name)}
    unread = [name for name in metrics.unread if admitted.admits(name)]
    if metrics.registered is None:
        return replace(metrics, queues=queues, unread=unread)
    is_whole = len(metrics.queues) + len(metrics.unread) >= metrics.registered
    registered = len(queues) + len(unread) if is_whole else metrics.registered
    return replace(metrics, queues=queues, unread=unread, registered=registered)


async def _read_rows(
    visit: Visit, names: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the present numbers of queues, and the queues whose master does not answer."""
    store = visit.app.store

    async def read() -> bytes:
        rows: dict[str, Any] = {}

        async def read_one(name: str) -> None:
            try:
                stats = await get_stats(store, name)
            except BackendUnavailable:
                return
            rows[name] = None if stats.deleted else queue_json(stats)

        await run_concurrently(names, read_one)
        return orjson.dumps(rows)

    key = f"queue-rows {' '.join(names)}"
    if visit.follows_change:
        visit.snapshots.forget(key)
    rows = orjson.loads(await visit.snapshots.get(key, read))
    return [rows[name] for name in names if rows.get(name)], [n for n in names if n not in rows]


async def change_many(visit: Visit) -> Answer:
    """Pause or resume the chosen queues."""
    action = "pause" if visit.form.get("action") == "pause" else "resume"
    chosen = visit.chosen[:_PER_PAGE]
    for name in chosen:
        await visit.send("POST", "admin", "queues", name, action)
    count, shown = len(chosen), number(len(chosen))
    if action == "pause":
        note = ngettext(
            "%(number)s queue is paused. Active jobs run to their end.",
            "%(number)s queues are paused. Active jobs run to their end.",
            count,
            number=shown,
        )
    else:
        note = ngettext(
            "%(number)s queue runs again.", "%(number)s queues run again.", count, number=shown
        )
    return visit.back(note if count else _("No queue was chosen."), "queues")


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
    is_partial = visit.is_refresh
    tab = "settings" if forms is not None or visit.query.get("tab") == "settings" else ""
    points: list[dict[str, Any]] | None = None
    marks: list[dict[str, Any]] = []
    jobs: list[JobRow] = []
    if not tab:
        listed = await visit.get("admin", "jobs", queue=name, per_page=_NEWEST_JOBS)
        jobs = decode_jobs(listed).items
        await hide_in_rows(visit, jobs)
    if not is_partial and not tab:
        points = await series(visit, "1h", name)
        marks = await read_marks(visit, "1h") or []
    oldest = await _oldest(visit)
    may_write = visit.may_change(Scope.ADMIN_WRITE)
    may_purge = visit.may_change(Scope.ADMIN_PURGE)
    shown: QueueForms = {}
    if may_write and tab and not is_partial:
        shown = await read_settings(visit, name)
    return Page(
        "queues/queue.html",
        {
            "queue": queue,
            "tab": tab,
            "jobs": jobs,
            "args_of": lambda job: short_json(bytes(job.args)),
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
        queues = (await visit.app.cached_metrics.get()).queues
    except OJSError:
        return {}
    admitted = visit.principal.queues
    return {
        name: queue.oldest_ms
        for name, queue in queues.items()
        if admitted is None or admitted.admits(name)
    }
