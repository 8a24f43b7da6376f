"""Read the events of jobs (spec: ojs-events 6.4)."""

from __future__ import annotations

from ojs_cluster.http import query, replies
from ojs_cluster.http.access.queue_scope import check_queues
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.operations.events import EventFilter, read_events


async def list_events(app: App, request: Request) -> Response:
    """List events, oldest first.

    ``GET /ojs/v1/events?types&queues&job_types&after&limit`` (spec: ojs-events 6.4)
    """
    given = query.parameters(request.query)
    named = query.names(given, "queues")
    check_queues(request.queues, named)
    wanted = EventFilter(
        types=query.names(given, "types"),
        queues=named,
        within=request.queues,
        job_types=query.names(given, "job_types"),
    )
    page = await read_events(
        app.store,
        wanted,
        after=given.get("after") or given.get("cursor") or None,
        limit=query.integer(given, "limit", 100, low=1, high=1000),
    )
    events = replies.array(page.events)
    body = b'{"events":%b,"items":%b,"cursor":%b,"has_more":%b,"gap":%b}' % (
        events,
        events,
        replies.dumps(page.cursor),
        b"true" if page.has_more else b"false",
        b"true" if page.gap else b"false",
    )
    return Response(200, body)
