"""Workers as the server knows them (contract: worker list, worker health)."""

from __future__ import annotations

import time
from typing import Final

import orjson

from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.workers import workers as store_workers


async def list_workers(app: App, request: Request) -> Response:
    """GET /ojs/v1/workers?limit&offset, latest contact first"""
    page = query.page(query.parameters(request.query), default=100, most=1000)
    workers, total = await store_workers.list_workers(
        app.store, limit=page.limit, offset=page.offset
    )
    pages = replies.pagination(
        limit=page.limit,
        shown=len(workers),
        offset=page.offset,
        total=total,
        cursor=query.next_cursor(page, len(workers), total),
    )
    body = b'{"workers":%b,"total":%d,"pagination":%b}' % (
        replies.array(worker_json(app, worker, worker.state) for worker in workers),
        total,
        replies.dumps(pages),
    )
    return Response(200, body)


async def health(app: App, _request: Request, worker_id: str) -> Response:
    """GET /ojs/v1/workers/{id}/health: 200 while it takes jobs, 503 when it drains or is silent."""
    worker = await store_workers.get(app.store, fields.worker_id(worker_id) or worker_id)
    stale = worker.stale(app.store, now_ms())
    state = "stale" if stale else _DRAINING.get(worker.state, worker.state)
    return Response(200 if state == "running" else 503, worker_json(app, worker, state))


# What a worker that takes no more jobs does, in the words of ojs-graceful-shutdown.
_DRAINING: Final = {"quiet": "draining", "terminate": "shutting_down"}


def now_ms() -> int:
    """This process's clock. What depends on it is an estimate for the reader: the scheduler decides
    by Redis's.
    """
    return time.time_ns() // 1_000_000


def worker_json(app: App, worker: store_workers.WorkerInfo, state: str) -> bytes:
    """A worker as clients are told of it."""
    name = replies.quoted(worker.id)
    seen = replies.iso(worker.last_heartbeat_ms or worker.last_seen_ms)
    # `info` is what the worker said of itself: a JSON object, spliced in as it came. The server's
    # own members come after it and win where a reader keeps the last of two.
    info = worker.info.strip()[1:-1].strip()
    own = info + b"," if info else b""
    known = orjson.dumps(
        {
            "state": state,
            "directive": worker.directive,
            "active_jobs": worker.active,
            "last_heartbeat": seen,
            "last_heartbeat_at": seen,
            "started_at": replies.iso(worker.first_seen_ms),
            "stale": worker.stale(app.store, now_ms()),
        }
    )
    return b'{%b"id":%b,"worker_id":%b,%b' % (own, name, name, known[1:])
