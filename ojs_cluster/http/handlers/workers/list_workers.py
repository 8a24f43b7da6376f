"""List workers and return their health."""

from __future__ import annotations

from typing import Final

import msgspec
import orjson

from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import WORKERS_BY_TIME
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.features.workers import lists
from ojs_cluster.store.features.workers import workers as store_workers


async def list_workers(app: App, request: Request) -> Response:
    """List workers, the most recently seen first."""
    page = query.page(query.parameters(request.query), WORKERS_BY_TIME, default=100, max_limit=1000)
    workers, total, last = await lists.list_workers(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    pagination = query.pagination(page, len(workers), total, last)
    body = b'{"workers":%b,"total":%d,"pagination":%b}' % (
        replies.array(worker_json(app, worker, worker.state) for worker in workers),
        total,
        replies.dumps(pagination),
    )
    return Response(200, body)


async def health(app: App, _request: Request, worker_id: str) -> Response:
    """Return the state of a worker: 200 if the worker takes jobs, 503 if it drains or is stale.

    (spec: ojs-graceful-shutdown)
    """
    worker = await store_workers.get(app.store, fields.worker_id(worker_id) or worker_id)
    stale = worker.stale(app.store, app.store.clock.now_ms())
    state = "stale" if stale else _DRAINING_STATES.get(worker.state, worker.state)
    return Response(200 if state == "running" else 503, worker_json(app, worker, state))


# The stored state of a worker that takes no more jobs, and its state in ojs-graceful-shutdown.
_DRAINING_STATES: Final = {"quiet": "draining", "terminate": "shutting_down"}


def worker_json(app: App, worker: store_workers.WorkerInfo, state: str) -> bytes:
    """Return the JSON object that describes a worker to clients."""
    name = replies.quoted(worker.id)
    seen = replies.iso(worker.last_heartbeat_ms or worker.last_seen_ms)
    # ``info`` is the JSON object by which the worker describes itself. Its bytes are inserted
    # unchanged. The server's members come after it, because most JSON parsers use the last one of
    # several members with the same name.
    info = worker.info.strip()[1:-1].strip()
    info_members = info + b"," if info else b""
    # The admin UI needs a list of queues. If the worker has not reported one, the list is empty.
    described = msgspec.json.decode(worker.info, type=dict[str, msgspec.Raw])
    has_queues = bytes(described.get("queues", b"")).startswith(b"[")
    server_members = orjson.dumps(
        {
            **({} if has_queues else {"queues": []}),
            "state": state,
            "directive": worker.directive,
            "active_jobs": worker.active,
            "last_heartbeat": seen,
            "last_heartbeat_at": seen,
            "started_at": replies.iso(worker.first_seen_ms),
            "stale": worker.stale(app.store, app.store.clock.now_ms()),
        }
    )
    return b'{%b"id":%b,"worker_id":%b,%b' % (info_members, name, name, server_members[1:])
