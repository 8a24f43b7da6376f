"""The transitions of jobs, as the server makes them (spec: ojs-core, "Job Lifecycle")."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ojs_client.testing.changes import Changes
from ojs_client.testing.fake_events import EventLog, of_job
from ojs_client.testing.fake_jobs import FakeJob, new_id
from ojs_client.testing.limits import RESCHEDULE_MS, Limits
from ojs_client.testing.refusals import Refusal, conflict, duplicate, not_found
from ojs_client.testing.times import iso, time_ms

DEFAULT_LEASE_MS: Final = 30_000
_MIN_SNOOZE_MS: Final = 1000
_LOST: Final = {
    "code": "visibility_timeout",
    "type": "visibility_timeout",
    "message": "the lease ended without ack, nack or heartbeat",
}


class JobStore:
    """The jobs of a fake server, and its clock.

    Args:
        now: the time at which the clock starts.
        on_end: called when a job has ended.

    Attributes:
        now_ms: the time of the server, as Unix time in milliseconds.
        changes: notified at each change of a job.
        events: the events of the jobs and workflows.
    """

    def __init__(self, now: datetime | None, on_end: Callable[[FakeJob], None]) -> None:
        start = now or datetime.now(UTC)
        self.now_ms: int = round(start.timestamp() * 1000)
        self.changes: Changes = Changes()
        self.events: EventLog = EventLog(self.changes)
        self._on_end = on_end
        self._limits = Limits()
        self._jobs: dict[str, FakeJob] = {}
        self._order = 0

    def __iter__(self) -> Iterator[FakeJob]:
        """Iterate over the jobs in the order in which they were created."""
        return iter(list(self._jobs.values()))

    def get(self, job_id: str) -> FakeJob:
        """Return a job.

        Raises:
            Refusal: there is no such job.
        """
        if job_id not in self._jobs:
            raise not_found("job", job_id)
        return self._jobs[job_id]

    # -- time

    def next_due_ms(self) -> int | None:
        """Return when the next job becomes due, expires or loses its lease; None for never."""
        times = [
            time
            for job in self
            if not job.ended
            for time in self._times_of(job)
            if time is not None and self.now_ms < time < math.inf
        ]
        return min(map(int, times), default=None)

    def _times_of(self, job: FakeJob) -> tuple[float | None, ...]:
        """Return the times at which something happens to a job, if nothing happens to it before."""
        if job.state == "active":
            return (job.lost_ms,)
        opens_at = self._opens_at(job) if job.state == "available" else None
        return job.due_ms, job.expires_ms, opens_at

    def _opens_at(self, job: FakeJob) -> float:
        return self._limits.opens_at(job, self._jobs.values(), self.now_ms)

    def is_blocked(self, job: FakeJob) -> bool:
        """Return whether an available job waits for its rate limit."""
        waits = job.limit is None or job.limit.on_limit == "wait"
        return waits and job.state == "available" and self._opens_at(job) > self.now_ms

    def move_to(self, now_ms: int) -> None:
        """Move the clock, discard jobs that have expired, and make due and lost jobs available."""
        self.now_ms = now_ms
        self.changes.notify()  # rate limits may let jobs start
        for job in self:
            if job.state == "active" and job.lost_ms <= now_ms:
                self.lose(job)
            if job.ended or job.state == "active":
                continue
            if job.expires_ms is not None and job.expires_ms <= now_ms:
                job.expired = True
                self._end(job, "discarded")
            elif job.due_ms is not None and job.due_ms <= now_ms:
                self._make_available(job)

    # -- producers

    def enqueue(
        self, bodies: Sequence[Any], *, pending: bool = False
    ) -> list[tuple[FakeJob, bool]]:
        """Store all jobs or none.

        Args:
            bodies: the enqueue requests.
            pending: whether the jobs wait for ``release``.

        Returns:
            For each body: the new job and False, or the existing job that it conflicts with and
            True.

        Raises:
            Refusal: a job is invalid or conflicts.
        """
        new = [FakeJob.from_request(body, self.now_ms) for body in bodies]
        before = dict(self._jobs)
        replaced: list[FakeJob] = []
        stored: list[tuple[FakeJob, bool]] = []
        try:
            for job in new:
                stored.append(self._store(job, replaced))  # noqa: PERF401 - may raise
        except Refusal:
            self._jobs = before
            raise
        for job in replaced:
            self._end(job, "cancelled")
        for job in new:
            if pending and job.id in self._jobs and job.state == "available":
                job.state = "pending"
            if job.limit is not None:
                self._limits.declare(job.limit)
            if self._jobs.get(job.id) is job:
                self.events.add_state(job, self.now_ms)
        return stored

    def _store(self, job: FakeJob, replaced: list[FakeJob]) -> tuple[FakeJob, bool]:
        earlier = self._conflicting(job, replaced)
        if job.id in self._jobs:
            raise duplicate(f"job '{job.id}' exists", id=job.id)
        if earlier is not None and job.uniqueness is not None:
            match job.uniqueness.on_conflict:
                case "ignore":
                    return earlier, True
                case "reject":
                    raise duplicate(
                        f"a job of the same uniqueness exists: '{earlier.id}' is {earlier.state}",
                        existing_job_id=earlier.id,
                        existing_job_state=earlier.state,
                    )
                case "replace_except_schedule" if earlier.due_ms and earlier.state == "scheduled":
                    job.schedule(earlier.due_ms, self.now_ms)
            replaced.append(earlier)
        self._jobs[job.id] = job
        self._append(job)
        return job, False

    def _conflicting(self, job: FakeJob, replaced: list[FakeJob]) -> FakeJob | None:
        policy = job.uniqueness
        if policy is None:
            return None
        for other in reversed(list(self)):
            if (
                other.uniqueness is not None
                and other.uniqueness.fingerprint == policy.fingerprint
                and other not in replaced
                and policy.counts(other.state, self.now_ms - other.created_ms)
            ):
                return other
        return None

    def release(self, job: FakeJob) -> None:
        """Make a job available that was enqueued as pending."""
        if job.state == "pending":
            self._make_available(job)

    def cancel(self, job_id: str) -> FakeJob:
        """Cancel a job.

        Raises:
            Refusal: there is no such job, or it has ended.
        """
        job = self.get(job_id)
        if job.ended:
            raise conflict(f"job '{job_id}' is {job.state}", job_id=job_id, state=job.state)
        self._end(job, "cancelled")
        return job

    def cancel_waiting(self, job: FakeJob) -> None:
        """Cancel a job of a cancelled workflow; an active job may finish its attempt."""
        if job.state == "active":
            job.cancel_requested = True
        elif not job.ended:
            self._end(job, "cancelled")

    # -- workers

    def fetch(
        self,
        queues: Iterable[str],
        count: int,
        worker_id: str,
        lease_ms: int = DEFAULT_LEASE_MS,
        types: Collection[str] | None = None,
    ) -> list[FakeJob]:
        """Lease available jobs to a worker: earlier queues first, then by priority and age."""
        fetched: list[FakeJob] = []
        for queue in queues:
            waiting = [
                job
                for job in self
                if job.state == "available"
                and job.queue == queue
                and (types is None or job.type in types)
            ]
            waiting.sort(key=lambda job: (-job.priority, job.order))
            for job in waiting:
                if len(fetched) < count and self._may_start(job):
                    self._start(job, worker_id, lease_ms)
                    fetched.append(job)
        return fetched

    def _may_start(self, job: FakeJob) -> bool:
        """Return whether its rate limits let a job start; otherwise do what its policy says."""
        opens_at = self._opens_at(job)
        if opens_at <= self.now_ms:
            return True
        match job.limit.on_limit if job.limit is not None else "wait":
            case "reschedule":
                due = self.now_ms + RESCHEDULE_MS if opens_at == math.inf else int(opens_at)
                job.state, job.due_ms = "scheduled", due
                self.events.add_state(job, self.now_ms)
            case "drop":
                self._end(job, "discarded")
        return False

    def _start(self, job: FakeJob, worker_id: str, lease_ms: int) -> None:
        self._limits.count_start(job, self.now_ms)
        job.state, job.worker_id, job.lease_id = "active", worker_id, new_id(self.now_ms)
        job.attempt += 1
        job.started_ms = self.now_ms
        job.starts.append((job.attempt, self.now_ms, worker_id))
        job.lease_ms, job.lost_ms = lease_ms, self.now_ms + lease_ms
        job.progress = {}
        self.events.add_state(job, self.now_ms)

    def held(self, job_id: str, worker_id: str, lease_id: str) -> FakeJob:
        """Return an active job whose lease the caller holds.

        Raises:
            Refusal: there is no such job, or the caller does not hold it.
        """
        job = self.get(job_id)
        if job.state != "active":
            raise conflict(f"job '{job_id}' is {job.state}", job_id=job_id, state=job.state)
        if not job.is_held_by(worker_id, lease_id):
            raise conflict(f"job '{job_id}' is held by another lease", job_id=job_id)
        return job

    def extend(self, job: FakeJob) -> None:
        """Extend the lease of an active job, as a heartbeat does."""
        job.lost_ms = self.now_ms + job.lease_ms

    def lose(self, job: FakeJob) -> None:
        """End the lease of an active job: it is available again, or its attempts are used up."""
        self._record(job, _LOST)
        job.lease_id = ""  # a late ack or nack does not repeat an accepted one
        if not job.retries.allow(job.attempt, _LOST):
            self._end(job, "discarded")
        elif job.cancel_requested:
            self._end(job, "cancelled")
        else:
            self._make_available(job)

    def ack(self, item: Any, worker_id: str) -> FakeJob:
        """Complete a job.

        Raises:
            Refusal: the caller does not hold it.
        """
        lease_id = item.get("lease_id") or ""
        job = self.get(item["job_id"])
        if job.state == "completed" and lease_id == job.lease_id:
            return job  # a repeated ack
        job = self.held(job.id, worker_id, lease_id)
        job.result, job.retry_delay_ms = item.get("result"), None
        self._end(job, "completed")
        return job

    def nack(self, item: Any, worker_id: str) -> FakeJob:
        """Fail the attempt of a job, or requeue it.

        Raises:
            Refusal: the caller does not hold it.
        """
        lease_id = item.get("lease_id") or ""
        job = self.get(item["job_id"])
        repeatable = job.state not in ("active", "completed", "cancelled") or job.cancel_requested
        if repeatable and job.state != "active" and lease_id == job.lease_id:
            return job  # a repeated nack
        job = self.held(job.id, worker_id, lease_id)
        if item.get("requeue") is True:
            if job.cancel_requested:
                self._end(job, "cancelled")
            elif item.get("started") is False:
                self._limits.uncount_start(job)
                job.attempt -= 1
                job.progress = {}
                if job.attempt == 0:
                    job.started_ms = None
                self._make_available(job, released=True)
            else:
                self._make_available(job)
            return job
        self._fail(job, item.get("error") or {})
        return job

    def _record(self, job: FakeJob, error: dict[str, Any]) -> None:
        code = error.get("code") or "handler_error"
        recorded = {"code": code, "type": error.get("type") or code, "message": "", **error}
        recorded |= {"attempt": job.attempt, "occurred_at": iso(self.now_ms)}
        job.errors.append(recorded)
        job.retry_delay_ms = None
        failed = {"attempt": job.attempt, "error": recorded}
        self.events.add("job.failed", self.now_ms, **of_job(job), **failed)

    def _fail(self, job: FakeJob, error: dict[str, Any]) -> None:
        if error.get("action") == "SNOOZE":
            self._snooze(job, error.get("retry_delay_ms") or 0)
            return
        self._record(job, error)
        if (until := error.get("rate_limit_until")) is not None:
            until_ms = time_ms(until, self.now_ms, "error.rate_limit_until")
            self._limits.hold(job, until_ms, self.now_ms)
        if not job.retries.allow(job.attempt, error):
            self._end(job, "discarded")
        elif job.cancel_requested:
            self._end(job, "cancelled")
        else:
            backoff_ms = job.retries.delay_ms(job.attempt)
            self._retry_after(job, error.get("retry_delay_ms", backoff_ms))

    def _snooze(self, job: FakeJob, delay_ms: int) -> None:
        job.attempt -= 1
        job.progress = {}
        if job.cancel_requested:
            self._end(job, "cancelled")
        else:
            self._retry_after(job, max(_MIN_SNOOZE_MS, delay_ms))

    def _retry_after(self, job: FakeJob, delay_ms: int) -> None:
        job.retry_delay_ms = delay_ms
        job.state, job.due_ms = "retryable", self.now_ms + delay_ms
        self.events.add_state(job, self.now_ms)

    # -- changes of the state

    def _append(self, job: FakeJob) -> None:
        """Put a job behind the others of its priority."""
        self._order += 1
        job.order = self._order

    def _make_available(self, job: FakeJob, *, released: bool = False) -> None:
        """Make a job available; a released one as if it had not been fetched."""
        job.state, job.due_ms = "available", None
        self._append(job)
        if released:
            job.order = -self._order
        else:
            job.enqueued_ms = self.now_ms
        self.events.add_state(job, self.now_ms)

    def _end(self, job: FakeJob, state: str) -> None:
        job.state, job.due_ms, job.finished_ms = state, None, self.now_ms
        self.events.add_state(job, self.now_ms)
        self._on_end(job)
