"""Search, retry and delete dead letters as an operator (spec: ojs-admin-api 11).

``since`` and ``until`` are about the time at which a job became a dead letter
(spec: ojs-dead-letter 9.1).
"""

from __future__ import annotations

from dataclasses import replace

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.cursor_kinds import DEAD_LETTERS
from ojs_cluster.http.handlers.admin.jobs import listed, within
from ojs_cluster.http.handlers.jobs import filter_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.features.dead_letters import dead_letters as store_dead


async def list_dead(app: App, request: Request) -> Response:
    """List dead letters, newest first.

    With a filter other than ``queue``, the dead letters are listed shard by shard, and the newest
    come first within each shard.

    (spec: ojs-admin-api 11.1)
    """
    given = query.parameters(request.query)
    wanted = within(given, filter_of(given, request, app.store.clock.now_ms()))
    if wanted.state not in (None, State.DISCARDED):
        raise InvalidRequest("dead letters are discarded", field="state")
    wanted = replace(wanted, state=None, dead=True)
    if wanted != JobFilter(queue=wanted.queue, dead=True):
        return await listed(app, wanted, given)
    page = query.numbered_page(given, DEAD_LETTERS)
    dead_letters, total, last = await store_dead.list_dead_letters(
        app.store, queue=wanted.queue, limit=page.limit, offset=page.offset, after=page.after
    )
    pages = query.pagination(page, len(dead_letters), total, last)
    return Response(
        200,
        b'{"items":%b,"pagination":%b}' % (replies.jobs_array(dead_letters), replies.dumps(pages)),
    )


async def retry(app: App, request: Request, job_id: str) -> Response:
    """Make the job of a dead letter available again. The request body is ignored.

    (spec: ojs-admin-api 11.2)
    """
    cause = cause_of(app, request)
    return Response(200, (await store_dead.retry(app.store, fields.job_id(job_id), cause)).json())


async def delete(app: App, _request: Request, job_id: str) -> Response:
    """Delete a dead letter.

    (spec: ojs-admin-api 11)
    """
    await store_dead.delete(app.store, fields.job_id(job_id))
    return Response(204, b"")
