"""Workers as an operator sees and directs them (spec: ojs-admin-api 9)."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.handlers.workers import now_ms, worker_json
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import listing
from ojs_cluster.store.jobs.listing import JobFilter
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.workers import workers as store_workers
from ojs_cluster.store.workers.workers import DesiredState, WorkerInfo

_MOST_JOBS = 100
_MOST_NAMED = 1000
_SHOWN_NAMES = 10
"""Workers that the audit names."""
_DIRECTIVES: dict[str, DesiredState] = {
    "quiet": "quiet",
    "terminate": "terminate",
    "running": "running",
    "resume": "running",
}


class DirectiveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to tell, and to whom: without ``worker_ids`` to every worker that is known."""

    directive: str
    worker_ids: list[str] | None = None
    confirm: Any = None


_decoder = msgspec.json.Decoder(DirectiveBody)


async def list_workers(app: App, request: Request) -> Response:
    """GET /ojs/v1/admin/workers?page&per_page, latest contact first.

    ``state`` is what a worker does or was told to do, whichever is stricter, or ``stale``.
    """
    page = query.numbered_page(query.parameters(request.query))
    found, _ = await store_workers.list_workers(app.store, limit=page.limit, offset=page.offset)
    counts, total = await store_workers.count_by_status(app.store)
    body = b'{"items":%b,"summary":%b,"pagination":%b}' % (
        replies.array(_worker(app, worker) for worker in found),
        replies.dumps({"total": total, **counts}),
        replies.dumps(query.pages(page, len(found), total)),
    )
    return Response(200, body)


async def get(app: App, _request: Request, worker_id: str) -> Response:
    """GET /ojs/v1/admin/workers/{id}: with the jobs it holds, of those that one page looks at.

    ``jobs_complete`` is false when there were more active jobs than that.
    """
    worker = await store_workers.get(app.store, _name(worker_id))
    wanted = JobFilter(state=State.ACTIVE, worker=worker.id)
    page = await listing.list_jobs(app.store, wanted, limit=_MOST_JOBS)
    body = b'%b,"jobs":%b,"jobs_complete":%b}' % (
        _worker(app, worker)[:-1],
        replies.array(_held(job) for job in page.jobs),
        replies.dumps(page.next_cursor is None),
    )
    return Response(200, body)


async def quiet(app: App, _request: Request, worker_id: str) -> Response:
    """POST /ojs/v1/admin/workers/{id}/quiet: it fetches no more, and finishes what it has.

    Fetch knows it at once, the worker at its next heartbeat. A directive ``resume`` takes it back.
    """
    name = _name(worker_id)
    state = await store_workers.send_directive(app.store, name, "quiet")
    return replies.json_response(
        200, {"id": name, "worker_id": name, "state": state, "directive": "quiet"}
    )


async def direct(app: App, request: Request) -> Response:
    """POST /ojs/v1/admin/workers/directive: quiet, terminate, or resume.

    ``left`` is above 0 when there were too many workers for one request; repeat it.
    """
    body = decode(_decoder, request, app.settings.limits)
    directive = _DIRECTIVES.get(body.directive)
    if directive is None:
        known = ", ".join(_DIRECTIVES)
        raise InvalidRequest(f"directive must be one of {known}", field="directive")
    if body.worker_ids is None:
        if directive == "terminate" and body.confirm is not True:
            raise InvalidRequest(
                "this terminates every worker: name some in worker_ids, or send confirm: true",
                field="confirm",
            )
        told, left = await store_workers.send_directive_to_all(app.store, directive)
        return _told(body.directive, "all workers", told, left=left)
    if len(body.worker_ids) > _MOST_NAMED:
        raise InvalidRequest(f"name at most {_MOST_NAMED} workers", field="worker_ids")
    unknown: list[str] = []
    names = dict.fromkeys(body.worker_ids)

    async def tell(name: str) -> None:
        try:
            await store_workers.send_directive(app.store, _name(name), directive)
        except (InvalidRequest, NotFound):
            unknown.append(name)

    await over_shards(names, tell)
    shown = " ".join(islice(names, _SHOWN_NAMES))
    return _told(body.directive, shown, len(names) - len(unknown), not_found=unknown)


def _told(directive: str, whom: str, told: int, **more: Any) -> Response:
    answer = {"directive": directive, "affected_workers": told, **more}
    return replies.json_response(200, answer, about=f"{directive}: {whom}")


def _name(worker_id: str) -> str:
    return fields.worker_id(worker_id) or worker_id


def _worker(app: App, worker: WorkerInfo) -> bytes:
    return worker_json(app, worker, worker.status(app.store, now_ms()))


def _held(job: JobRecord) -> bytes:
    started = replies.iso(job.started_ms or job.created_ms).encode()
    return b'{%b,"started_at":"%b"}' % (replies.flat_job(job), started)
