"""Retry many jobs in one request (spec: ojs-admin-api 8.1, ojs-dead-letter 6.2).

A request needs ``confirm: true``, and retries only jobs that match its filter. An unknown member of
the body is an error, because the client may mean it as a filter. If the API key is restricted to
some queues, jobs of other queues do not match.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.handlers.jobs import state_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.bulk import RetriedJobs
from ojs_cluster.http.shapes.common import Moment, QueueName
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.features.dead_letters.bulk_retry import retry_matching

_MAX_SHOWN_ERRORS = 100


class BulkRetryFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The filter of the jobs to retry. Without any member it matches all discarded jobs."""

    queue: QueueName | None = None
    state: Annotated[str, keywords(enum=[State.DISCARDED.value])] | None = None
    type: str | None = None
    since: Moment | None = None
    until: Moment | None = None


class BulkRetryBody(BulkRetryFilter, frozen=True, forbid_unknown_fields=True):
    """The body. Filters are in ``filter``, or at the top level as in the OpenAPI document."""

    filter: BulkRetryFilter | None = None
    confirm: Annotated[Any, keywords(type=["boolean", "null"])] = None
    cursor: str | None = None


_decoder = msgspec.json.Decoder(BulkRetryBody)


async def retry_jobs(app: App, request: Request) -> Response:
    """Retry discarded jobs that were created between ``since`` and ``until``.

    (spec: ojs-admin-api 8.1)
    """
    return await _retry(app, request, dead=False)


async def retry_dead(app: App, request: Request) -> Response:
    """Retry jobs that became dead letters between ``since`` and ``until``.

    (spec: ojs-dead-letter 6.2)
    """
    return await _retry(app, request, dead=True)


async def _retry(app: App, request: Request, *, dead: bool) -> Response:
    body = decode(_decoder, request, app.settings.limits)
    if body.confirm is not True:
        raise InvalidRequest(
            "this request retries every job that the filter matches: confirm that by confirm: true",
            field="confirm",
        )
    wanted = _wanted(body, dead)
    if wanted.queue is not None:
        check_queues(request.queues, [wanted.queue])
    elif request.queues is not None:
        wanted = replace(wanted, within=request.queues)
    wanted = replace(wanted, tenant=request.tenant)
    done = await retry_matching(app.store, wanted, body.cursor or None, cause_of(app, request))
    response_members: RetriedJobs = {
        "action": "retry",
        "matched": done.matched,
        "retried": done.retried,
        "succeeded": done.retried,
        "failed": len(done.failures),
        "errors": [
            {"job_id": job_id, "error": reason}
            for job_id, reason in done.failures[:_MAX_SHOWN_ERRORS]
        ],
        "has_more": done.next_cursor is not None,
    }
    if done.next_cursor is not None:
        response_members["next_cursor"] = done.next_cursor
    audit_object = "all queues" if wanted.within is None else "all accessible queues"
    if wanted.queue is not None:
        audit_object = f"queue={wanted.queue}"
    if wanted.type is not None:
        audit_object += f" type={wanted.type}"
    return replies.json_response(200, response_members, audit_object=audit_object)


def _wanted(body: BulkRetryBody, dead: bool) -> JobFilter:
    given: BulkRetryFilter = body
    if body.filter is not None:
        if any(getattr(body, name) is not None for name in BulkRetryFilter.__struct_fields__):
            raise InvalidRequest("put all of the filter into 'filter'", field="filter")
        given = body.filter
    if state_of(given.state) not in (None, State.DISCARDED):
        raise Unsupported(
            "only discarded jobs can be retried: retryable jobs run again without a request, and "
            "cancelled jobs stay cancelled",
            field="filter.state",
        )
    return JobFilter(
        queue=check_queue(given.queue, field="filter.queue") if given.queue is not None else None,
        type=given.type,
        since_ms=fields.absolute_time_ms(given.since, field="filter.since"),
        until_ms=fields.absolute_time_ms(given.until, field="filter.until"),
        dead=dead,
    )
