"""Cron jobs: register, look, change, delete, run, history (spec: ojs-cron 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec

from ojs_cluster.core import raw_json
from ojs_cluster.core.cron_job import CronDefinition, parse_cron, patch_cron
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import query, replies
from ojs_cluster.http.access.queue_scope import check_cron, check_new_job, check_queues
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import require_json
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.cron import cron as store_cron
from ojs_cluster.store.cron.cron_record import CronRecord
from ojs_cluster.store.cron.cron_store import HISTORY_KEPT
from ojs_cluster.store.cron.firing import QUEUE_FULL
from ojs_cluster.store.off_loop import off_loop

_OUTCOMES = {
    "fire": ("triggered", "schedule"),
    "hand": ("triggered", "manual"),
    "error": ("failed", "unusable_job"),
}
_DETAIL = {"triggered": "job_id", "skipped": "active_job_id", "failed": "error"}


async def list_crons(app: App, request: Request) -> Response:
    """GET /ojs/v1/cron?enabled&limit&offset, with the keys that each dialect reads."""
    given = query.parameters(request.query)
    page = query.page(given)
    enabled = query.boolean(given, "enabled") if given.get("enabled") else None
    found, total = await store_cron.list_crons(
        app.store, limit=page.limit, offset=page.offset, enabled=enabled, within=request.queues
    )
    crons = replies.array(_json(cron) for cron in found)
    pages = replies.pagination(
        limit=page.limit,
        shown=len(found),
        offset=page.offset,
        total=total,
        cursor=query.next_cursor(page, len(found), total),
    )
    return Response(
        200,
        b'{"crons":%b,"cron_jobs":%b,"items":%b,"count":%d,"total":%d,"pagination":%b}'
        % (crons, crons, crons, len(found), total, replies.dumps(pages)),
    )


async def register(app: App, request: Request) -> Response:
    """POST /ojs/v1/cron: 201, also when the name had another definition (spec: upsert by name)."""
    if request.body:
        require_json(request)
    read = partial(parse_cron, request.body, limits=app.settings.limits)
    definition = await off_loop(read, len(request.body))
    queues = request.queues
    if queues is None:
        cron, _ = await store_cron.register(app.store, definition)
    else:
        check_new_job(queues, parse_job(definition.job, limits=app.settings.limits))
        cron, _ = await store_cron.register(app.store, definition, partial(check_cron, queues))
    location = (("Location", f"/ojs/v1/cron/{cron.name}"),)
    return _response(201, cron, headers=location)


async def get(app: App, _request: Request, name: str) -> Response:
    """GET /ojs/v1/cron/{name}"""
    return _response(200, await store_cron.get(app.store, name))


async def change(app: App, request: Request, name: str) -> Response:
    """PATCH /ojs/v1/cron/{name}: any members of a registration."""
    if request.body:
        require_json(request)
    limits, queues = app.settings.limits, request.queues

    def edit(old: CronDefinition) -> CronDefinition:
        new = patch_cron(old, request.body, limits=limits)
        if queues is not None:
            check_queues(queues, [old.queue])
            check_new_job(queues, parse_job(new.job, limits=limits))
        return new

    cron = await store_cron.change(
        app.store,
        name,
        edit,
        size=len(request.body),
    )
    return _response(200, cron)


async def pause(app: App, _request: Request, name: str) -> Response:
    """POST /ojs/v1/cron/{name}/pause. A body is ignored."""
    return await _switch(app, name, on=False)


async def resume(app: App, _request: Request, name: str) -> Response:
    """POST /ojs/v1/cron/{name}/resume. A body is ignored."""
    return await _switch(app, name, on=True)


async def drop(app: App, _request: Request, name: str) -> Response:
    """DELETE /ojs/v1/cron/{name}"""
    cron = await store_cron.drop(app.store, name)
    return _response(200, cron, b',"deleted":true,"name":%b' % replies.quoted(name))


async def trigger(app: App, request: Request, name: str) -> Response:
    """POST /ojs/v1/cron/{name}/trigger: a job now, whatever the schedule. A body is ignored.

    200 with the job that is there already, where the job's uniqueness says so.
    """
    if request.queues is not None:
        definition = (await store_cron.get(app.store, name)).definition
        check_new_job(request.queues, parse_job(definition.job, limits=app.settings.limits))
    cron, job = await store_cron.trigger(app.store, name)
    extra = b',"job":%b,"job_id":"%b"' % (job.json(), job.id.encode())
    if job.deduplicated:
        response = _response(200, cron, extra + b',"deduplicated":true')
    else:
        response = _response(201, cron, extra, (("Location", f"/ojs/v1/jobs/{job.id}"),))
    return msgspec.structs.replace(response, made=lambda: {"job_id": job.id})


async def history(app: App, request: Request, name: str) -> Response:
    """GET /ojs/v1/cron/{name}/history?limit: the last occurrences, newest first."""
    limit = query.integer(query.parameters(request.query), "limit", 50, low=1, high=HISTORY_KEPT)
    past = []
    for tick in await store_cron.history(app.store, name, limit):
        outcome, cause = _OUTCOMES.get(tick.outcome, ("skipped", "overlap_skip"))
        if (tick.error or "").startswith(QUEUE_FULL):
            cause = QUEUE_FULL
        past.append(
            {
                "outcome": outcome,
                "reason": cause,
                "scheduled_time": replies.iso(tick.tick_ms),
                "actual_time": replies.iso(tick.at_ms),
                _DETAIL[outcome]: tick.error or tick.job_id,
            }
        )
    return replies.json_response(
        200, {"name": name, "history": past, "items": past, "count": len(past)}
    )


async def _switch(app: App, name: str, *, on: bool) -> Response:
    cron = await store_cron.change(app.store, name, lambda old: replace(old, enabled=on))
    return _response(200, cron)


def _response(
    status: int,
    cron: CronRecord,
    extra: bytes = b"",
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    shown = _json(cron)
    return Response(status, b'{"cron":%b,"cron_job":%b%b}' % (shown, shown, extra), headers)


def _json(cron: CronRecord) -> bytes:
    """A cron job in every dialect; the job's members are the client's bytes."""
    definition = cron.definition
    job = raw_json.object_members(definition.job) or {}
    expression = replies.quoted(definition.schedule.expression)
    members = {
        b"name": replies.quoted(cron.name),
        b"id": replies.quoted(cron.name),
        b"expression": expression,
        b"cron": expression,
        b"schedule": expression,
        b"timezone": replies.quoted(definition.schedule.timezone),
        b"overlap_policy": replies.quoted(definition.overlap),
        b"enabled": b"true" if definition.enabled else b"false",
        b"status": b'"active"' if definition.enabled else b'"paused"',
        b"description": definition.description,
        b"type": bytes(job["type"]),
        b"args": bytes(job["args"]),
        b"options": bytes(job.get("options", b"{}")),
        b"meta": bytes(job.get("meta", b"{}")),
        b"queue": replies.quoted(definition.queue),
        b"job_template": definition.job,
        b"next_run_at": _moment(cron.next_ms),
        b"last_run_at": _moment(cron.last_ms),
        b"run_count": b"%d" % cron.runs,
        b"created_at": _moment(cron.created_ms),
        b"updated_at": _moment(cron.updated_ms),
    }
    return b"{%b}" % b",".join(b'"%b":%b' % pair for pair in members.items())


def _moment(ms: int | None) -> bytes:
    return b"null" if ms is None else b'"%b"' % format_ms(ms)
