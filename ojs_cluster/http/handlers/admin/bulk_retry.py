"""Many jobs retried at once (spec: ojs-admin-api 8.1, ojs-dead-letter 6.2).

Nothing is retried unless ``confirm`` is the boolean true, and nothing that the filter does not
admit. A member that is not known here is refused rather than ignored: it may be a filter. A key
for some queues retries jobs of those alone: for it all others do not match.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, replies
from ojs_cluster.http.access.queue_scope import check_queues
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.handlers.jobs import state_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.dead_letters.bulk_retry import retry_matching
from ojs_cluster.store.jobs.listing import JobFilter

_SHOWN_ERRORS = 100


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs are meant; without any member all that are discarded."""

    queue: str | None = None
    state: str | None = None
    type: str | None = None
    since: str | None = None
    until: str | None = None


class BulkBody(Filter, frozen=True, forbid_unknown_fields=True):
    """The filter inside of ``filter``, or, as the OpenAPI document has it, beside ``confirm``."""

    filter: Filter | None = None
    confirm: Any = None
    cursor: str | None = None


_decoder = msgspec.json.Decoder(BulkBody)


async def retry_jobs(app: App, request: Request) -> Response:
    """POST /ojs/v1/admin/jobs/bulk/retry: discarded jobs, by when they were created."""
    return await _retry(app, request, dead=False)


async def retry_dead(app: App, request: Request) -> Response:
    """POST /ojs/v1/admin/dead-letter/retry: dead letters, by when they died."""
    return await _retry(app, request, dead=True)


async def _retry(app: App, request: Request, *, dead: bool) -> Response:
    body = decode(_decoder, request, app.settings.limits)
    if body.confirm is not True:
        raise InvalidRequest(
            "this retries every job that the filter admits: send confirm: true", field="confirm"
        )
    wanted = _wanted(body, dead)
    if wanted.queue is not None:
        check_queues(request.queues, [wanted.queue])
    elif request.queues is not None:
        wanted = replace(wanted, within=request.queues)
    done = await retry_matching(app.store, wanted, body.cursor or None)
    answer: dict[str, Any] = {
        "action": "retry",
        "matched": done.matched,
        "retried": done.retried,
        "succeeded": done.retried,
        "failed": len(done.failures),
        "errors": [
            {"job_id": job_id, "error": reason} for job_id, reason in done.failures[:_SHOWN_ERRORS]
        ],
        "has_more": done.next_cursor is not None,
    }
    if done.next_cursor is not None:
        answer["next_cursor"] = done.next_cursor
    about = "all queues" if wanted.within is None else "queues in reach"
    if wanted.queue is not None:
        about = f"queue={wanted.queue}"
    if wanted.type is not None:
        about += f" type={wanted.type}"
    return replies.json_response(200, answer, about=about)


def _wanted(body: BulkBody, dead: bool) -> JobFilter:
    given: Filter = body
    if body.filter is not None:
        if any(getattr(body, name) is not None for name in Filter.__struct_fields__):
            raise InvalidRequest("put all of the filter into 'filter'", field="filter")
        given = body.filter
    if state_of(given.state) not in (None, State.DISCARDED):
        raise Unsupported(
            "only discarded jobs can be retried: retryable ones will be, cancelled ones stay so",
            field="filter.state",
        )
    return JobFilter(
        queue=check_queue(given.queue, field="filter.queue") if given.queue is not None else None,
        type=given.type,
        since_ms=fields.moment(given.since, field="filter.since"),
        until_ms=fields.moment(given.until, field="filter.until"),
        dead=dead,
    )
