"""List, read, pause, resume and purge queues (spec: ojs-http-binding 11, ojs-queue-config)."""

from __future__ import annotations

from typing import Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.queues import queues as store_queues
from ojs_cluster.store.queues.queues import QueueStats


class PurgeBody(msgspec.Struct, frozen=True):
    """The jobs to delete: ``states`` names them, or ``confirm`` is true."""

    states: list[str] | None = None
    confirm: bool | None = None


_purge_decoder = msgspec.json.Decoder(PurgeBody)


async def list_queues(app: App, request: Request) -> Response:
    """List queues by name.

    ``GET /ojs/v1/queues?limit&offset`` (spec: ojs-http-binding 11.1)
    """
    page = query.page(query.parameters(request.query))
    found, total = await store_queues.list_queues(
        app.store, limit=page.limit, offset=page.offset, within=request.queues
    )
    queues = [_summary(queue) for queue in found]
    return replies.json_response(
        200,
        {
            "queues": queues,
            "total": total,
            "pagination": query.pagination(page, len(queues), total),
        },
    )


async def get(app: App, _request: Request, name: str) -> Response:
    """Return a queue with its counts.

    ``GET /ojs/v1/queues/{name}`` (spec: ojs-queue-config 9.3)
    """
    check_queue(name, field="name")
    if not await store_queues.exists(app.store, name):
        raise NotFound("queue", name)
    found = await store_queues.get_stats(app.store, name)
    summary = {**_summary(found), "depth": found.depth, "running": found.counts[State.ACTIVE]}
    return replies.json_response(200, {"queue": summary, **summary})


async def stats(app: App, request: Request, name: str) -> Response:
    """Return the statistics of a queue; those of an unknown queue are zero.

    ``queue`` is an object, or the queue's name for a client that names its version: the SDKs and
    the schema have a name there, the OpenAPI document and the suites an object.

    ``GET /ojs/v1/queues/{name}/stats`` (spec: ojs-http-binding 11.2)
    """
    found = await store_queues.get_stats(app.store, check_queue(name, field="name"))
    shown = _stats(found)
    if request.names_version:
        shown["queue"] = name
    return replies.json_response(200, shown)


async def pause(app: App, _request: Request, name: str) -> Response:
    """Pause a queue, so that workers get no more of its jobs. A body is ignored.

    ``POST /ojs/v1/queues/{name}/pause`` (spec: ojs-http-binding 11.3)
    """
    at_ms = await store_queues.pause_or_resume(app.store, check_queue(name, field="name"), "pause")
    return _pause_response(name, True, "paused_at", at_ms)


async def resume(app: App, _request: Request, name: str) -> Response:
    """Resume a queue. A body is ignored.

    ``POST /ojs/v1/queues/{name}/resume`` (spec: ojs-http-binding 11.4)
    """
    at_ms = await store_queues.pause_or_resume(app.store, check_queue(name, field="name"), "resume")
    return _pause_response(name, False, "resumed_at", at_ms)


async def purge(app: App, request: Request, name: str) -> Response:
    """Delete the available jobs of a queue.

    If ``left`` is above 0, there were too many jobs for one request, and the client repeats it.

    ``POST /ojs/v1/queues/{name}/purge`` (spec: ojs-admin-api 6.5)
    """
    check_queue(name, field="name")
    body = decode(_purge_decoder, request, app.settings.limits, optional=True)
    if body.states is None and body.confirm is not True:
        raise InvalidRequest(
            'name the states to purge, as in {"states": ["available"]}, or send confirm: true',
            field="states",
        )
    if body.states is not None and set(body.states) != {State.AVAILABLE.value}:
        raise Unsupported(
            "only available jobs can be purged: active ones are held by workers, finished ones "
            "are removed by their retention",
            field="states",
        )
    purged, left = await store_queues.purge(app.store, name)
    return replies.json_response(
        200, {"queue": name, "purged": purged, "deleted": purged, "left": left}
    )


def status(paused: bool) -> str:
    """Return the name of a queue's state."""
    return "paused" if paused else "active"


def _summary(queue: QueueStats) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": queue.name,
        "status": status(queue.paused),
        "paused": queue.paused,
        **counts(queue),
    }
    if queue.created_ms is not None:
        summary["created_at"] = replies.iso(queue.created_ms)
    return summary


def counts(queue: QueueStats) -> dict[str, int]:
    """Return the number of jobs in each state, as clients see it."""
    shown = {state.value: queue.counts.get(state, 0) for state in State}
    # "completed" counts all jobs since the queue exists, including those that retention removed.
    shown["completed"] = queue.acked
    return shown


def _pause_response(name: str, paused: bool, time_name: str, at_ms: int) -> Response:
    members = {
        "name": name,
        "paused": paused,
        "status": status(paused),
        time_name: replies.iso(at_ms),
    }
    return replies.json_response(200, {"queue": members, **members})


def _stats(found: QueueStats) -> dict[str, Any]:
    jobs = counts(found)
    identity = {"name": found.name, "paused": found.paused, "status": status(found.paused)}
    shown: dict[str, Any] = {
        "queue": {**identity, **jobs},
        "stats": {
            "queue": found.name,
            "depth": found.depth,
            **jobs,
            "dead": found.dead,
            "completed_last_hour": found.completed_last_hour,
            "failed_last_hour": found.failed_last_hour,
            "avg_duration_ms": found.avg_duration_ms,
            "avg_wait_ms": found.avg_wait_ms,
            "throughput_per_second": round(found.completed_last_hour / 3600, 3),
        },
        **identity,
        "depth": found.depth,
        "dead_letter": found.dead,
        **jobs,
        "computed_at": replies.iso(found.now_ms),
    }
    if found.created_ms is not None:
        shown["created_at"] = replies.iso(found.created_ms)
    return shown
