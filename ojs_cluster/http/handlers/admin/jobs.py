"""Search, read, retry, cancel and move jobs as an operator (spec: ojs-admin-api 7).

These responses have the members of a job at the top level, not inside ``job``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import Raw, join, stored_members
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.authorization.queue_scope import check_queues, check_read_job
from ojs_cluster.http.handlers import jobs
from ojs_cluster.http.handlers.job_order import with_order
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.common import QueueName
from ojs_cluster.store.engine.jobs import cancel as store_cancel
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters as store_dead
from ojs_cluster.store.features.queue_deletion.move_waiting import move as store_move
from ojs_cluster.store.features.search import lists
from ojs_cluster.store.features.workers import cancel_run as store_run

_MORE_READS = 9
"""How many reads may follow the first one to fill a page. Ten reads check at most 20 000 jobs."""
_TIMES: Final = (
    *("created_at", "enqueued_at", "started_at", "scheduled_at"),
    *("completed_at", "cancelled_at", "discarded_at"),
)
"""Times of a job that ``metadata`` repeats (spec: ojs-admin-api 7.2)."""
_NULL: Final = Raw(b"null")
_FULL_BYTES = 8 * 1024 * 1024
"""A page whose jobs have this many bytes counts as full."""


class JobMoveBody(msgspec.Struct, frozen=True):
    """The queue that the job gets."""

    queue: QueueName


_move_decoder = msgspec.json.Decoder(JobMoveBody)


async def list_jobs(app: App, request: Request) -> Response:
    """List jobs that match a filter.

    ``type`` may end in ``*``. ``query`` is a search (``core.search``), which may use the index of
    the search unless ``index`` is false (``store.search.indexed``). Then ``complete`` is false:
    the index may lack jobs. Jobs come newest first, as
    ``store.search.newest_first`` describes, unless ``sort`` or ``order`` asks for another order.
    The order by ``scheduled_at`` has an index. For the others the number of jobs is limited
    (``store.search.sorted_jobs``).

    (spec: ojs-admin-api 7.1)
    """
    given = query.parameters(request.query)
    found = jobs.filter_of(given, request, app.store.clock.now_ms())
    wanted = replace(within(given, found), worker=given.get("worker_id") or None)
    if wanted.worker is not None:
        if wanted.state not in (None, State.ACTIVE):
            raise InvalidRequest("only active jobs have a worker", field="state")
        wanted = replace(wanted, state=State.ACTIVE)
    return await listed(app, with_order(wanted, given), given)


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return a job.

    (spec: ojs-admin-api 7.2)
    """
    return _shown(await store_jobs.get(app.store, fields.job_id(job_id)))


async def retry(app: App, request: Request, job_id: str) -> Response:
    """Make a discarded job available again, whether or not it is a dead letter.

    A cancelled job cannot be retried: the core specification (6.5) forbids it. The admin document
    allows it, but the core specification has priority.

    (spec: ojs-admin-api 7.4)
    """
    return _shown(
        await store_dead.retry_discarded(app.store, fields.job_id(job_id), cause_of(app, request))
    )


async def cancel(app: App, request: Request, job_id: str) -> Response:
    """Cancel a job. The request body is ignored.

    (spec: ojs-admin-api 7.3)
    """
    return _shown(
        await store_cancel.cancel(app.store, fields.job_id(job_id), cause=cause_of(app, request))
    )


async def move(app: App, request: Request, job_id: str) -> Response:
    """Move a job that waits to another queue, where it is behind the jobs of its priority.

    It keeps its id, state, attempts and times. The queue need not exist. A job of another state, or
    one that is unique in its queue, is refused. So is a queue that drains, one that is full, and
    one with limits that cannot be divided again.
    """
    body = decode(_move_decoder, request, app.settings.limits)
    target = check_queue(body.queue, field="queue")
    check_queues(request.queues, [target])
    check = partial(check_read_job, request) if request.is_restricted else None
    job, before = await store_move(
        app.store, fields.job_id(job_id), target, cause_of(app, request), check
    )
    return msgspec.structs.replace(_shown(job), audit_old={"queue": before})


async def cancel_run(app: App, _request: Request, job_id: str) -> Response:
    """Cancel the current run of an active job, and let its retry policy decide what follows.

    The attempt fails with the error ``run_cancelled``, and the worker is told. The request body is
    ignored.
    """
    return _shown(await store_run.cancel_run(app.store, fields.job_id(job_id)))


def _shown(job: JobRecord) -> Response:
    """Return a response with a job, its times in ``metadata`` and its ``retry_policy``.

    ``errors`` is there even if no attempt has failed.
    """
    shown = job.json()
    members = stored_members(shown)
    if members is None:  # the stored JSON is damaged
        return Response(200, shown)
    times = b"{%b}" % join({name: members.get(name, _NULL) for name in _TIMES})
    policy = members.get("retry", Raw(DEFAULT_RETRY.json()))
    members |= {"metadata": Raw(times), "retry_policy": policy}
    members.setdefault("errors", Raw(b"[]"))
    return Response(200, b"{%b}" % join(members))


def within(given: Mapping[str, str], wanted: JobFilter) -> JobFilter:
    """Return the filter ``wanted`` with the times of the parameters ``since`` and ``until``.

    If the search in ``wanted`` has such times too, a job must match both.

    Raises:
        InvalidRequest: one of the parameters is not an absolute time.
    """
    since = fields.absolute_time_ms(given.get("since") or None, field="since")
    until = fields.absolute_time_ms(given.get("until") or None, field="until")
    return replace(
        wanted,
        since_ms=max((ms for ms in (since, wanted.since_ms) if ms is not None), default=None),
        until_ms=min((ms for ms in (until, wanted.until_ms) if ms is not None), default=None),
    )


async def listed(app: App, wanted: JobFilter, given: Mapping[str, str]) -> Response:
    """Return a page of the jobs that match ``wanted``.

    If counting the jobs would take a scan, ``total`` is a lower bound of their number, and
    ``total_exact`` is false. The number of reads is limited, so a page may have fewer entries than
    its size although other pages follow. It then has a ``next_cursor``, which continues after the
    last read entry. The next page number would skip jobs.
    """
    cursor = given.get("cursor") or None
    page = query.numbered_page({**given, "cursor": ""})
    if page.offset > jobs.MAX_OFFSET:
        raise InvalidRequest("too far into this list: use the cursor", field="page")
    limit, offset = page.limit, 0 if cursor else page.offset
    first, skipped, total = await jobs.find(app, wanted, limit=limit, offset=offset, cursor=cursor)
    shown_jobs, next_cursor = first.jobs, first.next_cursor
    end = time.monotonic() + lists.MAX_PAGE_S
    # A search has one read only, which examines as many entries as all reads of another list.
    for _ in range(_MORE_READS if wanted.search is None else 0):
        if next_cursor is None or len(shown_jobs) >= limit or _size(shown_jobs) >= _FULL_BYTES:
            break
        if time.monotonic() >= end:
            break
        more = await lists.list_jobs(
            app.store, wanted, limit=limit - len(shown_jobs), cursor=next_cursor
        )
        shown_jobs, next_cursor = [*shown_jobs, *more.jobs], more.next_cursor
    if total is None:
        total = await _total(app, wanted)
    lower_bound = skipped + len(shown_jobs) + (next_cursor is not None)
    if next_cursor is None and not cursor and first.index is None:
        total = skipped + len(shown_jobs)
    pagination = replies.pagination(
        limit=limit,
        shown=len(shown_jobs),
        offset=offset,
        total=lower_bound if total is None else total,
        cursor=next_cursor,
    )
    pagination["has_more"] = next_cursor is not None
    pagination["total_exact"] = total is not None
    if wanted.search is not None:
        pagination["examined"] = first.examined
    if first.index is not None:
        pagination |= {"index": first.index, "complete": False}
    return Response(
        200,
        b'{"items":%b,"pagination":%b}'
        % (replies.jobs_array(shown_jobs), replies.dumps(pagination)),
    )


def _size(jobs: Sequence[JobRecord]) -> int:
    return sum(len(value) for job in jobs for value in job.fields.values())


async def _total(app: App, wanted: JobFilter) -> int | None:
    if wanted.queue is not None or not wanted.counted:
        return None
    known = await app.overview.get()
    if known.counted < known.queues:
        return None
    counts = known.stats.counts
    return sum(counts.values()) if wanted.state is None else counts[wanted.state]
