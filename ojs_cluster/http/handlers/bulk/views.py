"""Cancel, retry, delete or purge many jobs in one request.

The specification and the clients define these endpoints.
A request with a filter creates a bulk operation and runs it for up to ten seconds.
If that is not enough, the response is 202, and the scheduler continues the operation. A request
with ids changes its jobs at once, and returns a result for each of them.

The responses have the members of both documents: ojs-bulk-operations and ojs-admin-api.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound, OJSError, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of, principal_of
from ojs_cluster.http.authorization.queue_scope import access_errors
from ojs_cluster.http.handlers.bulk.bodies import (
    FilterBody,
    is_unconditional,
    job_ids_of,
    older_than_ms,
    require_confirmation,
    searched_ids,
    selection_of,
)
from ojs_cluster.http.handlers.bulk.operations import audit_text, new_operation_id
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.bulk import BulkItem, BulkResult, Changed, ChangedCounts, PurgeCounts
from ojs_cluster.http.shapes.common import JobId, QueueName
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.features.bulk.by_ids import change_jobs
from ojs_cluster.store.features.bulk.execution import run_for
from ojs_cluster.store.features.bulk_records import operations as store_bulk
from ojs_cluster.store.features.bulk_records.operation import BulkOperation
from ojs_cluster.store.ground.partial_failures import after_first_write

_RUN_S: Final = 10.0
"""Time in seconds after which a request leaves the rest of its operation to the scheduler."""
_CHANGED: Final[Mapping[BulkAction, Changed]] = {
    BulkAction.CANCEL: "cancelled",
    BulkAction.RETRY: "retried",
    BulkAction.DELETE: "deleted",
    BulkAction.PURGE: "purged",
}
"""Name of the member that counts the changed jobs, which is also the status of a changed job."""
_SPECIFIED_STATES: Final = {BulkAction.CANCEL: [State.AVAILABLE.value, State.SCHEDULED.value]}
"""States of a filter that names no state, outside the admin API (spec: ojs-bulk-operations 6.1)."""


class BulkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request about many jobs: a filter or ids. ``ids`` means ``job_ids``."""

    job_ids: list[JobId] | None = None
    ids: list[JobId] | None = None
    filter: FilterBody | None = None
    atomicity: Annotated[str, keywords(enum=["partial"])] = "partial"
    confirm: Annotated[Any, keywords(type=["boolean", "null"])] = None


class PurgeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that removes jobs of a queue, or dead letters."""

    states: list[str] | None = None
    queue: QueueName | None = None
    type: str | None = None
    older_than: str | None = None
    confirm: Annotated[Any, keywords(type=["boolean", "null"])] = None


_decoder = msgspec.json.Decoder(BulkBody)
_purge_decoder = msgspec.json.Decoder(PurgeBody)


async def cancel_jobs(app: App, request: Request) -> Response:
    """Cancel the jobs that the body names.

    (spec: ojs-bulk-operations 6)
    """
    return await _change(app, request, BulkAction.CANCEL)


async def retry_jobs(app: App, request: Request) -> Response:
    """Retry the discarded jobs that the body names.

    (spec: ojs-bulk-operations 7)
    """
    return await _change(app, request, BulkAction.RETRY)


async def delete_jobs(app: App, request: Request) -> Response:
    """Delete the terminal jobs that the body names.

    (spec: ojs-bulk-operations 8)
    """
    return await _change(app, request, BulkAction.DELETE)


async def cancel_jobs_as_admin(app: App, request: Request) -> Response:
    """Cancel the jobs that the body names, if it has ``confirm: true``.

    (spec: ojs-admin-api 8.2)
    """
    return await _change(app, request, BulkAction.CANCEL, admin=True)


async def delete_jobs_as_admin(app: App, request: Request) -> Response:
    """Delete the jobs that the body names, if it has ``confirm: true``.

    (spec: ojs-admin-api 8.3)
    """
    return await _change(app, request, BulkAction.DELETE, admin=True)


async def purge_queue(app: App, request: Request, name: str) -> Response:
    """Remove the jobs of a queue in the named states, if the body has ``confirm: true``.

    (spec: ojs-admin-api 6.5)
    """
    body = decode(_purge_decoder, request, app.settings.limits)
    require_confirmation(body.confirm, "this request removes all jobs of the queue that match")
    if not body.states:
        raise InvalidRequest("name the states of the jobs to remove", field="states")
    return await _purge(app, request, name, body)


async def purge_queue_without_confirmation(app: App, request: Request, name: str) -> Response:
    """Remove the jobs of a queue in the named states, or its available jobs if confirmed.

    ojs-cli names states and sends no confirmation. Of available jobs alone, one request removes a
    limited number. The client repeats the request until ``left``, the number of those that remain,
    is 0.

    (spec: ojs-admin-api 6.5)
    """
    body = decode(_purge_decoder, request, app.settings.limits, optional=True)
    if not body.states:
        if body.confirm is not True:
            raise InvalidRequest(
                'name the states to purge, as in {"states": ["available"]}, or send confirm: true',
                field="states",
            )
        body = msgspec.structs.replace(body, states=[State.AVAILABLE.value])
    is_plain = body.type is None and body.older_than is None and request.tenant is None
    if is_plain and body.queue in (None, name) and set(body.states or ()) == {State.AVAILABLE}:
        check_queue(name, field="name")
        purged, left = await purges.purge(app.store, name)
        counts = _counts(BulkAction.PURGE, purged, purged, 0, has_more=left > 0)
        members = BulkResult(**counts, **_purged(name, [State.AVAILABLE], purged, left))
        return replies.json_response(200, members)
    return await _purge(app, request, name, body)


async def _purge(app: App, request: Request, name: str, body: PurgeBody) -> Response:
    if body.queue not in (None, name):
        raise InvalidRequest("must be the queue in the path", field="queue")
    given = FilterBody(queue=name, states=body.states, type=body.type, older_than=body.older_than)
    selection = selection_of(
        BulkAction.PURGE, given, request, app.store.clock.now_ms(), field="body"
    )
    operation = await _run_operation(app, request, BulkAction.PURGE, selection)
    # After a request the scheduler continues the operation, so the client need not repeat it.
    shown = _purged(name, selection.states, operation.succeeded, 0)
    return _response(app, request, operation, shown)


def _purged(name: str, states: Sequence[str], purged: int, left: int) -> PurgeCounts:
    return {
        "queue": name,
        "states": list(states),
        "purged_count": purged,
        "deleted": purged,
        "left": left,
    }


async def purge_dead_letters(app: App, request: Request) -> Response:
    """Delete all dead letters that match, if the body has ``confirm: true``.

    (spec: ojs-admin-api 11.3)
    """
    body = decode(_purge_decoder, request, app.settings.limits)
    require_confirmation(body.confirm, "this request deletes all dead letters that match")
    if body.states is not None:
        raise InvalidRequest("dead letters are discarded", field="states")
    given = FilterBody(queue=body.queue, type=body.type, older_than=body.older_than, dead=True)
    selection = selection_of(
        BulkAction.DELETE, given, request, app.store.clock.now_ms(), field="body"
    )
    operation = await _run_operation(app, request, BulkAction.DELETE, selection)
    return _response(app, request, operation, {"purged_count": operation.succeeded})


async def purge_dead_letters_by_query(app: App, request: Request) -> Response:
    """Delete all dead letters that are older than an age.

    ojs-cli uses this endpoint and sends no confirmation, so none is required.
    """
    given = query.parameters(request.query)
    wanted = FilterBody(queue=given.get("queue") or None, dead=True)
    selection = replace(
        selection_of(BulkAction.DELETE, wanted, request, app.store.clock.now_ms(), field="query"),
        older_than_ms=older_than_ms(
            given.get("older_than") or None, app.store.clock.now_ms(), field="older_than"
        ),
    )
    operation = await _run_operation(app, request, BulkAction.DELETE, selection)
    return _response(app, request, operation, {"purged_count": operation.succeeded})


async def _change(
    app: App, request: Request, action: BulkAction, *, admin: bool = False
) -> Response:
    body = decode(_decoder, request, app.settings.limits)
    if body.atomicity != "partial":
        raise Unsupported(
            "each job is changed on its own: only the atomicity 'partial' is possible",
            field="atomicity",
        )
    if admin:
        require_confirmation(body.confirm, f"this request is to {action} many jobs")
    ids = job_ids_of(body.job_ids, body.ids)
    if ids is not None and body.filter is not None:
        raise InvalidRequest("name jobs by 'job_ids' or by 'filter', not by both", field="filter")
    if ids is not None:
        response = await _change_ids(app, request, action, ids)
        # The audit has no entries for the cancellation of single jobs outside the admin API.
        is_audited = admin or action is not BulkAction.CANCEL
        return msgspec.structs.replace(response, audited=is_audited)
    given = body.filter
    if given is None or (not admin and is_unconditional(given)):
        raise InvalidRequest("name jobs by 'job_ids' or by a 'filter'", field="filter")
    names_states = not (given.state is None and given.states is None and given.query is None)
    if not (admin or given.dead or names_states):
        given = msgspec.structs.replace(given, states=_SPECIFIED_STATES.get(action))
    operation = await _run_operation(
        app, request, action, selection_of(action, given, request, app.store.clock.now_ms())
    )
    return _response(app, request, operation, {})


async def _run_operation(
    app: App, request: Request, action: BulkAction, selection: Selection
) -> BulkOperation:
    """Create a bulk operation, and run it for at most ``_RUN_S`` seconds."""
    extend_deadline(_RUN_S)
    operation = await store_bulk.create(
        app.store,
        new_operation_id(app),
        action,
        selection,
        ids=searched_ids(selection),
        principal=principal_of(app, request).name,
        delay_ms=store_bulk.REQUEST_LEASE_MS,
    )
    with after_first_write():
        return await run_for(app.store, operation, _RUN_S)


def _response(app: App, request: Request, operation: BulkOperation, more: PurgeCounts) -> Response:
    """Return the counts of an operation, with status 202 if the scheduler continues it.

    The response has a ``Location`` only if the API key may read the operation.
    """
    items: list[BulkItem] = [
        {"index": index, "job_id": job_id, "status": "failed", "error": why, "reason": why}
        for index, (job_id, why) in enumerate(operation.failures)
    ]
    members: BulkResult = {
        **_counts(
            operation.action,
            operation.matched,
            operation.succeeded,
            operation.failed,
            has_more=not operation.ended,
        ),
        "operation_id": operation.id,
        "state": operation.state.value,
        "errors": [{"job_id": job_id, "error": why} for job_id, why in operation.failures],
        "items": items,
        **more,
    }
    if not operation.ended:
        # An endpoint about all tenants shows the operation.
        may_read = request.tenant is None and (
            Scope.ADMIN_READ in principal_of(app, request).scopes
        )
        headers = (("Location", f"/ojs/v1/admin/bulk/{operation.id}"),) if may_read else ()
        return replies.json_response(202, members, headers, audit_object=audit_text(operation))
    return replies.json_response(200, members, audit_object=audit_text(operation))


def _counts(
    action: BulkAction, matched: int, succeeded: int, failed: int, *, has_more: bool
) -> BulkResult:
    return {
        "action": action,
        "matched": matched,
        "total_matched": matched,
        "succeeded": succeeded,
        "failed": failed,
        "skipped": 0,
        **_changed(action, succeeded),
        "errors": [],
        "items": [],
        "has_more": has_more,
    }


def _changed(action: BulkAction, count: int) -> ChangedCounts:
    counts: ChangedCounts = {}
    counts[_CHANGED[action]] = count
    return counts


async def _change_ids(
    app: App, request: Request, action: BulkAction, ids: Sequence[str]
) -> Response:
    """Change the jobs, and return an item for each id. An inaccessible job counts as not found."""
    extend_deadline(_RUN_S)
    errors = await access_errors(app, request, ids)
    accessible = [job_id for job_id in ids if job_id not in errors]
    outcomes = {
        **errors,
        **await change_jobs(app.store, action, accessible, cause_of(app, request)),
    }
    items = [
        _item(index, job_id, _CHANGED[action], outcomes.get(job_id, NotFound("job", job_id)))
        for index, job_id in enumerate(ids)
    ]
    changed = sum(item["status"] == _CHANGED[action] for item in items)
    skipped = sum(item["status"] == "skipped" for item in items)
    members: BulkResult = {
        "action": action,
        "total": len(ids),
        "matched": len(ids),
        "total_matched": len(ids),
        "succeeded": changed,
        "failed": len(ids) - changed,
        "skipped": skipped,
        **_changed(action, changed),
        "errors": [
            {"job_id": item["job_id"], "error": item["reason"]}
            for item in items
            if "reason" in item
        ],
        "items": items,
        "has_more": False,
    }
    status = 200 if changed == len(ids) else 207 if changed else 422
    headers = (("X-OJS-Batch-Size", str(len(ids))),)
    audit_object = f"{action} {len(ids)} ids"
    return replies.json_response(status, members, headers, audit_object=audit_object)


def _item(index: int, job_id: str, changed: str, error: OJSError | None) -> BulkItem:
    if error is None:
        return {"index": index, "job_id": job_id, "status": changed}
    # The specification's word for a job whose state does not allow the change.
    status = "skipped" if isinstance(error, Conflict) else "failed"
    return {
        "index": index,
        "job_id": job_id,
        "status": status,
        "reason": error.message,
        "error": {"message": error.message},
    }
