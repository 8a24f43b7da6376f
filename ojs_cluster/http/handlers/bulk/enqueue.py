"""Enqueue many jobs with a result for each of them (spec: ojs-bulk-operations 5)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from ojs_cluster.core.bulk.enqueue_request import parse_bulk_enqueue
from ojs_cluster.core.errors import (
    BackendUnavailable,
    Duplicate,
    InvalidRequest,
    OJSError,
    QueueFull,
    ValidationBusy,
)
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.authorization.queue_scope import check_new_job, hide_existing
from ojs_cluster.http.errors import is_retryable, item_error
from ojs_cluster.http.hooks import validate_if_marked
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.http.shapes.common import ItemError
from ojs_cluster.http.shapes.jobs import BulkEnqueuedJob, BulkEnqueueItem, BulkEnqueueResult
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.engine.args_validation import check_each
from ojs_cluster.store.engine.enqueue import idempotency
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.enqueue.idempotency import KeyedRequest
from ojs_cluster.store.engine.enqueue.independent_jobs import enqueue_each
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.partial_failures import after_first_write

_RUN_S: Final = 10.0
"""Time in seconds that storing the jobs one by one may take, in addition to the usual time."""
_MAX_KEY: Final = 256  # characters
_NOT_ENQUEUED: Final[ItemError] = {
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

    A request with an idempotency key (header ``Idempotency-Key`` or member ``idempotency_key``) is
    carried out once. A repetition gets the same response for 24 hours. It tries again the jobs that
    failed with a retryable error, and all jobs if none was stored.

    (spec: ojs-bulk-operations 5 and 10)
    """
    if request.body:
        require_json(request)
    trace = fields.trace(app, request)
    limits, tenant = app.settings.limits, request.tenant or ""
    parse = partial(parse_bulk_enqueue, request.body, limits=limits, trace=trace, tenant=tenant)
    given = await off_loop(parse, len(request.body))
    jobs, warnings = await check_each(
        app.store, [_checked(app, request, job) for job in given.jobs]
    )
    errors = [job for job in jobs if isinstance(job, OJSError)]
    if given.atomic and errors and all(isinstance(each, ValidationBusy) for each in errors):
        raise errors[0]  # as when Redis does not answer: the same request may succeed
    extend_deadline(_RUN_S)
    key = _key(request.headers.get("idempotency-key"), given.idempotency_key)
    if key is None:
        results = await _enqueue(app, jobs, atomic=given.atomic)
        response = _response(await _hide_existing(app, request, results))
        return replies.with_warnings(response, warnings)
    principal = principal_of(app, request).name
    if tenant:
        principal = f"{principal}\n{tenant}"  # each tenant has keys of its own
    are_valid = [isinstance(job, NewJob) for job in jobs]
    has_jobs = all(are_valid) if given.atomic else any(are_valid)
    begun = await idempotency.begin(app.store, principal, key, request.body, has_jobs=has_jobs)
    if begun.response is not None:
        status, _, body = begun.response.partition(b"\n")
        return Response(int(status), body, _size_header(len(jobs)))
    if not has_jobs:
        response = _response(await _enqueue(app, jobs, atomic=given.atomic))
        return replies.with_warnings(response, warnings)
    with after_first_write():
        results = await _enqueue_once(app, jobs, begun, atomic=given.atomic)
        results = await _hide_existing(app, request, results)
        response = replies.with_warnings(_response(results), warnings)
        await _remember(app, begun, results, response)
    return response


async def _remember(
    app: App, begun: KeyedRequest, results: Sequence[Result], response: Response
) -> None:
    """Keep the response of a request, unless a repetition is to try some of its jobs again."""
    if not any(isinstance(result, JobRecord) for result in results):
        # A job whose shard did not answer may be stored.
        if not any(isinstance(result, BackendUnavailable) for result in results):
            with suppress(BackendUnavailable):
                await idempotency.forget(app.store, begun)
    elif not any(isinstance(result, OJSError) and is_retryable(result) for result in results):
        kept = b"%d\n%b" % (response.status, response.body)
        await idempotency.end(app.store, begun, kept)


def _key(header: str | None, member: str | None) -> str | None:
    """Return the idempotency key; the header has priority over the member of the body."""
    key = header if header is not None else member
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise InvalidRequest(f"must have 1 to {_MAX_KEY} characters", field="idempotency_key")
    return key


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


async def _enqueue(app: App, jobs: Sequence[NewJob | OJSError], *, atomic: bool) -> list[Result]:
    """Store the valid jobs; return the outcomes of all jobs."""
    valid = [job for job in jobs if not isinstance(job, OJSError)]
    outcomes: list[Result] = [None] * len(valid)
    if atomic and len(valid) == len(jobs):
        outcomes = await _enqueue_all(app, valid)
    elif valid and not atomic:
        outcomes = list(await enqueue_each(app.store, valid))
    for job, outcome in zip(valid, outcomes, strict=True):
        if isinstance(outcome, QueueFull):
            await app.store.rejections.report(app.store, app.store.events_arg, outcome, job.type)
    remaining = iter(outcomes)
    return [job if isinstance(job, OJSError) else next(remaining) for job in jobs]


async def _enqueue_all(app: App, jobs: Sequence[NewJob]) -> list[Result]:
    """Store all jobs or none; return the outcomes."""
    try:
        return list(await enqueue_many(app.store, jobs))
    except BackendUnavailable:
        raise
    except OJSError as error:
        index = error.details.get("index")
        return [error if index in (None, number) else None for number in range(len(jobs))]


async def _enqueue_once(
    app: App, jobs: Sequence[NewJob | OJSError], begun: KeyedRequest, *, atomic: bool
) -> list[Result]:
    """Store the jobs that no earlier try of the request has stored; return all outcomes."""
    named = [
        job if isinstance(job, OJSError) else begun.with_id(app.store, index, job)
        for index, job in enumerate(jobs)
    ]
    results = await _enqueue(app, named, atomic=atomic)
    found: dict[int, Result] = {}
    if any(isinstance(result, Duplicate) for result in results):
        for index, job in enumerate(named):
            # An earlier try of an atomic request has stored all jobs or none.
            if isinstance(job, NewJob) and (atomic or isinstance(results[index], Duplicate)):
                stored = await idempotency.read_own(app.store, job, jobs[index] is job)
                if stored is not None:
                    found[index] = stored
                elif atomic:
                    return results
    if atomic and len(found) < len(results):
        return results
    return [found.get(index, result) for index, result in enumerate(results)]


async def _hide_existing(app: App, request: Request, results: Sequence[Result]) -> list[Result]:
    return [
        await hide_existing(app, request, result) if isinstance(result, Duplicate) else result
        for result in results
    ]


def _response(results: Sequence[Result]) -> Response:
    items = [_item(index, result) for index, result in enumerate(results)]
    stored = [result for result in results if isinstance(result, JobRecord)]
    failed = len(results) - len(stored)
    members: BulkEnqueueResult = {
        "total": len(results),
        "succeeded": len(stored),
        "failed": failed,
        "items": items,
    }
    status = 201 if not failed else 207 if stored else 422
    response = replies.json_response(status, members, _size_header(len(results)))
    ids = [job.id for job in stored]
    return msgspec.structs.replace(response, object_ids=lambda: {"job_ids": ids})


def _size_header(count: int) -> tuple[tuple[str, str], ...]:
    return (("X-OJS-Batch-Size", str(count)),)


def _item(index: int, result: Result) -> BulkEnqueueItem:
    if isinstance(result, JobRecord):
        job = BulkEnqueuedJob(
            id=result.id, type=result.type, queue=result.queue, state=result.state
        )
        is_old = result.deduplicated
        return {"index": index, "status": "duplicate" if is_old else "created", "job": job}
    error = _NOT_ENQUEUED if result is None else item_error(result)
    return {"index": index, "status": "failed", "error": error}
