"""List workers and return their health."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import orjson

from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.workers import workers as store_workers


async def list_workers(app: App, request: Request) -> Response:
    """List workers, latest contact first.

    ``GET /ojs/v1/workers?limit&offset``
    """
    page = query.page(query.parameters(request.query), default=100, most=1000)
    workers, total = await store_workers.list_workers(
        app.store, limit=page.limit, offset=page.offset
    )
    pages = query.pagination(page, len(workers), total)
    body = b'{"workers":%b,"total":%d,"pagination":%b}' % (
        replies.array(worker_json(app, worker, worker.state) for worker in workers),
        total,
        replies.dumps(pages),
    )
    return Response(200, body)


async def health(app: App, _request: Request, worker_id: str) -> Response:
    """Return the state of a worker: 200 if it takes jobs, 503 if it drains or is stale.

    ``GET /ojs/v1/workers/{id}/health`` (spec: ojs-graceful-shutdown)
    """
    worker = await store_workers.get(app.store, fields.worker_id(worker_id) or worker_id)
    stale = worker.stale(app.store, now_ms())
    state = "stale" if stale else _DRAINING_STATES.get(worker.state, worker.state)
    return Response(200 if state == "running" else 503, worker_json(app, worker, state))


# State of the server -> state in ojs-graceful-shutdown, for a worker that takes no more jobs.
_DRAINING_STATES: Final = {"quiet": "draining", "terminate": "shutting_down"}


def now_ms() -> int:
    """Return the time of this process in milliseconds, for display only.

    The scheduler uses the time of Redis for its decisions.
    """
    return time.time_ns() // 1_000_000


def worker_json(app: App, worker: store_workers.WorkerInfo, state: str) -> bytes:
    """Return a worker as clients see it."""
    name = replies.quoted(worker.id)
    seen = replies.iso(worker.last_heartbeat_ms or worker.last_seen_ms)
    # ``info`` is the worker's own description, a JSON object whose bytes are inserted unchanged.
    # The server's members follow it: most readers use the last one of duplicate members.
    info = worker.info.strip()[1:-1].strip()
    own = info + b"," if info else b""
    # A worker that never sent a heartbeat, or one without a list of queues, has none to show.
    described = msgspec.json.decode(worker.info, type=dict[str, msgspec.Raw])
    listed = bytes(described.get("queues", b"")).startswith(b"[")
    known = orjson.dumps(
        {
            **({} if listed else {"queues": []}),
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
