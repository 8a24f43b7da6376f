"""Read workers and send directives to them as an operator (spec: ojs-admin-api 9)."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import WORKERS_BY_ID, WORKERS_BY_TIME
from ojs_cluster.http.handlers.workers.list_workers import worker_json
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.http.shapes.workers import DirectiveAnswer, WorkerDirective, WorkerRemoved
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search import lists
from ojs_cluster.store.features.workers import workers as store_workers
from ojs_cluster.store.features.workers.deregister import deregister as store_deregister
from ojs_cluster.store.features.workers.lists import list_by_name
from ojs_cluster.store.features.workers.lists import list_workers as list_workers_by_time
from ojs_cluster.store.features.workers.workers import DesiredState, WorkerInfo
from ojs_cluster.store.ground.fanout import run_concurrently

_MAX_JOBS = 100
"""Maximum number of jobs of a worker in a response."""
_MAX_NAMED = 1000
"""Maximum number of workers that a directive may name."""
_MAX_AUDITED_NAMES = 10
"""Maximum number of workers that an audit entry names."""
_ORDERS = {
    "last_seen": (list_workers_by_time, WORKERS_BY_TIME),
    "id": (list_by_name, WORKERS_BY_ID),
}
"""How to list workers and what the cursors name, by the order of the list."""
_DIRECTIVES: dict[str, DesiredState] = {
    "quiet": "quiet",
    "terminate": "terminate",
    "running": "running",
    "resume": "running",
}


class DirectiveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directive and its workers. Without ``worker_ids`` it is for every known worker."""

    directive: Annotated[str, keywords(enum=list(_DIRECTIVES))]
    worker_ids: Annotated[list[str], keywords(maxItems=_MAX_NAMED)] | None = None
    confirm: Annotated[Any, keywords(type=["boolean", "null"])] = None


_decoder = msgspec.json.Decoder(DirectiveBody)


async def list_workers(app: App, request: Request) -> Response:
    """List workers, the most recently seen first, or by their ids with ``sort=id``.

    ``state`` is ``stale`` for a stale worker. For any other worker it is the stricter of two: the
    state that the worker reports and the directive that it got.

    (spec: ojs-admin-api 9)
    """
    given = query.parameters(request.query)
    order = given.get("sort") or "last_seen"
    if order not in _ORDERS:
        raise InvalidRequest(f"sort must be one of {', '.join(_ORDERS)}", field="sort")
    list_in_order, kind = _ORDERS[order]
    page = query.numbered_page(given, kind)
    workers, _, last = await list_in_order(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    counts, total = await store_workers.count_by_status(app.store)
    body = b'{"items":%b,"summary":%b,"pagination":%b}' % (
        replies.array(_worker(app, worker) for worker in workers),
        replies.dumps({"total": total, **counts}),
        replies.dumps(query.pagination(page, len(workers), total, last)),
    )
    return Response(200, body)


async def get(app: App, _request: Request, worker_id: str) -> Response:
    """Return a worker and its active jobs.

    Only one page of the list of active jobs is searched. ``jobs_complete`` is false if other pages,
    which may have jobs of the worker, follow.

    (spec: ojs-admin-api 9)
    """
    worker = await store_workers.get(app.store, _name(worker_id))
    wanted = JobFilter(state=State.ACTIVE, worker=worker.id)
    page = await lists.list_jobs(app.store, wanted, limit=_MAX_JOBS)
    body = b'%b,"jobs":%b,"jobs_complete":%b}' % (
        _worker(app, worker)[:-1],
        replies.array(_active_job(job) for job in page.jobs),
        replies.dumps(page.next_cursor is None),
    )
    return Response(200, body)


async def quiet(app: App, _request: Request, worker_id: str) -> Response:
    """Tell a worker to finish its jobs and to fetch no other jobs.

    From now on the fetches of the worker return no jobs. The worker gets the directive in the
    response to its next heartbeat. The directive ``resume`` lets the worker fetch jobs again.

    (spec: ojs-admin-api 9)
    """
    checked_id = _name(worker_id)
    state = await store_workers.send_directive(app.store, checked_id, "quiet")
    return replies.json_response(
        200, WorkerDirective(id=checked_id, worker_id=checked_id, state=state, directive="quiet")
    )


async def deregister(app: App, _request: Request, worker_id: str) -> Response:
    """Remove a worker that has missed its heartbeats. Its active jobs become available again.

    (spec: ojs-admin-api 9.4)
    """
    checked_id = _name(worker_id)
    await store_deregister(app.store, checked_id)
    return replies.json_response(
        200, WorkerRemoved(id=checked_id, worker_id=checked_id, deregistered=True)
    )


async def direct(app: App, request: Request) -> Response:
    """Send a directive to workers: quiet, terminate, or resume.

    ``left`` is the number of workers that did not get the directive yet, because one request sends
    it to a limited number. The client repeats the request until ``left`` is 0.

    (spec: ojs-admin-api 9)
    """
    body = decode(_decoder, request, app.settings.limits)
    directive = _DIRECTIVES.get(body.directive)
    if directive is None:
        known = ", ".join(_DIRECTIVES)
        raise InvalidRequest(f"directive must be one of {known}", field="directive")
    if body.worker_ids is None:
        if directive == "terminate" and body.confirm is not True:
            raise InvalidRequest(
                "this request terminates every worker: name workers in worker_ids, or confirm by "
                "confirm: true",
                field="confirm",
            )
        affected, not_reached = await store_workers.send_directive_to_all(app.store, directive)
        sent = DirectiveAnswer(
            directive=body.directive, affected_workers=affected, left=not_reached
        )
        return replies.json_response(200, sent, audit_object=f"{body.directive}: all workers")
    if len(body.worker_ids) > _MAX_NAMED:
        raise InvalidRequest(f"name at most {_MAX_NAMED} workers", field="worker_ids")
    unknown: list[str] = []
    names = dict.fromkeys(body.worker_ids)

    async def send(name: str) -> None:
        try:
            await store_workers.send_directive(app.store, _name(name), directive)
        except (InvalidRequest, NotFound):
            unknown.append(name)

    await run_concurrently(names, send)
    audited = " ".join(islice(names, _MAX_AUDITED_NAMES))
    affected = len(names) - len(unknown)
    sent = DirectiveAnswer(directive=body.directive, affected_workers=affected, not_found=unknown)
    return replies.json_response(200, sent, audit_object=f"{body.directive}: {audited}")


def _name(worker_id: str) -> str:
    return fields.worker_id(worker_id) or worker_id


def _worker(app: App, worker: WorkerInfo) -> bytes:
    return worker_json(app, worker, worker.status(app.store, app.store.clock.now_ms()))


def _active_job(job: JobRecord) -> bytes:
    started = replies.iso(job.started_ms or job.created_ms).encode()
    return b'{%b,"started_at":"%b"}' % (replies.flat_job(job), started)
