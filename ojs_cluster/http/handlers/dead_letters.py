"""List, read, retry and delete dead letters (spec: ojs-dead-letter)."""

from __future__ import annotations

from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.cursor_kinds import DEAD_LETTERS
from ojs_cluster.http.handlers.jobs import list_matching
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.common import Deleted
from ojs_cluster.http.shapes.queues import DeadLetterCounts
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.features.dead_letters import dead_letters as store_dead


async def list_dead(app: App, request: Request) -> Response:
    """List dead letters, newest first.

    A page may have fewer entries than ``limit`` although other pages follow. If other pages follow,
    it has a ``next_cursor``. If the request is for one tenant, or if its API key is restricted to
    some queues and it names no queue, the order is newest first within each shard, and ``total`` is
    absent.

    (spec: ojs-http-binding 12.1)
    """
    given = query.parameters(request.query)
    queue = check_queue(given["queue"], field="queue") if given.get("queue") else None
    if queue is not None:
        check_queues(request.queues, [queue])
    if request.tenant is not None or (queue is None and request.queues is not None):
        wanted = JobFilter(
            dead=True,
            queue=queue,
            within=request.queues if queue is None else None,
            tenant=request.tenant,
        )
        return await list_matching(app, wanted, given, max_limit=1000)
    page = query.page(given, DEAD_LETTERS, max_limit=1000)
    jobs, total, last = await store_dead.list_dead_letters(
        app.store, queue=queue, limit=page.limit, offset=page.offset, after=page.after
    )
    pagination = query.pagination(page, len(jobs), total, last)
    body = b'{"jobs":%b,"total":%d,"pagination":%b}' % (
        replies.jobs_array(jobs),
        total,
        replies.dumps(pagination),
    )
    return Response(200, body)


async def stats(app: App, request: Request) -> Response:
    """Return the number of dead letters by queue and by type.

    ``by_type_counted`` is the sum of the numbers in ``by_type``. It is less than ``total`` if there
    are too many dead letters to read all their types. If the API key is restricted to some queues,
    the numbers are those of the first 1000 queues, by name, that it may access.

    (spec: ojs-dead-letter 10.1)
    """
    totals = await store_dead.get_stats(app.store, request.queues)
    value: DeadLetterCounts = {
        "total": totals.total,
        "by_queue": dict(totals.by_queue),
        "by_type": dict(totals.by_type),
        "by_type_counted": sum(totals.by_type.values()),
    }
    if totals.oldest_ms is not None:
        value["oldest"] = replies.iso(totals.oldest_ms)
    if totals.newest_ms is not None:
        value["newest"] = replies.iso(totals.newest_ms)
    return replies.json_response(200, value)


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return a dead letter.

    (spec: ojs-dead-letter 9.2)
    """
    return replies.job_response(200, await store_dead.get(app.store, fields.job_id(job_id)))


async def retry(app: App, request: Request, job_id: str) -> Response:
    """Make the job of a dead letter available again. The request body is ignored.

    (spec: ojs-http-binding 12.2)
    """
    cause = cause_of(app, request)
    job = await store_dead.retry(app.store, fields.job_id(job_id), cause)
    return replies.job_response(200, job)


async def delete(app: App, _request: Request, job_id: str) -> Response:
    """Delete a dead letter.

    (spec: ojs-http-binding 12.3)
    """
    await store_dead.delete(app.store, fields.job_id(job_id))
    return replies.json_response(200, Deleted(deleted=True, job_id=job_id))
