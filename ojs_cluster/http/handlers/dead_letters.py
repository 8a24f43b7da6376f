"""Jobs that failed for good and are kept to be looked at (spec: ojs-dead-letter)."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.access.queue_scope import check_queues
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.jobs import list_found
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.dead_letters import dead_letters as store_dead
from ojs_cluster.store.jobs.listing import JobFilter


async def list_dead(app: App, request: Request) -> Response:
    """GET /ojs/v1/dead-letter?queue&limit&offset, newest first.

    A page may hold fewer than asked for while there are more; ``next_cursor`` says so. A key for
    some queues that names none gets them newest first in each shard, without a ``total``.
    """
    given = query.parameters(request.query)
    queue = check_queue(given["queue"], field="queue") if given.get("queue") else None
    if queue is not None:
        check_queues(request.queues, [queue])
    elif request.queues is not None:
        return await list_found(app, JobFilter(dead=True, within=request.queues), given, most=1000)
    page = query.page(given, most=1000)
    jobs, total = await store_dead.list_dead_letters(
        app.store, queue=queue, limit=page.limit, offset=page.offset
    )
    pages = replies.pagination(
        limit=page.limit,
        shown=len(jobs),
        offset=page.offset,
        total=total,
        cursor=query.next_cursor(page, len(jobs), total),
    )
    body = b'{"jobs":%b,"total":%d,"pagination":%b}' % (
        replies.jobs_array(jobs),
        total,
        replies.dumps(pages),
    )
    return Response(200, body)


async def stats(app: App, request: Request) -> Response:
    """GET /ojs/v1/dead-letter/stats

    ``by_type_counted`` is how many ``by_type`` counts: fewer than ``total`` when these are many.
    A key for some queues gets the numbers of those: of the first 1000 by name.
    """
    found = await store_dead.get_stats(app.store, request.queues)
    value: dict[str, Any] = {
        "total": found.total,
        "by_queue": dict(found.by_queue),
        "by_type": dict(found.by_type),
        "by_type_counted": sum(found.by_type.values()),
    }
    for name, at in (("oldest", found.oldest_ms), ("newest", found.newest_ms)):
        if at is not None:
            value[name] = replies.iso(at)
    return replies.json_response(200, value)


async def get(app: App, _request: Request, job_id: str) -> Response:
    """GET /ojs/v1/dead-letter/{id}"""
    return replies.job_response(200, await store_dead.get(app.store, fields.job_id(job_id)))


async def retry(app: App, _request: Request, job_id: str) -> Response:
    """POST /ojs/v1/dead-letter/{id}/retry. A body is ignored."""
    return replies.job_response(200, await store_dead.retry(app.store, fields.job_id(job_id)))


async def delete(app: App, _request: Request, job_id: str) -> Response:
    """DELETE /ojs/v1/dead-letter/{id}"""
    await store_dead.delete(app.store, fields.job_id(job_id))
    return replies.json_response(200, {"deleted": True, "job_id": job_id})
