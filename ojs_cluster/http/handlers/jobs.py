"""Enqueue, read, cancel, activate and list jobs (spec: ojs-http-binding 7.1, 7.7 to 7.9)."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ojs_cluster.core.errors import Duplicate, InvalidRequest, QueueFull
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.options import check_queue, is_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search import parse_search
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.authorization.queue_scope import check_new_job, check_queues, hide_existing
from ojs_cluster.http.handlers.job_order import with_order
from ojs_cluster.http.handlers.rate_limits import headers_of
from ojs_cluster.http.hooks import validate_if_marked
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.store.engine.args_validation import check_args
from ojs_cluster.store.engine.enqueue import enqueue as store_enqueue
from ojs_cluster.store.engine.enqueue.enqueue import SentEnqueue
from ojs_cluster.store.engine.jobs import activate as store_activate
from ojs_cluster.store.engine.jobs import cancel as store_cancel
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import queues as store_queues
from ojs_cluster.store.features.search import lists
from ojs_cluster.store.features.search.lists import JobPage
from ojs_cluster.store.ground.off_loop import LARGE, off_loop

MAX_OFFSET = 10_000
"""Maximum offset of a page. An offset costs reading all jobs before the page, a cursor does not."""
_SKIPPED_AT_ONCE = 1000
"""Maximum number of jobs that one read skips. A read costs two commands for each of up to 2000
queues (``store.search.all_queues``), however few jobs it returns."""
_MAX_SKIP_READS = 100
"""Maximum number of reads that skip the jobs before an offset."""


def enqueue(app: App, request: Request) -> Awaitable[Response]:
    """Enqueue a job.

    (spec: ojs-http-binding 9.1)
    """
    return enqueue_or_resume(app, request)


async def enqueue_or_resume(
    app: App, request: Request, sent: SentEnqueue | None = None
) -> Response:
    """Answer an enqueue. ``sent`` is its first call, if it is sent already."""
    if request.body:
        require_json(request)
    limits, trace, tenant = app.settings.limits, fields.trace(app, request), request.tenant or ""
    if len(request.body) <= LARGE:
        new_job = parse_job(request.body, limits=limits, trace=trace, tenant=tenant)
    else:
        parse = partial(parse_job, request.body, limits=limits, trace=trace, tenant=tenant)
        new_job = await off_loop(parse, len(request.body))
    check_new_job(request.queues, new_job)
    if app.settings.test_hooks:
        validate_if_marked(new_job)
    warnings: Sequence[str] = new_job.warnings
    if sent is None and new_job.type in app.store.schemas.validated:
        warnings = await check_args(app.store, new_job)
    try:
        if sent is not None:
            job = await store_enqueue.resume(app.store, new_job, sent)
        elif "ojs-block-timeout" in request.headers:
            store_job = partial(store_enqueue.enqueue, app.store, new_job, admitted={})
            job = await app.blocked.until_stored(request, [new_job], store_job)
        else:
            job = await store_enqueue.enqueue(app.store, new_job)
    except QueueFull as full:
        await app.store.rejections.report(app.store, app.store.events_arg, full, new_job.type)
        raise
    except Duplicate as duplicate:
        raise await hide_existing(app, request, duplicate) from None
    if job.deduplicated:
        return replies.with_warnings(replies.deduplicated_response(job), warnings)
    more = () if new_job.rate_limit is None else await headers_of(app, new_job)
    if job.pressure is not None:
        more += replies.pressure_headers(*job.pressure)
    response = created(job, more)
    return replies.with_warnings(response, warnings) if warnings else response


def created(job: JobRecord, headers: Headers = ()) -> Response:
    """Return the response to an enqueue that has stored ``job``."""
    return replies.job_response(201, job, (("Location", f"/ojs/v1/jobs/{job.id}"), *headers))


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return a job.

    The job is the member ``job`` of the response. Its members are also repeated at the top level,
    where the Ruby SDK and the command line client read them.

    (spec: ojs-http-binding 9.3)
    """
    return replies.whole_job_response(await store_jobs.get(app.store, fields.job_id(job_id)))


async def cancel(app: App, request: Request, job_id: str) -> Response:
    """Cancel a job. The request body is ignored.

    (spec: ojs-http-binding 9.4)
    """
    job = await store_cancel.cancel(app.store, fields.job_id(job_id), cause=cause_of(app, request))
    return replies.job_response(200, job)


async def activate(app: App, _request: Request, job_id: str) -> Response:
    """Make a pending job available.

    (spec: ojs-http-binding 9.5)
    """
    job = await store_activate.activate(app.store, fields.job_id(job_id))
    return replies.job_response(200, job)


async def list_jobs(app: App, request: Request) -> Response:
    """List jobs, newest first. The client chooses the page by a cursor or by an offset.

    A page may have fewer jobs than ``limit`` although other pages follow. If other pages follow, it
    has a ``next_cursor``. ``store.search.newest_first`` describes the order, unless ``sort`` or
    ``order`` asks for another one. ``query`` is a search (``core.search``). Then ``examined`` is
    the number of entries that the page has examined, and ``index`` is the field by which the index
    of the search has found the jobs, if it has (``store.search.indexed``). The index may lack jobs,
    so ``complete`` is false then. With ``index=false`` all jobs are searched.

    (spec: ojs-http-binding 17)
    """
    given = query.parameters(request.query)
    wanted = with_order(filter_of(given, request, app.store.clock.now_ms()), given)
    return await list_matching(app, wanted, given, error_text=request.from_cli)


async def list_matching(
    app: App,
    wanted: JobFilter,
    given: Mapping[str, str],
    *,
    max_limit: int = 200,
    error_text: bool = False,
) -> Response:
    """Return the page of jobs that the parameters ``limit``, ``cursor`` and ``offset`` ask for.

    Args:
        app: the state of the process.
        wanted: the filter that the jobs match.
        given: the parameters of the query string.
        max_limit: the maximum number of jobs of a page.
        error_text: whether ``error`` of a job is a text, as the command line client reads it.

    Raises:
        InvalidRequest: a parameter is invalid.
        BackendUnavailable: Redis did not answer in time.
    """
    limit = query.integer(given, "limit", 50, low=1, high=max_limit)
    cursor = given.get("cursor") or None
    offset = 0 if cursor else query.integer(given, "offset", 0, low=0, high=MAX_OFFSET)
    page, skipped, total = await find(app, wanted, limit=limit, offset=offset, cursor=cursor)
    pagination = replies.pagination(
        limit=limit, shown=len(page.jobs), offset=skipped, total=total, cursor=page.next_cursor
    )
    if wanted.search is not None:
        pagination["examined"] = page.examined
    if page.index is not None:
        pagination |= {"index": page.index, "complete": False}
    # If the total is not known, the member is absent, because clients would read null as 0.
    total_member = b"" if total is None else b'"total":%d,' % total
    return Response(
        200,
        b'{"jobs":%b,%b"pagination":%b}'
        % (
            replies.jobs_array(page.jobs, error_text=error_text),
            total_member,
            replies.dumps(pagination),
        ),
    )


def filter_of(given: Mapping[str, str], request: Request, now_ms: int) -> JobFilter:
    """Return the filter that ``state``, ``queue``, ``type``, ``query`` and ``index`` ask for.

    Args:
        given: the parameters of the query string.
        request: the request. The filter matches only jobs that it may access.
        now_ms: the present time in Unix milliseconds, from which ages in a search are counted.

    Raises:
        InvalidRequest: a parameter is invalid.
        PermissionDenied: the API key may not access the queue.
    """
    queues = request.queues
    queue = check_queue(given["queue"], field="queue") if given.get("queue") else None
    if queue is not None:
        check_queues(queues, [queue])
        queues = None
    wanted = JobFilter(
        state=state_of(given.get("state")),
        queue=queue,
        type=given.get("type") or None,
        within=queues,
        tenant=request.tenant,
    )
    text = given.get("query", "").strip()
    by_index = not given.get("index") or query.boolean(given, "index")
    # A key for one queue would learn of other jobs, too: a set has the jobs of all queues.
    by_index = by_index and request.queues is None
    return replace(with_search(wanted, text, now_ms), by_index=by_index) if text else wanted


def with_search(wanted: JobFilter, text: str, now_ms: int) -> JobFilter:
    """Return ``wanted`` with a search.

    Raises:
        InvalidRequest: the text is not a search.
    """
    search = parse_search(text, now_ms=now_ms)
    # Each queue has indexes of its own. So a search in one queue examines only its jobs.
    queues = search.exact_values("queue") or frozenset()
    if wanted.queue is None and len(queues) == 1 and is_queue(*queues):
        wanted = replace(wanted, queue=next(iter(queues)))
    return replace(wanted, search=search, since_ms=search.since_ms, until_ms=search.until_ms)


async def find(
    app: App, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None
) -> tuple[JobPage, int, int | None]:
    """Read a page after ``cursor``, or after the first ``offset`` jobs.

    Returns:
        The page, the number of jobs that were skipped before it, and the number of all jobs that
        match. This number is None if counting the jobs would take a scan.
    """
    if offset and wanted.search is not None:
        raise InvalidRequest("a search has no offsets and page numbers: use the cursor")
    if cursor or wanted.is_sorted:
        page = await lists.list_jobs(app.store, wanted, limit=limit, cursor=cursor, offset=offset)
        skipped = offset if page.total is None else min(offset, page.total)
        return page, skipped, page.total
    page = JobPage([], None)
    cursor, skipped = await _skip(app, wanted, offset)
    if cursor or not skipped:
        page = await lists.list_jobs(app.store, wanted, limit=limit, cursor=cursor)
    return page, skipped, await _total(app, wanted, skipped, page)


async def _skip(app: App, wanted: JobFilter, offset: int) -> tuple[str | None, int]:
    """Skip the first ``offset`` jobs.

    Returns:
        The cursor after these jobs, None if no other jobs follow, and the number of skipped jobs.
    """
    cursor, skipped, reads = None, 0, 0
    while skipped < offset:
        reads += 1
        if reads > _MAX_SKIP_READS:  # few jobs match, so it takes many reads to skip them
            raise InvalidRequest("too far into this list: use the cursor", field="offset")
        page = await lists.list_jobs(
            app.store, wanted, limit=min(_SKIPPED_AT_ONCE, offset - skipped), cursor=cursor
        )
        cursor, skipped = page.next_cursor, skipped + len(page.jobs)
        if cursor is None:
            break
    return cursor, skipped


async def _total(app: App, wanted: JobFilter, skipped: int, page: JobPage) -> int | None:
    if page.index is not None:
        return None  # other jobs may match that the index lacks
    if page.next_cursor is None:
        return skipped + len(page.jobs)
    if wanted.queue is None or not wanted.counted:
        return None
    counts = (await store_queues.get_stats(app.store, wanted.queue)).counts
    return sum(counts.values()) if wanted.state is None else counts[wanted.state]


def state_of(text: str | None) -> State | None:
    """Return the state with this name; None if there is no name.

    Raises:
        InvalidRequest: no state has this name.
    """
    if not text:
        return None
    try:
        return State(text)
    except ValueError:
        known = ", ".join(State)
        raise InvalidRequest(f"state must be one of {known}", field="state") from None
