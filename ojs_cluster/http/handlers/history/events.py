"""Return the history of a job, as far as the job itself keeps it (spec: ojs-execution-history).

A job keeps its last errors with their times (``OJS_ERRORS_KEPT``), and the times of its creation,
of the start of its last attempt, and of its end. All events here follow from these exactly. A log
of all events per job was refused: each fetch and ack would write an entry, which costs more than
three percent of the throughput.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.openapi.shapes.history import HistoryActor, HistoryEvent, HistoryType
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs as store_jobs
from ojs_cluster.store.jobs.record import JobRecord

_LOST_LEASE: Final = frozenset({"visibility_timeout", "worker_lost"})
"""Types of errors after which a job is available at once, without a backoff."""
_BY_SYSTEM: Final = _LOST_LEASE | {"timeout"}
"""Types of errors that the server itself reports."""


class _Failed(msgspec.Struct, frozen=True):
    """A failed attempt: its number, its end in Unix ms, and the type and message of its error."""

    attempt: int
    at_ms: int
    type: str
    message: str


async def get(app: App, request: Request, job_id: str) -> Response:
    """Return the history of a job, oldest event first, as far as the job keeps it.

    The job keeps its last errors, and the start of its last attempt. So the starts of earlier
    attempts, and older errors, are missing. ``complete`` is then false. The events are kept as long
    as the job.

    ``GET /ojs/v1/jobs/{id}/history?limit&cursor`` (spec: ojs-execution-history 7.1)
    """
    page = query.page(query.parameters(request.query))
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    failed = [each for each in map(_failed, job.errors()) if each is not None]
    events = sorted(_events(job, failed), key=lambda event: event["timestamp"])
    shown = events[page.offset : page.offset + page.limit]
    pages = query.pagination(page, len(shown), len(events))
    kept_all = int(job.fields.get(f.ERRORS) or 0) == len(failed)
    history: dict[str, Any] = {
        "job_id": job.id,
        "events": shown,
        "total": len(events),
        "complete": job.attempt <= 1 and not job.replays and kept_all,
        "pagination": pages,
    }
    if "next_cursor" in pages:
        history["next_cursor"] = pages["next_cursor"]
    return replies.json_response(200, history)


def _events(job: JobRecord, failed: list[_Failed]) -> Iterator[HistoryEvent]:
    """Yield the events. Those of the same millisecond come in the order of their causes."""
    members = object_members(job.envelope() + b"}") or {}
    created = {
        "queue": job.queue,
        "type": job.type,
        "args_size_bytes": len(bytes(members.get("args", b"[]"))),
    }
    yield _event(job, "job.created", job.created_ms, created)
    for each, following in pairwise([*failed, None]):
        assert each is not None  # noqa: S101 - for mypy: only the last one is None
        # A worker may have returned a later attempt without starting it. The job keeps that start.
        is_last = each.attempt == job.attempt and following is None
        if is_last and (job.started_ms or 0) <= each.at_ms:
            yield from _started(job)
        yield from _failure(job, each, following)
    if not failed or failed[-1].attempt != job.attempt:
        yield from _started(job)
    yield from _end(job, failed)


def _started(job: JobRecord) -> Iterator[HistoryEvent]:
    """Yield the start of the last attempt."""
    if job.started_ms is None:
        return
    yield _change(job, job.started_ms, State.AVAILABLE, State.ACTIVE)
    actor: HistoryActor = {"type": "worker"}
    data: dict[str, Any] = {"attempt": job.attempt}
    if job.state is State.ACTIVE and job.worker_id is not None:
        actor["id"] = data["worker_id"] = job.worker_id
    yield _event(job, "job.attempt_started", job.started_ms, data, actor)


def _failure(job: JobRecord, failed: _Failed, following: _Failed | None) -> Iterator[HistoryEvent]:
    """Yield the end of a failed attempt."""
    actor: HistoryActor = {"type": "system" if failed.type in _BY_SYSTEM else "worker"}
    retried = _is_retried(job, failed, following)
    data = {
        "attempt": failed.attempt,
        "error": failed.message,
        "error_type": failed.type,
        "will_retry": retried,
    }
    yield _event(job, "job.attempt_failed", failed.at_ms, data, actor)
    if retried:
        to = State.AVAILABLE if failed.type in _LOST_LEASE else State.RETRYABLE
        yield _change(job, failed.at_ms, State.ACTIVE, to)


def _is_retried(job: JobRecord, failed: _Failed, following: _Failed | None) -> bool:
    """Return whether another attempt was to follow a failed one.

    Only the last error can have ended the job. A manual retry removes the errors before it.
    """
    ended_job = job.state is State.DISCARDED and not job.expired
    return not (following is None and ended_job and failed.at_ms == job.finished_ms)


def _end(job: JobRecord, failed: list[_Failed]) -> Iterator[HistoryEvent]:
    """Yield the end of a job that has ended."""
    at_ms = job.finished_ms
    if at_ms is None:
        return
    data: dict[str, Any]
    if job.state is State.COMPLETED:
        took_ms = max(0, at_ms - (job.started_ms or at_ms))
        data = {"attempt": job.attempt, "duration_ms": took_ms}
        yield _event(job, "job.attempt_completed", at_ms, data, {"type": "worker"})
        yield _change(job, at_ms, State.ACTIVE, State.COMPLETED)
    elif job.state is State.CANCELLED:
        yield _event(job, "job.cancelled", at_ms, {})
    else:
        data = {"total_attempts": job.attempt, "expired": job.expired}
        if failed and not job.expired:
            data["last_error"] = failed[-1].message
        if failed and failed[-1].at_ms == at_ms:
            yield _change(job, at_ms, State.ACTIVE, State.DISCARDED)
        yield _event(job, "job.discarded", at_ms, data, {"type": "system"})


def _change(job: JobRecord, at_ms: int, old: State, new: State) -> HistoryEvent:
    event = _event(job, "job.state_changed", at_ms, {"from": old.value, "to": new.value})
    # A job may change its state twice in one millisecond.
    event["id"] += f"_{new.value}"
    return event


def _event(
    job: JobRecord,
    kind: HistoryType,
    at_ms: int,
    data: dict[str, Any],
    actor: HistoryActor | None = None,
) -> HistoryEvent:
    event: HistoryEvent = {
        "id": f"evt_{job.id}_{at_ms}_{kind}",
        "job_id": job.id,
        "event_type": kind,
        "timestamp": replies.iso(at_ms),
        "data": data,
    }
    if actor is not None:
        event["actor"] = actor
    return event


def _failed(error: bytes) -> _Failed | None:
    """Return a failed attempt; None for a damaged error."""
    try:
        found = orjson.loads(error)
        at_ms = parse_timestamp(found["occurred_at"]).ms
        kind = str(found.get("type") or found.get("code") or "")
        return _Failed(int(found["attempt"]), at_ms, kind, str(found.get("message") or kind))
    except (KeyError, TypeError, ValueError):
        return None
