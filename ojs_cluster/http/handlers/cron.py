"""Register, read, change, delete and trigger cron jobs (spec: ojs-cron 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import msgspec

from ojs_cluster.core import raw_json
from ojs_cluster.core.cron.cron_job import CronDefinition, parse_cron, patch_cron
from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_cron, check_new_job, check_queues
from ojs_cluster.http.cursor_kinds import CRONS
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.http.shapes.crons import CronHistory, CronOccurrence, Outcome
from ojs_cluster.store.engine.args_validation import check_members
from ojs_cluster.store.features.cron import cron as store_cron
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import HISTORY_KEPT
from ojs_cluster.store.features.cron.firing import QUEUE_FULL, TENANT_LIMIT
from ojs_cluster.store.ground.off_loop import off_loop

_OUTCOMES: Mapping[str, tuple[Outcome, str]] = {
    "fire": ("triggered", "schedule"),
    "manual": ("triggered", "manual"),
    "error": ("failed", "unusable_job"),
}
"""Outcome and reason in a response, by the stored outcome of an occurrence."""
_DETAIL_NAMES: Mapping[Outcome, Literal["job_id", "active_job_id", "error"]] = {
    "triggered": "job_id",
    "skipped": "active_job_id",
    "failed": "error",
}
"""Name of the member with the job id or the error of an occurrence, by its outcome."""


async def list_crons(app: App, request: Request) -> Response:
    """List cron jobs.

    The response repeats the list under the names of the HTTP binding, the OpenAPI document, the
    cron document and the Ruby SDK.

    (spec: ojs-cron 8.2)
    """
    given = query.parameters(request.query)
    page = query.page(given, CRONS)
    enabled = query.boolean(given, "enabled") if given.get("enabled") else None
    records, total, last = await store_cron.list_crons(
        app.store,
        limit=page.limit,
        offset=page.offset,
        after=page.after,
        enabled=enabled,
        within=request.queues,
        tenant=request.tenant,
    )
    crons = replies.array(_json(cron) for cron in records)
    pagination = query.pagination(page, len(records), total, last)
    return Response(
        200,
        b'{"crons":%b,"cron_jobs":%b,"items":%b,"entries":%b,"count":%d,"total":%d,"pagination":%b}'
        % (crons, crons, crons, crons, len(records), total, replies.dumps(pagination)),
    )


async def register(app: App, request: Request) -> Response:
    """Store a cron job, or replace the cron job of the same name. Both return the status 201.

    (spec: ojs-cron 8.1)
    """
    if request.body:
        require_json(request)
    limits, tenant = app.settings.limits, request.tenant or ""
    parse = partial(parse_cron, request.body, limits=limits, tenant=tenant)
    definition = await off_loop(parse, len(request.body))
    queues = request.queues
    if queues is not None:
        check_new_job(queues, parse_job(definition.job, limits=limits))
    warnings = await _check_args(app, definition)
    check = partial(check_cron, request) if request.is_restricted else None
    cron, _ = await store_cron.register(app.store, definition, check)
    location = (("Location", f"/ojs/v1/cron/{cron.name}"),)
    return replies.with_warnings(_response(201, cron, headers=location), warnings)


async def _check_args(app: App, definition: CronDefinition) -> list[str]:
    """Validate the args of a cron job; return all warnings. Each occurrence validates them again.

    Raises:
        ArgsRefused: the args are refused.
    """
    if not app.store.schemas.validated:
        return list(definition.warnings)
    parse = partial(parse_job, definition.job, limits=app.settings.limits)
    job = await off_loop(parse, len(definition.job))
    return [*definition.warnings, *await check_members(app.store, job.type, job.body)]


async def get(app: App, _request: Request, name: str) -> Response:
    """Return a cron job.

    (spec: ojs-cron 8.3)
    """
    return _response(200, await store_cron.get(app.store, name))


async def change(app: App, request: Request, name: str) -> Response:
    """Change a cron job: replace its members by those that the body contains.

    (spec: ojs-cron 8)
    """
    if request.body:
        require_json(request)
    limits, queues, tenant = app.settings.limits, request.queues, request.tenant or ""

    warnings: tuple[str, ...] = ()

    def edit(old: CronDefinition) -> CronDefinition:
        nonlocal warnings
        if tenant and old.tenant != tenant:  # the name has been registered again since the check
            raise NotFound("cron job", name[:255])
        new = patch_cron(old, request.body, limits=limits, tenant=tenant)
        warnings = new.warnings
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
    return replies.with_warnings(_response(200, cron), warnings)


async def pause(app: App, _request: Request, name: str) -> Response:
    """Disable a cron job. The request body is ignored.

    (spec: ojs-cron 8.5)
    """
    return await _set_enabled(app, name, enabled=False)


async def resume(app: App, _request: Request, name: str) -> Response:
    """Enable a cron job. The request body is ignored.

    (spec: ojs-cron 8.5)
    """
    return await _set_enabled(app, name, enabled=True)


async def drop(app: App, _request: Request, name: str) -> Response:
    """Delete a cron job.

    (spec: ojs-cron 8.4)
    """
    cron = await store_cron.delete(app.store, name)
    return _response(200, cron, b',"deleted":true,"name":%b' % replies.quoted(name))


async def trigger(app: App, request: Request, name: str) -> Response:
    """Enqueue the job of a cron job now, whatever its schedule. The request body is ignored.

    If the job would duplicate a unique job, the status is 200 and the response has the existing
    job.

    (spec: ojs-cron 8)
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
    return msgspec.structs.replace(response, object_ids=lambda: {"job_id": job.id})


async def history(app: App, request: Request, name: str) -> Response:
    """Return the last occurrences of a cron job, newest first.

    ``executions`` has the same entries for the command line client. ``state`` is the outcome, and
    ``started_at`` the time at which the job was enqueued.

    (spec: ojs-cron 8)
    """
    limit = query.integer(query.parameters(request.query), "limit", 50, low=1, high=HISTORY_KEPT)
    items: list[CronOccurrence] = []
    for occurrence in await store_cron.history(app.store, name, limit):
        outcome, cause = _OUTCOMES.get(occurrence.outcome, ("skipped", "overlap_skip"))
        first_word = (occurrence.error or "").partition(":")[0]
        if first_word in (QUEUE_FULL, TENANT_LIMIT):
            cause = first_word
        shown: CronOccurrence = {
            "outcome": outcome,
            "reason": cause,
            "scheduled_time": replies.iso(occurrence.occurrence_ms),
            "actual_time": replies.iso(occurrence.at_ms),
            "state": outcome,
            "scheduled_at": replies.iso(occurrence.occurrence_ms),
        }
        if outcome == "triggered":
            shown["started_at"] = replies.iso(occurrence.at_ms)
        shown[_DETAIL_NAMES[outcome]] = occurrence.error or occurrence.job_id
        items.append(shown)
    return replies.json_response(
        200, CronHistory(name=name, history=items, items=items, executions=items, count=len(items))
    )


async def _set_enabled(app: App, name: str, *, enabled: bool) -> Response:
    cron = await store_cron.change(app.store, name, lambda old: replace(old, enabled=enabled))
    return _response(200, cron)


def _response(
    status: int,
    cron: CronRecord,
    extra: bytes = b"",
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """Return a response with a cron job in ``cron`` and ``cron_job``.

    Without ``extra`` the response also has the members of the cron job at the top level, which the
    command line client reads.
    """
    members = _members(cron)
    body = _object(members)
    del members[b"cron"]
    top_level = b"" if extra else b"," + _object(members)[1:-1]
    return Response(
        status, b'{"cron":%b,"cron_job":%b%b%b}' % (body, body, top_level, extra), headers
    )


def _json(cron: CronRecord) -> bytes:
    return _object(_members(cron))


def _object(members: Mapping[bytes, bytes]) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%b' % pair for pair in members.items())


def _members(cron: CronRecord) -> dict[bytes, bytes]:
    """Return the members of the JSON object of a cron job.

    Some values are repeated under the names of the HTTP binding, the OpenAPI document and the cron
    document. The members of the job are the bytes that the client sent.
    """
    definition = cron.definition
    job = _members_of_job(definition.job)
    expression = replies.quoted(definition.schedule.expression)
    return {
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
        b"type": replies.quoted(definition.type),
        b"args": bytes(job.get("args", b"[]")),
        b"options": bytes(job.get("options", b"{}")),
        b"meta": bytes(job.get("meta", b"{}")),
        b"queue": replies.quoted(definition.queue),
        b"job_template": definition.job if job else b"{}",
        b"next_run_at": _moment(cron.next_ms),
        b"last_run_at": _moment(cron.last_ms),
        b"run_count": b"%d" % cron.runs,
        b"created_at": _moment(cron.created_ms),
        b"updated_at": _moment(cron.updated_ms),
    }


def _members_of_job(job: bytes) -> Mapping[str, bytes]:
    """Return the members of a definition's job; none if it is damaged."""
    try:
        return raw_json.object_members(job) or {}
    except (msgspec.DecodeError, ValueError):
        return {}


def _moment(ms: int | None) -> bytes:
    return b"null" if ms is None else b'"%b"' % format_ms(ms)
