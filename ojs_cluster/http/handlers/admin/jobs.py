"""Jobs as an operator searches, sees and moves them (spec: ojs-admin-api 7).

Here a job is answered as it is, not inside ``job``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers import jobs
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.dead_letters import dead_letters as store_dead
from ojs_cluster.store.jobs import cancel as store_cancel
from ojs_cluster.store.jobs import listing
from ojs_cluster.store.jobs import read_jobs as store_jobs
from ojs_cluster.store.jobs.listing import JobFilter
from ojs_cluster.store.jobs.record import JobRecord

_MORE_LOOKS = 9
"""How often a page that is not full is looked for further: 20 000 jobs altogether."""
_FULL_BYTES = 8 * 1024 * 1024
"""A page with so many bytes of jobs is full enough."""


async def list_jobs(app: App, request: Request) -> Response:
    """GET /ojs/v1/admin/jobs?queue&state&type&worker_id&since&until&page&per_page, or ``cursor``.

    ``type`` may end in ``*``. Jobs come in the order of the indexes they lie in: there is no other
    (docs/adr/002), so ``sort`` and ``order`` change nothing.
    """
    given = query.parameters(request.query)
    wanted = replace(
        within(given, jobs.filter_of(given, request.queues)), worker=given.get("worker_id") or None
    )
    if wanted.worker is not None:
        if wanted.state not in (None, State.ACTIVE):
            raise InvalidRequest("only active jobs have a worker", field="state")
        wanted = replace(wanted, state=State.ACTIVE)
    return await listed(app, wanted, given)


async def get(app: App, _request: Request, job_id: str) -> Response:
    """GET /ojs/v1/admin/jobs/{id}"""
    return Response(200, (await store_jobs.get(app.store, fields.job_id(job_id))).json())


async def retry(app: App, _request: Request, job_id: str) -> Response:
    """POST /ojs/v1/admin/jobs/{id}/retry: of a discarded job, dead letter or not.

    A cancelled one stays so: the admin document would have it run again, the core document, which
    goes before it, not (6.5).
    """
    job = await store_dead.retry_discarded(app.store, fields.job_id(job_id))
    return Response(200, job.json())


async def cancel(app: App, _request: Request, job_id: str) -> Response:
    """POST /ojs/v1/admin/jobs/{id}/cancel. A body is ignored."""
    return Response(200, (await store_cancel.cancel(app.store, fields.job_id(job_id))).json())


def within(given: Mapping[str, str], wanted: JobFilter) -> JobFilter:
    """``wanted`` in the time that ``since`` and ``until`` give. Raises InvalidRequest."""
    return replace(
        wanted,
        since_ms=fields.moment(given.get("since") or None, field="since"),
        until_ms=fields.moment(given.get("until") or None, field="until"),
    )


async def listed(app: App, wanted: JobFilter, given: Mapping[str, str]) -> Response:
    """A page of the jobs that ``wanted`` admits.

    Where it would take a scan to know how many there are, ``total`` is how many there are at
    least, and ``total_exact`` is false. A page that is not full and has a ``next_cursor`` has been
    looked for long enough: the cursor goes on where it ended, the next number might pass over jobs.
    """
    cursor = given.get("cursor") or None
    page = query.numbered_page({**given, "cursor": ""})
    if page.offset > jobs.MAX_OFFSET:
        raise InvalidRequest("too far into this list: use the cursor", field="page")
    limit, offset = page.limit, 0 if cursor else page.offset
    first, passed, total = await jobs.find(app, wanted, limit=limit, offset=offset, cursor=cursor)
    found, following = first.jobs, first.next_cursor
    for _ in range(_MORE_LOOKS):
        if following is None or len(found) >= limit or _size(found) >= _FULL_BYTES:
            break
        more = await listing.list_jobs(
            app.store, wanted, limit=limit - len(found), cursor=following
        )
        found, following = [*found, *more.jobs], more.next_cursor
    if total is None:
        total = await _total(app, wanted)
    least = passed + len(found) + (following is not None)
    if following is None and not cursor:
        total = passed + len(found)
    pages = replies.pagination(
        limit=limit,
        shown=len(found),
        offset=offset,
        total=least if total is None else total,
        cursor=following,
    )
    pages["has_more"] = following is not None
    pages["total_exact"] = total is not None
    return Response(
        200, b'{"items":%b,"pagination":%b}' % (replies.jobs_array(found), replies.dumps(pages))
    )


def _size(found: Sequence[JobRecord]) -> int:
    return sum(len(value) for job in found for value in job.fields.values())


async def _total(app: App, wanted: JobFilter) -> int | None:
    if wanted.queue is not None or not wanted.counted:
        return None
    known = await app.overview.get()
    if known.counted < known.queues:
        return None
    counts = known.stats.counts
    return sum(counts.values()) if wanted.state is None else counts[wanted.state]
