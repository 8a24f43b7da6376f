"""Read the events of jobs (spec: ojs-events 6.4)."""

from __future__ import annotations

from collections.abc import Mapping

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.features.events.listing import (
    MAX_NUMBERED,
    EventFilter,
    read_events,
    read_newest,
)


async def list_events(app: App, request: Request) -> Response:
    """List events: oldest first from a cursor, or newest first by the number of the page.

    Without a cursor, the first page starts at the time ``since``.

    (spec: ojs-events 6.4)
    """
    given = query.parameters(request.query)
    queues = query.names(given, "queues")
    check_queues(request.queues, queues)
    wanted = EventFilter(
        types=next(filter(None, (query.names(given, name) for name in query.EVENT_TYPES)), ()),
        queues=queues,
        within=request.queues,
        tenant=request.tenant,
        job_types=query.names(given, "job_types"),
        since_ms=fields.absolute_time_ms(given.get("since") or None, field="since"),
    )
    after = given.get("after") or given.get("cursor")
    if not after and (given.get("page") or given.get("per_page")):
        return await _numbered_page(app, wanted, given)
    size = "limit" if given.get("limit") else "per_page"
    limit = query.integer(given, size, 100, low=1, high=1000)
    page = await read_events(app.store, wanted, after=after or None, limit=limit)
    events = replies.array(page.events)
    pages = replies.pagination(
        limit=limit, shown=len(page.events), cursor=page.cursor if page.has_more else None
    )
    body = b'{"events":%b,"items":%b,"cursor":%b,"has_more":%b,"gap":%b,"pagination":%b}' % (
        events,
        events,
        replies.dumps(page.cursor),
        b"true" if page.has_more else b"false",
        b"true" if page.gap else b"false",
        replies.dumps(pages),
    )
    return Response(200, body)


async def _numbered_page(app: App, wanted: EventFilter, given: Mapping[str, str]) -> Response:
    """Return a numbered page without a cursor, because new events shift the pages."""
    page = query.numbered_page(given, default=50, max_limit=1000)
    if page.offset + page.limit > MAX_NUMBERED:
        raise InvalidRequest(
            f"pages end at event {MAX_NUMBERED}: use the cursor for others", field="page"
        )
    events, count = await read_newest(app.store, wanted, limit=page.limit, offset=page.offset)
    total = min(count, MAX_NUMBERED)  # clients compute the number of pages from it
    shown = replies.array(events)
    pages = replies.pagination(limit=page.limit, shown=len(events), offset=page.offset, total=total)
    has_more = replies.dumps(pages["has_more"])
    body = b'{"events":%b,"items":%b,"has_more":%b,"pagination":%b}' % (
        *(shown, shown, has_more, replies.dumps(pages)),
    )
    return Response(200, body)
