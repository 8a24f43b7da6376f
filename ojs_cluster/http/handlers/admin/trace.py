"""Return the phases of a job's life, as far as the job itself keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.jobs import JobLease, Phase, Trace
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f


class _Failure(NamedTuple):
    """An error of a job: the number of its attempt, its time in Unix ms, and its message."""

    attempt: int
    at_ms: int
    message: str


@dataclass(frozen=True, slots=True)
class _Phase:
    """A phase: its name, the state during it, its beginning in Unix ms, and the error before it."""

    name: str
    state: State
    at_ms: int
    error: str = ""


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return the phases of a job, oldest first, with the time that each took.

    A job keeps its last errors (``OJS_ERRORS_KEPT``) and the start of its last attempt. So the
    trace has no starts of earlier attempts, and nothing from before a manual retry.
    ``errors_omitted`` counts the errors that the job does not keep any more. The last phase of a
    job that has not ended lasts until now. ``worker_id`` is the worker of the last attempt, and
    ``lease_expires_at`` tells when the lease of an active job ends unless it is extended.
    """
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    errors = [error for error in map(_failure, job.errors()) if error is not None]
    phases = sorted(_phases(job, errors), key=lambda phase: phase.at_ms)
    ends = [phase.at_ms for phase in phases[1:]] + [app.store.clock.now_ms()]
    lease_ends_ms = int(job.fields.get(f.DEADLINE) or 0) if job.state is State.ACTIVE else 0
    lease: JobLease = {"job_id": job.id}
    if job.worker_id:
        lease["worker_id"] = job.worker_id
    if lease_ends_ms:
        lease["lease_expires_at"] = replies.iso(lease_ends_ms)
    members: Trace = {
        **lease,
        "state": job.state,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "errors_omitted": max(0, int(job.fields.get(f.ERRORS, 0)) - len(errors)),
        "snapshots": [_snapshot(phase, end_ms) for phase, end_ms in zip(phases, ends, strict=True)],
    }
    return replies.json_response(200, members)


def _phases(job: JobRecord, errors: list[_Failure]) -> Iterator[_Phase]:
    """Yield the phases. Those that begin in the same millisecond are in their order."""
    yield _Phase("created", _first_state(job), job.created_ms)
    yield from _failed(error for error in errors if error.attempt < job.attempt)
    started_ms, available_ms = job.started_ms, int(job.fields.get(f.ENQUEUED) or 0)
    returned_to_queue = available_ms > (started_ms or 0) or job.state is State.AVAILABLE
    available = _Phase("available", State.AVAILABLE, available_ms)
    if available_ms > job.created_ms and not returned_to_queue:
        yield available
    if started_ms is not None:
        yield _Phase(f"attempt {job.attempt}", State.ACTIVE, started_ms)
    last = [error for error in errors if error.attempt >= job.attempt]
    yield from _failed(error for error in last if error.at_ms != job.finished_ms)
    if available_ms > job.created_ms and returned_to_queue:
        yield available
    if job.finished_ms is not None:
        ended_by = [error.message for error in last if error.at_ms == job.finished_ms]
        yield _Phase("ended", job.state, job.finished_ms, "".join(ended_by[-1:]))


def _failed(errors: Iterable[_Failure]) -> Iterator[_Phase]:
    for error in errors:
        yield _Phase(f"attempt {error.attempt} failed", State.RETRYABLE, error.at_ms, error.message)


def _first_state(job: JobRecord) -> State:
    """Return the state in which a job began, as far as it is known."""
    if job.state is State.PENDING:
        return State.PENDING
    members = object_members(job.envelope() + b"}") or {}
    is_scheduled = f.SCHEDULED_SHOWN in job.fields or "scheduled_at" in members
    return State.SCHEDULED if is_scheduled else State.AVAILABLE


def _failure(error: bytes) -> _Failure | None:
    """Return a stored error; None if it is damaged."""
    try:
        found = orjson.loads(error)
        at_ms = parse_timestamp(found["occurred_at"]).ms
        message = str(found.get("message") or found.get("type") or "")
        return _Failure(int(found["attempt"]), at_ms, message)
    except (KeyError, TypeError, ValueError):
        return None


def _snapshot(phase: _Phase, end_ms: int) -> Phase:
    took_ms = 0 if phase.state in TERMINAL else max(0, end_ms - phase.at_ms)
    return {
        "phase": phase.name,
        "state": phase.state,
        "at": replies.iso(phase.at_ms),
        "duration": f"{took_ms / 1000:.3f}s",
        "duration_ms": took_ms,
        "error": phase.error,
    }
