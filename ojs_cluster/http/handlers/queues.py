"""List, read, pause and resume queues (spec: ojs-http-binding 11, ojs-queue-config)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, cast

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import QUEUES
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import queues as shapes
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues import queues as store_queues
from ojs_cluster.store.engine.queues.pauses import QueueAction
from ojs_cluster.store.engine.queues.priority_counts import count_by_priority
from ojs_cluster.store.engine.queues.queues import QueueStats
from ojs_cluster.store.engine.tenants.tenant_counts import read_queue_counts

_PauseTime: TypeAlias = Literal["paused_at", "draining_at", "resumed_at"]


async def list_queues(app: App, request: Request) -> Response:
    """List queues by name.

    (spec: ojs-http-binding 11.1)
    """
    page = query.page(query.parameters(request.query), QUEUES)
    found, total, last = await store_queues.list_queues(
        app.store, limit=page.limit, offset=page.offset, after=page.after, within=request.queues
    )
    queues = [_summary(queue) for queue in found]
    pages = query.pagination(page, len(queues), total, last)
    members = shapes.QueueList(queues=queues, total=total, pagination=pages)
    return replies.json_response(200, members)


async def get(app: App, request: Request, name: str) -> Response:
    """Return a queue with its counts. For a request of a tenant, they are those of its jobs.

    (spec: ojs-queue-config 9.3)
    """
    check_queue(name, field="name")
    if not await store_queues.exists(app.store, name):
        raise NotFound("queue", name)
    queue = await _read_stats(app, request, name)
    if queue.deleted:
        raise NotFound("queue", name)
    running = queue.counts[State.ACTIVE]
    detail = shapes.QueueDetail({**_summary(queue), "depth": queue.depth, "running": running})
    return replies.json_response(200, shapes.QueueAnswer({"queue": detail, **detail}))


async def stats(app: App, request: Request, name: str) -> Response:
    """Return the statistics of a queue. For an unknown queue all numbers are 0.

    For a request of a tenant, the counts are those of its jobs. The numbers of dead letters and of
    the last hour are not known by tenant, so they are absent.

    The SDKs, which send ``OJS-Version``, and the command line client get the name of the queue as
    ``queue``. Other clients get an object, as in the OpenAPI document and the conformance suites.

    (spec: ojs-http-binding 11.2)
    """
    members = _stats(await _read_stats(app, request, check_queue(name, field="name")))
    if request.tenant is not None:
        numbers = members["stats"]
        del numbers["dead"], numbers["completed_last_hour"], numbers["failed_last_hour"]
        del numbers["avg_duration_ms"], numbers["avg_wait_ms"], numbers["throughput_per_second"]
        del members["dead_letter"]
    if request.names_version or request.from_cli:
        members["queue"] = name
    return replies.json_response(200, members)


async def priority_stats(app: App, _request: Request, name: str) -> Response:
    """Return how many available jobs of a queue have each priority, highest first.

    An unknown queue has no jobs.

    (spec: ojs-priority)
    """
    counts = await count_by_priority(app.store, check_queue(name, field="name"))
    return replies.json_response(
        200,
        shapes.PriorityStatistics(
            queue=name,
            distribution=[{"priority": priority, "count": jobs} for priority, jobs in counts],
            available=sum(jobs for _, jobs in counts),
        ),
    )


async def pause(app: App, _request: Request, name: str) -> Response:
    """Pause a queue, so that workers get no jobs from it. The request body is ignored.

    (spec: ojs-http-binding 11.3)
    """
    return await _change_state(app, name, "pause", "paused_at")


async def drain(app: App, _request: Request, name: str) -> Response:
    """Refuse new jobs of a queue, which its workers then empty. The request body is ignored.

    Jobs that were accepted before are never refused: retries, scheduled jobs and later steps of
    workflows still enter the queue.

    (spec: ojs-queue-config 5.1)
    """
    return await _change_state(app, name, "drain", "draining_at")


async def resume(app: App, _request: Request, name: str) -> Response:
    """Resume a queue that is paused or draining. The request body is ignored.

    (spec: ojs-http-binding 11.4)
    """
    return await _change_state(app, name, "resume", "resumed_at")


async def _read_stats(app: App, request: Request, name: str) -> QueueStats:
    """Return the numbers of a queue. Their counts are those of the request's tenant, if any."""
    stats = await store_queues.get_stats(app.store, name)
    if request.tenant is None:
        return stats
    numbers = await read_queue_counts(app.store, request.tenant, name)
    return replace(
        stats, counts={state: numbers[state.value] for state in State}, acked=numbers["acked"]
    )


def _summary(queue: QueueStats) -> shapes.QueueSummary:
    summary: shapes.QueueSummary = {
        "name": queue.name,
        "status": queue.status,
        "paused": queue.paused,
        **counts(queue),
    }
    if queue.created_ms is not None:
        summary["created_at"] = replies.iso(queue.created_ms)
    return summary


def counts(queue: QueueStats) -> shapes.StateCounts:
    """Return the number of jobs by state.

    "completed" also counts the jobs that were removed when their retention ended.
    """
    by_state = {state.value: queue.counts.get(state, 0) for state in State}
    by_state["completed"] = queue.acked
    return state_counts(by_state)


def state_counts(by_state: Mapping[str, int]) -> shapes.StateCounts:
    """Return the numbers of jobs by the names of all states as members of a response."""
    return cast("shapes.StateCounts", by_state)


async def _change_state(
    app: App, name: str, action: QueueAction, time_name: _PauseTime
) -> Response:
    """Pause, drain or resume a queue; return its state, and the time under ``time_name``."""
    check_queue(name, field="name")
    at_ms, status = await pauses.pause_or_resume(app.store, name, action)
    members: shapes.PauseMembers = {"name": name, "paused": status == "paused", "status": status}
    members[time_name] = replies.iso(at_ms)
    return replies.json_response(200, shapes.PauseAnswer({"queue": members, **members}))


def _stats(queue: QueueStats) -> shapes.QueueStatistics:
    jobs = counts(queue)
    identity = shapes.QueueIdentity(name=queue.name, paused=queue.paused, status=queue.status)
    shown: shapes.QueueStatistics = {
        "queue": {**identity, **jobs},
        "stats": {
            "queue": queue.name,
            "depth": queue.depth,
            **jobs,
            "dead": queue.dead,
            "completed_last_hour": queue.completed_last_hour,
            "failed_last_hour": queue.failed_last_hour,
            "avg_duration_ms": queue.avg_duration_ms,
            "avg_wait_ms": queue.avg_wait_ms,
            "throughput_per_second": round(queue.completed_per_minute / 60, 3),
        },
        **identity,
        "depth": queue.depth,
        "dead_letter": queue.dead,
        **jobs,
        "computed_at": replies.iso(queue.now_ms),
    }
    if queue.created_ms is not None:
        shown["created_at"] = replies.iso(queue.created_ms)
    return shown
