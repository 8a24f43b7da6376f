"""Enqueue many jobs with a result for each of them (spec: ojs-bulk-operations 5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from ojs_cluster.core.bulk.enqueue_request import parse_bulk_enqueue
from ojs_cluster.core.errors import BackendUnavailable, OJSError, Unsupported
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.http import fields, replies
from ojs_cluster.http.access.queue_scope import check_new_job
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import require_json
from ojs_cluster.http.errors import item_error
from ojs_cluster.http.hooks import validate_if_marked
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.enqueue.enqueue import enqueue_many
from ojs_cluster.store.enqueue.independent_jobs import enqueue_each
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.off_loop import off_loop

_RUN_S: Final = 10.0
"""Time in seconds that storing the jobs one by one may take, in addition to the usual time."""
_NOT_ENQUEUED: Final = {
    "code": "not_applied",
    "message": "another job of the request failed, so none was enqueued",
    "retryable": True,
    "details": {},
}
"""The error of a valid job of an atomic request in which another job failed."""

Result = JobRecord | OJSError | None
"""The outcome of a job: its record, its error, or None if another job prevented it."""


async def enqueue_jobs(app: App, request: Request) -> Response:
    """Enqueue the jobs of the body, each on its own, or all or none with ``atomicity: atomic``.

    Idempotency keys are refused. A client that gives its jobs ids can repeat the request, because
    a job that exists is not stored again.

    ``POST /ojs/v1/jobs/bulk`` (spec: ojs-bulk-operations 5)
    """
    if request.body:
        require_json(request)
    trace = fields.trace(app, request)
    parse = partial(parse_bulk_enqueue, request.body, limits=app.settings.limits, trace=trace)
    given = await off_loop(parse, len(request.body))
    if given.idempotency_key is not None or "idempotency-key" in request.headers:
        raise Unsupported(
            "idempotency keys are not kept: give each job an id instead", field="idempotency_key"
        )
    jobs = [_checked(app, request, job) for job in given.jobs]
    valid = [job for job in jobs if not isinstance(job, OJSError)]
    extend_deadline(_RUN_S)
    if given.atomic:
        outcomes = await _enqueue_all(app, valid, total=len(jobs))
    else:
        outcomes = list(await enqueue_each(app.store, valid)) if valid else []
    remaining = iter(outcomes)
    return _response([job if isinstance(job, OJSError) else next(remaining) for job in jobs])


def _checked(app: App, request: Request, job: NewJob | OJSError) -> NewJob | OJSError:
    """Return the job, or its error.

    Raises:
        PermissionDenied: the API key may not access the queue.
    """
    if isinstance(job, OJSError):
        return job
    check_new_job(request.queues, job)
    if app.settings.test_hooks:
        try:
            validate_if_marked(job)
        except OJSError as error:
            return error
    return job


async def _enqueue_all(app: App, jobs: Sequence[NewJob], *, total: int) -> list[Result]:
    """Store the jobs if all ``total`` jobs of the request are valid; return the outcomes."""
    if len(jobs) < total:
        return [None] * len(jobs)
    try:
        return list(await enqueue_many(app.store, jobs))
    except BackendUnavailable:
        raise
    except OJSError as error:
        index = error.details.get("index")
        return [error if index in (None, number) else None for number in range(len(jobs))]


def _response(results: Sequence[Result]) -> Response:
    items = [_item(index, result) for index, result in enumerate(results)]
    stored = [result for result in results if isinstance(result, JobRecord)]
    failed = len(results) - len(stored)
    members = {
        "total": len(results),
        "succeeded": len(stored),
        "failed": failed,
        "items": items,
    }
    status = 201 if not failed else 207 if stored else 422
    headers = (("X-OJS-Batch-Size", str(len(results))),)
    response = replies.json_response(status, members, headers)
    ids = [job.id for job in stored]
    return msgspec.structs.replace(response, object_ids=lambda: {"job_ids": ids})


def _item(index: int, result: Result) -> dict[str, Any]:
    if isinstance(result, JobRecord):
        job = {
            "id": result.id,
            "type": result.type,
            "queue": result.queue,
            "state": result.state.value,
        }
        status = "duplicate" if result.deduplicated else "created"
        return {"index": index, "status": status, "job": job}
    error = _NOT_ENQUEUED if result is None else item_error(result)
    return {"index": index, "status": "failed", "error": error}
