"""The data of the lifecycle model: jobs, and what a client can see of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.states import State

T = TypeVar("T")

# Among available jobs of one priority the lowest place is fetched first. Equal places leave the
# order open, for jobs that became available at the same time.
Place = tuple[int, int]


@dataclass(slots=True)
class Lease:
    """The worker of an active job, and the end of its lease in virtual milliseconds."""

    lease_id: str
    worker: str
    length_ms: int
    given_ms: int
    deadline_ms: int
    timeout_ms: int | None

    def is_held_by(self, worker: str | None, lease_id: str | None) -> bool:
        """Return whether the caller may settle the job. Only values that the caller sends must
        match.
        """
        return worker in (None, self.worker) and lease_id in (None, self.lease_id)


@dataclass(slots=True)
class ModelJob:
    """A job. All times are virtual milliseconds, None for never."""

    job_id: str
    queue: str
    priority: int
    retry: RetryPolicy
    order: int
    state: State = State.AVAILABLE
    place: Place = (0, 0)
    due_ms: int | None = None
    expires_ms: int | None = None
    timeout_ms: int | None = None
    visibility_ms: int | None = None
    on_exhaustion: str = "discard"
    attempt: int = 0
    lease: Lease | None = None
    settled: Lease | None = None  # the lease whose ack or nack was accepted last
    errors: list[str] = field(default_factory=list)
    retry_delay_ms: int | None = None
    started: bool = False
    failed: bool = False  # the last attempt failed, so the job shows an error
    dead: bool = False
    expired: bool = False
    cancel_requested: bool = False  # its workflow was cancelled while it was active


@dataclass(frozen=True, slots=True)
class JobView:
    """The parts of a job on which every response must agree.

    ``errors`` are the types of the kept errors, oldest first. ``times`` are the names of the
    optional time attributes that are present.
    """

    job_id: str
    queue: str
    priority: int
    state: State
    attempt: int
    max_attempts: int
    worker: str | None
    errors: tuple[str, ...]
    shows_error: bool
    retry_delay_ms: int | None
    dead: bool
    times: frozenset[str]


def view(job: ModelJob) -> JobView:
    """Return the job as a client sees it now."""
    times = set()
    if job.started:
        times.add("started_at")
    if job.state is State.RETRYABLE:
        times.add("next_attempt_at")
    if job.state is State.CANCELLED:
        times.add("cancelled_at")
    if job.state is State.DISCARDED:
        times.add("discarded_at")
    if job.state is State.COMPLETED or (job.state is State.DISCARDED and not job.expired):
        times.add("completed_at")
    return JobView(
        job_id=job.job_id,
        queue=job.queue,
        priority=job.priority,
        state=job.state,
        attempt=job.attempt,
        max_attempts=job.retry.max_attempts,
        worker=job.lease.worker or None if job.lease else None,
        errors=tuple(job.errors),
        shows_error=job.failed,
        retry_delay_ms=job.retry_delay_ms if job.state is State.RETRYABLE else None,
        dead=job.dead,
        times=frozenset(times),
    )


def outcome(operation: Callable[[], T]) -> T | type[OJSError]:
    """Return the result of an operation, or the class of its error."""
    try:
        return operation()
    except OJSError as error:
        return type(error)
