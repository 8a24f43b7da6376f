"""Queues: list, look, pause, resume, purge (spec: ojs-http-binding 13, ojs-queue-config)."""

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
    """Which jobs to delete: ``states`` names them, or ``confirm`` is true."""

    states: list[str] | None = None
    confirm: bool | None = None


_purge_decoder = msgspec.json.Decoder(PurgeBody)


async def list_queues(app: App, request: Request) -> Response:
    """GET /ojs/v1/queues?limit&offset"""
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
            "pagination": replies.pagination(
                limit=page.limit,
                shown=len(queues),
                offset=page.offset,
                total=total,
                cursor=query.next_cursor(page, len(queues), total),
            ),
        },
    )


async def get(app: App, _request: Request, name: str) -> Response:
    """GET /ojs/v1/queues/{name}"""
    check_queue(name, field="name")
    if not await store_queues.exists(app.store, name):
        raise NotFound("queue", name)
    summary = _summary(await store_queues.get_stats(app.store, name))
    return replies.json_response(200, {"queue": summary, **summary})


async def stats(app: App, _request: Request, name: str) -> Response:
    """GET /ojs/v1/queues/{name}/stats. A queue that does not exist has zeros, not a 404."""
    found = await store_queues.get_stats(app.store, check_queue(name, field="name"))
    return replies.json_response(200, _stats(found))


async def pause(app: App, _request: Request, name: str) -> Response:
    """POST /ojs/v1/queues/{name}/pause. A body is ignored."""
    at = await store_queues.pause_or_resume(app.store, check_queue(name, field="name"), "pause")
    return _switched(name, True, "paused_at", at)


async def resume(app: App, _request: Request, name: str) -> Response:
    """POST /ojs/v1/queues/{name}/resume. A body is ignored."""
    at = await store_queues.pause_or_resume(app.store, check_queue(name, field="name"), "resume")
    return _switched(name, False, "resumed_at", at)


async def purge(app: App, request: Request, name: str) -> Response:
    """POST /ojs/v1/queues/{name}/purge: deletes the available jobs.

    ``left`` is above 0 when there were too many for one request; repeat it.
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
    """The state of a queue, in the word for it."""
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
    """Jobs in each state, as clients are told."""
    shown = {state.value: queue.counts.get(state, 0) for state in State}
    # Completed counts jobs acknowledged since the queue began: those that retention has removed
    # still happened.
    shown["completed"] = queue.acked
    return shown


def _switched(name: str, paused: bool, moment: str, at_ms: int) -> Response:
    switch = {
        "name": name,
        "paused": paused,
        "status": status(paused),
        moment: replies.iso(at_ms),
    }
    return replies.json_response(200, {"queue": switch, **switch})


def _stats(found: QueueStats) -> dict[str, Any]:
    jobs = counts(found)
    switch = {"name": found.name, "paused": found.paused, "status": status(found.paused)}
    return {
        "queue": {**switch, **jobs},
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
        **switch,
        **jobs,
        "computed_at": replies.iso(found.now_ms),
    }
