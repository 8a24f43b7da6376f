"""Put the history of a job together, from its own fields and from what it has recorded.

The fields of a job tell when it was created, when its last attempt began, how it has ended, and
its last errors. Its entries tell what later transitions have overwritten
(``store/engine/jobs/history_entries.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.http import replies
from ojs_cluster.http.shapes.history import HistoryActor, HistoryEvent, HistoryType
from ojs_cluster.store.engine.jobs.history_entries import Entry, recorded
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f

_LOST_LEASE: Final = frozenset({"visibility_timeout", "worker_lost"})
"""Types of errors after which a job is available at once, without a backoff."""
_BY_SYSTEM: Final = _LOST_LEASE | {"timeout"}
"""Types of errors that the server itself reports."""
_ENDS_OF_ATTEMPTS: Final = frozenset({"failed", "requeued"})


class History(msgspec.Struct, frozen=True):
    """The events of a job, oldest first, and whether none is missing."""

    events: Sequence[HistoryEvent]
    complete: bool


def history_of(job: JobRecord) -> History:
    """Return the history of a job."""
    known = recorded(job.fields)
    entries = _with_errors(job, known.entries)
    events = sorted(_Events(job, entries).all(), key=lambda event: event["timestamp"])
    return History(events, known.dropped == 0 and _covers_all_attempts(job, entries))


def _with_errors(job: JobRecord, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with the errors that the job itself keeps, which are not shortened.

    An error without an entry is from a time when the job recorded nothing.
    """
    errors = {(each.attempt, each.at_ms): each for each in map(_failed, job.errors()) if each}
    merged: list[Entry] = []
    for entry in entries:
        error = errors.pop((entry.attempt, entry.at_ms), None) if entry.kind == "failed" else None
        merged.append(msgspec.structs.replace(entry, error=error.error) if error else entry)
    return sorted([*merged, *errors.values()], key=lambda entry: entry.at_ms)


def _failed(error: bytes) -> Entry | None:
    """Return an error of the job as an entry; None for a damaged error."""
    try:
        found = orjson.loads(error)
        at_ms = parse_timestamp(found["occurred_at"]).ms
        return Entry(kind="failed", at_ms=at_ms, attempt=int(found["attempt"]), error=found)
    except (KeyError, TypeError, ValueError):
        return None


def _covers_all_attempts(job: JobRecord, entries: Sequence[Entry]) -> bool:
    """Return whether the entries tell of each attempt before the last one."""
    replays = expected = 0
    for entry in entries:
        if entry.kind in _ENDS_OF_ATTEMPTS:
            expected += 1
            is_last = entry.attempt == job.attempt and entry is entries[-1]
            if entry.attempt != expected or not (entry.started_ms or is_last):
                return False
        elif entry.kind == "retried":
            if entry.attempt != expected:
                return False
            replays, expected = replays + 1, 0
    return replays == job.replays and job.attempt - expected in (0, 1)


class _Events:
    """The events of one job.

    Args:
        job: the job.
        entries: the entries, oldest first.
    """

    def __init__(self, job: JobRecord, entries: Sequence[Entry]) -> None:
        self._job = job
        self._entries = entries
        self._waits: State | None = _first_state(job, entries)
        """The state in which the job waits to become available, None if it does not wait."""
        self._waits_since_ms = job.created_ms
        self._attempt = 0
        """Number of the last attempt since the last manual retry that an entry tells of."""
        self._last_error: Entry | None = None
        self._cancelled: Entry | None = None
        self._ids: dict[str, int] = {}

    def all(self) -> Iterator[HistoryEvent]:
        """Yield the events. Those of the same millisecond come in the order of their causes."""
        job = self._job
        members = object_members(job.envelope() + b"}") or {}
        created = {
            "queue": next((e.old_queue for e in self._entries if e.kind == "moved"), job.queue),
            "type": job.type,
            "args_size_bytes": len(bytes(members.get("args", b"[]"))),
        }
        yield self._event("job.created", job.created_ms, created)
        for entry, following in pairwise([*self._entries, None]):
            assert entry is not None  # noqa: S101 - for mypy: only the last one is None
            match entry.kind:
                case "failed" | "requeued":
                    yield from self._attempt_end(entry, following)
                case "retried":
                    yield from self._manual_retry(entry)
                case "priority":
                    data = {"from": entry.old, "to": entry.new}
                    yield self._event(
                        "job.priority_changed", entry.at_ms, _with_reason(data, entry), _by(entry)
                    )
                case "moved":
                    queues = {"from": entry.old_queue, "to": entry.new_queue}
                    yield self._event(
                        "job.moved", entry.at_ms, _with_reason(queues, entry), _by(entry)
                    )
                case "edited":
                    reason = _with_reason({}, entry)
                    yield self._event("job.edited", entry.at_ms, reason, _by(entry))
                case "cancelled":
                    self._cancelled = entry
        enqueued = int(job.fields.get(f.ENQUEUED) or 0)
        if job.state not in (State.SCHEDULED, State.PENDING, State.RETRYABLE):
            yield from self._available(enqueued)
        if job.attempt > self._attempt and job.started_ms is not None:
            yield from self._start(job.attempt, job.started_ms, job.worker_id or "")
        yield from self._end()

    def _available(self, at_ms: int) -> Iterator[HistoryEvent]:
        """Yield that a job that has waited became available, if ``at_ms`` is after the wait began.

        A job that was cancelled, or has expired, while it waited, has an earlier time or none.
        """
        if self._waits is not None and at_ms > self._waits_since_ms:
            yield self._change(at_ms, self._waits, State.AVAILABLE)
        self._waits = None

    def _start(self, attempt: int, at_ms: int, worker: str) -> Iterator[HistoryEvent]:
        yield self._change(at_ms, State.AVAILABLE, State.ACTIVE)
        data: dict[str, Any] = {"attempt": attempt}
        if worker:
            data["worker_id"] = worker
        yield self._event("job.attempt_started", at_ms, data, _worker(worker))

    def _attempt_end(self, entry: Entry, following: Entry | None) -> Iterator[HistoryEvent]:
        """Yield an attempt that has not completed the job."""
        job, started_ms, worker = self._job, entry.started_ms, entry.worker
        if not started_ms and following is None and entry.attempt == job.attempt:
            # The job still has the start of its last attempt.
            started_ms, worker = job.started_ms or 0, job.worker_id or ""
        yield from self._available(entry.enqueued_ms)
        if 0 < started_ms <= entry.at_ms:
            yield from self._start(entry.attempt, started_ms, worker)
        self._attempt = entry.attempt
        if entry.kind == "requeued":
            yield self._change(
                entry.at_ms, State.ACTIVE, State.AVAILABLE, _worker(worker), reason="requeued"
            )
            return
        self._last_error = entry
        retried = self._is_retried(entry, following)
        kind = str(entry.error.get("type") or entry.error.get("code") or "")
        data: dict[str, Any] = {
            "attempt": entry.attempt,
            "error": str(entry.error.get("message") or kind),
            "error_type": kind,
            "will_retry": retried,
        }
        if worker:
            data["worker_id"] = worker
        if 0 < started_ms <= entry.at_ms:
            data["duration_ms"] = entry.at_ms - started_ms
        actor: HistoryActor = {"type": "system"} if kind in _BY_SYSTEM else _worker(worker)
        yield self._event("job.attempt_failed", entry.at_ms, data, actor)
        if retried:
            self._waits = None if kind in _LOST_LEASE else State.RETRYABLE
            self._waits_since_ms = entry.at_ms
            yield self._change(entry.at_ms, State.ACTIVE, self._waits or State.AVAILABLE)

    def _is_retried(self, failed: Entry, following: Entry | None) -> bool:
        """Return whether another attempt was to follow a failed one."""
        if following is not None:
            is_end = following.kind == "retried" and not following.expired
            return not (is_end and following.finished_ms == failed.at_ms)
        job = self._job
        ended = job.state in (State.DISCARDED, State.CANCELLED) and not job.expired
        return not (ended and failed.at_ms == job.finished_ms)

    def _manual_retry(self, entry: Entry) -> Iterator[HistoryEvent]:
        """Yield the end of a job that was retried by hand, and the retry."""
        yield from self._discarded(entry.finished_ms, entry.attempt, expired=bool(entry.expired))
        data = _with_reason({"from": "discarded", "to": "available", "manual": True}, entry)
        yield self._event("job.state_changed", entry.at_ms, data, _by(entry), suffix="_available")
        self._attempt, self._waits, self._last_error = 0, None, None

    def _end(self) -> Iterator[HistoryEvent]:
        """Yield the end of a job that has ended."""
        job, at_ms = self._job, self._job.finished_ms
        if at_ms is None:
            return
        if job.state is State.COMPLETED:
            took_ms = max(0, at_ms - (job.started_ms or at_ms))
            data: dict[str, Any] = {"attempt": job.attempt, "duration_ms": took_ms}
            worker = _worker(job.worker_id or "")
            yield self._event("job.attempt_completed", at_ms, data, worker)
            yield self._change(at_ms, State.ACTIVE, State.COMPLETED)
        elif job.state is State.CANCELLED:
            cause = self._cancelled
            data = {} if cause is None or not cause.why else {"reason": cause.why}
            yield self._event("job.cancelled", at_ms, data, None if cause is None else _by(cause))
        else:
            yield from self._discarded(at_ms, job.attempt, expired=job.expired)

    def _discarded(self, at_ms: int, attempts: int, *, expired: bool) -> Iterator[HistoryEvent]:
        data: dict[str, Any] = {"total_attempts": attempts, "expired": expired}
        error = self._last_error
        if error is not None and not expired:
            data["last_error"] = str(error.error.get("message") or error.error.get("type") or "")
        if error is not None and error.at_ms == at_ms:
            yield self._change(at_ms, State.ACTIVE, State.DISCARDED)
        yield self._event("job.discarded", at_ms, data, {"type": "system"})

    def _change(
        self,
        at_ms: int,
        old: State,
        new: State,
        actor: HistoryActor | None = None,
        **more: str,
    ) -> HistoryEvent:
        # A job may change its state twice in one millisecond.
        data = {"from": old.value, "to": new.value, **more}
        return self._event("job.state_changed", at_ms, data, actor, suffix=f"_{new.value}")

    def _event(
        self,
        kind: HistoryType,
        at_ms: int,
        data: dict[str, Any],
        actor: HistoryActor | None = None,
        *,
        suffix: str = "",
    ) -> HistoryEvent:
        event_id = f"evt_{self._job.id}_{at_ms}_{kind}{suffix}"
        number = self._ids[event_id] = self._ids.get(event_id, 0) + 1
        event: HistoryEvent = {
            "id": event_id if number == 1 else f"{event_id}_{number}",
            "job_id": self._job.id,
            "event_type": kind,
            "timestamp": replies.iso(at_ms),
            "data": data,
        }
        if actor is not None:
            event["actor"] = actor
        return event


def _first_state(job: JobRecord, entries: Sequence[Entry]) -> State | None:
    """Return the state in which a new job may have waited; None if its end is not known.

    A job that has not waited has been enqueued when it was created.
    """
    if not entries and (job.attempt > 1 or job.replays):
        return None  # the job keeps the time of a later attempt
    members = object_members(job.envelope() + b"}") or {}
    is_scheduled = job.fields.get(f.SCHEDULED_SHOWN) or "scheduled_at" in members
    return State.SCHEDULED if is_scheduled else State.PENDING


def _worker(worker: str) -> HistoryActor:
    return {"type": "worker", "id": worker} if worker else {"type": "worker"}


def _by(entry: Entry) -> HistoryActor | None:
    if not entry.actor:
        return None
    actor: HistoryActor = {"type": entry.actor}
    if entry.actor_id:
        actor["id"] = entry.actor_id
    return actor


def _with_reason(data: dict[str, Any], entry: Entry) -> dict[str, Any]:
    return {**data, "reason": entry.why} if entry.why else data
