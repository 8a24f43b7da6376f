"""Enqueue, read, cancel, activate, list (spec: ojs-http-binding 7.1, 7.7 to 7.9)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.access.queue_scope import check_new_job, check_queues
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import require_json
from ojs_cluster.http.handlers.rate_limits import headers_of
from ojs_cluster.http.hooks import refuse_marked
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.enqueue import enqueue as store_enqueue
from ojs_cluster.store.jobs import activate as store_activate
from ojs_cluster.store.jobs import cancel as store_cancel
from ojs_cluster.store.jobs import listing
from ojs_cluster.store.jobs import read_jobs as store_jobs
from ojs_cluster.store.jobs.listing import JobFilter, JobPage
from ojs_cluster.store.off_loop import off_loop
from ojs_cluster.store.queues import queues as store_queues

MAX_OFFSET = 10_000  # each job passed over is read: who wants to go further uses the cursor
_CHUNK = 200
_MAX_PAGES = 100


async def enqueue(app: App, request: Request) -> Response:
    """POST /ojs/v1/jobs"""
    if request.body:
        require_json(request)
    read = partial(parse_job, request.body, limits=app.settings.limits)
    new_job = await off_loop(read, len(request.body))
    check_new_job(request.queues, new_job)
    if app.settings.test_hooks:
        refuse_marked(new_job)
    job = await store_enqueue.enqueue(app.store, new_job)
    if job.deduplicated:
        return replies.existing_job(job)
    limits = await headers_of(app, new_job)
    return replies.job_response(201, job, (("Location", f"/ojs/v1/jobs/{job.id}"), *limits))


async def get(app: App, _request: Request, job_id: str) -> Response:
    """GET /ojs/v1/jobs/{id}"""
    return replies.job_response(200, await store_jobs.get(app.store, fields.job_id(job_id)))


async def cancel(app: App, _request: Request, job_id: str) -> Response:
    """DELETE /ojs/v1/jobs/{id} and POST /ojs/v1/jobs/{id}/cancel. A body is ignored."""
    job = await store_cancel.cancel(app.store, fields.job_id(job_id))
    return replies.job_response(200, job)


async def activate(app: App, _request: Request, job_id: str) -> Response:
    """POST /ojs/v1/jobs/{id}/activate"""
    job = await store_activate.activate(app.store, fields.job_id(job_id))
    return replies.job_response(200, job)


async def list_jobs(app: App, request: Request) -> Response:
    """GET /ojs/v1/jobs?state&queue&type&limit&cursor, or with ``offset`` instead of a cursor.

    A page may hold fewer jobs than asked for while there are more; ``next_cursor`` says so.
    """
    given = query.parameters(request.query)
    return await list_found(app, filter_of(given, request.queues), given)


async def list_found(
    app: App, wanted: JobFilter, given: Mapping[str, str], *, most: int = 200
) -> Response:
    """Return the page of ``wanted`` that ``limit``, ``cursor`` and ``offset`` ask for.

    Raises:
        InvalidRequest: one of them cannot be used.
        BackendUnavailable: Redis did not answer in time.
    """
    limit = query.integer(given, "limit", 50, low=1, high=most)
    cursor = given.get("cursor") or None
    offset = 0 if cursor else query.integer(given, "offset", 0, low=0, high=MAX_OFFSET)
    page, passed, total = await find(app, wanted, limit=limit, offset=offset, cursor=cursor)
    pages = replies.pagination(
        limit=limit, shown=len(page.jobs), offset=passed, total=total, cursor=page.next_cursor
    )
    # Where the total is not known it is left out: a null would read as 0.
    counted = b"" if total is None else b'"total":%d,' % total
    return Response(
        200,
        b'{"jobs":%b,%b"pagination":%b}'
        % (replies.jobs_array(page.jobs), counted, replies.dumps(pages)),
    )


def filter_of(given: Mapping[str, str], queues: QueuePatterns | None) -> JobFilter:
    """What ``state``, ``queue`` and ``type`` ask for, within the queues in reach.

    Raises InvalidRequest, or PermissionDenied for a queue out of reach.
    """
    queue = check_queue(given["queue"], field="queue") if given.get("queue") else None
    if queue is not None:
        check_queues(queues, [queue])
        queues = None
    return JobFilter(
        state=state_of(given.get("state")),
        queue=queue,
        type=given.get("type") or None,
        within=queues,
    )


async def find(
    app: App, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None
) -> tuple[JobPage, int, int | None]:
    """A page after ``cursor``, or after the first ``offset`` jobs; how many were passed over; and
    how many the list has, where that can be told without a scan.
    """
    if cursor:
        page = await listing.list_jobs(app.store, wanted, limit=limit, cursor=cursor)
        return page, 0, None
    page = JobPage([], None)
    cursor, passed = await _pass_over(app, wanted, offset)
    if cursor or not passed:
        page = await listing.list_jobs(app.store, wanted, limit=limit, cursor=cursor)
    return page, passed, await _total(app, wanted, passed, page)


async def _pass_over(app: App, wanted: JobFilter, offset: int) -> tuple[str | None, int]:
    """A cursor after the first ``offset`` jobs, and how many these were; None at the list's end."""
    cursor, passed, pages = None, 0, 0
    while passed < offset:
        pages += 1
        if pages > _MAX_PAGES:  # few of the jobs passed over are what is looked for
            raise InvalidRequest("too far into this list: use the cursor", field="offset")
        page = await listing.list_jobs(
            app.store, wanted, limit=min(_CHUNK, offset - passed), cursor=cursor
        )
        cursor, passed = page.next_cursor, passed + len(page.jobs)
        if cursor is None:
            break
    return cursor, passed


async def _total(app: App, wanted: JobFilter, passed: int, page: JobPage) -> int | None:
    if page.next_cursor is None:
        return passed + len(page.jobs)
    if wanted.queue is None or not wanted.counted:
        return None
    counts = (await store_queues.get_stats(app.store, wanted.queue)).counts
    return sum(counts.values()) if wanted.state is None else counts[wanted.state]


def state_of(text: str | None) -> State | None:
    """The state of that name, None for no name. Raises InvalidRequest."""
    if not text:
        return None
    try:
        return State(text)
    except ValueError:
        known = ", ".join(State)
        raise InvalidRequest(f"state must be one of {known}", field="state") from None
