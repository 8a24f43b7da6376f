"""Return the errors of failed attempts in groups."""

from __future__ import annotations

from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.cursor_kinds import ERRORS
from ojs_cluster.http.handlers.bulk.bodies import older_than_ms
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.queues import ErrorGroups, ShownErrorGroup
from ojs_cluster.store.features.error_groups import error_groups
from ojs_cluster.store.features.error_groups.error_groups import ErrorGroup
from ojs_cluster.store.ground import listed

_MAX_QUEUES = 20
"""Maximum number of queues in the response for a group: those with the most failures."""


async def list_errors(app: App, request: Request) -> Response:
    """List groups of errors by type and normalised message, latest failure first.

    ``since`` is a time, or an age such as ``1h``: it leaves out groups without a later failure.
    A group that fails between two requests goes to the front. If no page has shown it, read the
    list again from its start.
    """
    given = query.parameters(request.query)
    queue = check_queue(given["queue"], field="queue") if given.get("queue") else None
    if queue is not None:
        check_queues(request.queues, [queue])
    since_ms = older_than_ms(given.get("since") or None, app.store.clock.now_ms(), field="since")
    page = query.page(given, ERRORS)
    found = await error_groups.read_error_groups(app.store, queue=queue, within=request.queues)
    if since_ms is not None:
        found = [group for group in found if group.last_ms >= since_ms]
    after = page.after
    shown, follows = listed.cut(
        found,
        error_groups.order_of,
        limit=page.limit,
        offset=page.offset,
        after=None if after is None else (-int(after[0]), *after[1:]),
    )
    last = (shown[-1].last_ms, shown[-1].job_id) if follows else None
    pages = query.pagination(page, len(shown), len(found), last)
    members = ErrorGroups(
        items=[_shown(group) for group in shown], total=len(found), pagination=pages
    )
    return replies.json_response(200, members)


def _shown(group: ErrorGroup) -> ShownErrorGroup:
    queues = sorted(group.queues.items(), key=lambda item: (-item[1], item[0]))
    return {
        "type": group.type,
        "message": group.message,
        "count": group.count,
        "first_at": replies.iso(group.first_ms),
        "last_at": replies.iso(group.last_ms),
        "job_id": group.job_id,
        "queues": [{"name": name, "count": count} for name, count in queues[:_MAX_QUEUES]],
    }
