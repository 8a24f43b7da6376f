"""A model of the job lifecycle with one thread, virtual time and no Redis.

It is the oracle of tests that run it beside the real server. Operations have the meaning of
``ojs_cluster.store``: each returns what the server must return, or raises the error that the server
must raise. Virtual time advances only in ``advance``; nothing happens in between.

The server's clock cannot be stopped. To let virtual time pass, a test moves all deadlines in Redis
into the past by the same amount (``tests/model/time_travel.py``). Then it runs promote and reap on
every shard once, in that order, as ``Model.settle`` does. During an example real time advances by
some milliseconds. So durations and steps are multiples of a ``UNIT`` that is longer than any
example. Then a deadline has passed for the server exactly when it has passed for the model.

Where the order of jobs is open, the model does not predict it: ``fetch`` receives the server's
response and checks that it is a possible one.

The model has no retention, no limit on dead letters, no quiet workers, and no results. Retry
policies must have no jitter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.failure import Failure
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY, RetryPolicy
from ojs_cluster.core.jobs.states import CANCELLABLE, State
from tests.model.jobs import JobView, Lease, ModelJob, Place, view
from tests.model.retries import backoff_ms, matches_pattern

UNIT: Final = 60_000
"""Virtual durations are multiples of this many milliseconds; an example must take less."""

_WAITING: Final = (State.AVAILABLE, State.SCHEDULED, State.PENDING, State.RETRYABLE)


class Model:
    """All jobs and queues of one installation.

    ``visibility_ms`` is the default visibility timeout in milliseconds; ``errors_kept`` is the
    length of a job's error history.
    """

    def __init__(self, *, visibility_ms: int = 2 * UNIT, errors_kept: int = 10) -> None:
        self.now_ms = 0
        self.jobs: dict[str, ModelJob] = {}
        self.paused: set[str] = set()
        self.concurrency: dict[str, int] = {}
        self.acked: Counter[str] = Counter()
        self._visibility_ms = visibility_ms
        self._errors_kept = errors_kept
        self._steps = 0
        self._leases = 0

    # -- operations of producers

    def enqueue(
        self,
        job_id: str,
        queue: str = "default",
        *,
        priority: int = 0,
        retry: RetryPolicy = DEFAULT_RETRY,
        delay_ms: int = 0,
        expires_ms: int | None = None,
        timeout_ms: int | None = None,
        visibility_ms: int | None = None,
        pending: bool = False,
    ) -> JobView:
        """Enqueue a job; ``delay_ms`` and ``expires_ms`` count from now.

        Raises:
            Duplicate: the id exists.
        """
        if job_id in self.jobs:
            raise Duplicate(job_id)
        job = self.jobs[job_id] = ModelJob(
            job_id,
            queue,
            priority,
            retry,
            order=len(self.jobs),
            due_ms=self.now_ms + delay_ms if delay_ms else None,
            expires_ms=None if expires_ms is None else self.now_ms + expires_ms,
            timeout_ms=timeout_ms or None,
            visibility_ms=visibility_ms or None,
            on_exhaustion=retry.on_exhaustion or "discard",
        )
        if pending:
            job.state = State.PENDING
        else:
            self._release_when_due(job)
        return view(job)

    def activate(self, job_id: str) -> JobView:
        """Release a pending job.

        Raises:
            NotFound: there is no such job.
            Conflict: the job is not pending.
        """
        job = self._find(job_id)
        if job.state is not State.PENDING:
            raise Conflict(job.state)
        self._release_when_due(job)
        return view(job)

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job that has not ended, also an active one.

        Raises:
            NotFound: there is no such job.
            Conflict: the job has ended.
        """
        job = self._find(job_id)
        if job.state not in CANCELLABLE:
            raise Conflict(job.state)
        self._cancel(job)
        return view(job)

    def get(self, job_id: str) -> JobView:
        """Return a job.

        Raises:
            NotFound: there is no such job.
        """
        return view(self._find(job_id))

    # -- operations of workers

    def fetch(
        self,
        queues: Sequence[str],
        count: int = 1,
        worker: str = "",
        *,
        visibility_ms: int | None = None,
        observed: Sequence[tuple[str, str]] | None = None,
    ) -> list[JobView]:
        """Lease up to ``count`` jobs, queue by queue, by priority, then in order of arrival.

        ``observed`` is the response of the server: pairs of job id and lease id. Without it the
        model chooses the oldest jobs.

        Raises:
            AssertionError: the server must not have returned these jobs.
        """
        self.promote()
        given: list[JobView] = []
        for queue in dict.fromkeys(queues):
            while queue not in self.paused and len(given) < count and self._has_room(queue):
                choice = self._next(queue)
                if not choice:
                    break
                expired = [job for job in choice if self._has_expired(job)]
                if expired:
                    self._expire(expired[0])
                    continue
                job, lease_id = self._pick(choice, len(given), observed)
                self._lease(job, worker, lease_id, visibility_ms)
                given.append(view(job))
        if observed is not None and len(observed) > len(given):
            raise AssertionError(f"nothing is left to fetch, the server gave {observed}")
        return given

    def ack(self, job_id: str, worker: str | None = None, lease_id: str | None = None) -> JobView:
        """Complete a job. The worker with the lease may repeat it.

        Raises:
            NotFound: there is no such job.
            Conflict: the caller has no lease.
        """
        job = self._find(job_id)
        named = worker is not None or lease_id is not None
        if job.state is State.COMPLETED and named and job.settled:
            if job.settled.is_held_by(worker, lease_id):
                return view(job)
            raise Conflict("completed by another holder")
        self._settle_lease(job, worker, lease_id)
        job.state, job.failed = State.COMPLETED, False
        self.acked[job.queue] += 1
        self.on_end(job)
        return view(job)

    def nack(
        self,
        job_id: str,
        failure: Failure,
        worker: str | None = None,
        lease_id: str | None = None,
    ) -> JobView:
        """Fail an attempt. The lease id may repeat it.

        Raises:
            NotFound: there is no such job.
            Conflict: the caller has no lease.
        """
        job = self._find(job_id)
        if self._repeats_nack(job, lease_id):
            return view(job)
        self._settle_lease(job, worker, lease_id)
        if failure.action == "snooze":
            self._snooze(job, failure.delay_ms or 0)
        else:
            self._fail(
                *(job, failure.names, failure.delay_ms),
                retryable=failure.retryable,
                decided=failure.action,
            )
        return view(job)

    def _snooze(self, job: ModelJob, delay_ms: int) -> None:
        if job.cancel_requested:
            self._cancel(job)
            return
        job.attempt -= 1
        self._retry_after(job, delay_ms)

    def _retry_after(self, job: ModelJob, delay_ms: int) -> None:
        job.state, job.retry_delay_ms = State.RETRYABLE, delay_ms
        job.due_ms = self.now_ms + delay_ms

    def requeue(
        self, job_id: str, worker: str | None = None, lease_id: str | None = None
    ) -> JobView:
        """Return a job to the end of its priority.

        Raises:
            NotFound: there is no such job.
            Conflict: the caller has no lease.
        """
        job = self._find(job_id)
        if self._repeats_nack(job, lease_id):
            return view(job)
        self._settle_lease(job, worker, lease_id)
        if job.cancel_requested:
            self._cancel(job)
        else:
            self._make_available(job)
        return view(job)

    def heartbeat(
        self, worker: str, job_ids: Iterable[str], *, visibility_ms: int | None = None
    ) -> list[str]:
        """Extend the leases of the worker and those without one; return the ids of their jobs."""
        extended = []
        for job_id in job_ids:
            job = self.jobs.get(job_id)
            if job and job.lease and job.lease.worker in (worker, ""):
                job.lease.given_ms = self.now_ms
                job.lease.deadline_ms = self.now_ms + (visibility_ms or job.lease.length_ms)
                extended.append(job_id)
        return extended

    # -- operations of operators

    def pause(self, queue: str) -> None:
        """Stop fetches from a queue; everything else continues."""
        self.paused.add(queue)

    def resume(self, queue: str) -> None:
        """Undo ``pause``."""
        self.paused.discard(queue)

    def limit(self, queue: str, concurrency: int | None) -> None:
        """Limit the active jobs of a queue; None for no limit."""
        self.concurrency.pop(queue, None)
        if concurrency is not None:
            self.concurrency[queue] = concurrency

    def dead_letters(self, queue: str | None = None) -> set[str]:
        """Return ids of the dead letters of one queue or of all."""
        return {job.job_id for job in self.jobs.values() if job.dead and queue in (None, job.queue)}

    def retry_dead(self, job_id: str) -> JobView:
        """Retry a dead letter.

        Raises:
            NotFound: the job is no dead letter.
        """
        return self._start_over(self._find_dead(job_id))

    def retry_discarded(self, job_id: str) -> JobView:
        """Retry a discarded job, dead letter or not.

        Raises:
            NotFound: there is no such job.
            Conflict: the job is not discarded.
        """
        job = self._find(job_id)
        if job.state is not State.DISCARDED:
            raise Conflict(job.state)
        return self._start_over(job)

    def _start_over(self, job: ModelJob) -> JobView:
        job.dead = job.failed = job.started = job.expired = job.cancel_requested = False
        job.attempt, job.lease, job.settled, job.retry_delay_ms = 0, None, None, None
        job.errors.clear()
        if self._has_expired(job):
            job.expires_ms = None  # a manual retry must run
        self._make_available(job)
        return view(job)

    def delete_dead(self, job_id: str) -> None:
        """Delete a dead letter and its job.

        Raises:
            NotFound: the job is no dead letter.
        """
        del self.jobs[self._find_dead(job_id).job_id]

    def counts(self, queue: str) -> dict[State, int]:
        """Return the jobs of a queue per state, zeros included."""
        found = Counter(job.state for job in self.jobs.values() if job.queue == queue)
        return {state: found[state] for state in State}

    # -- effects of time

    def advance(self, ms: int) -> None:
        """Let time pass, then run the background loops."""
        self.now_ms += ms
        self.settle()

    def settle(self) -> None:
        """Run promote once, then reap: execution timeouts, lost leases, expiry."""
        self.promote()
        for job in self._active_until(lambda lease: lease.timeout_ms):
            job.lease = None
            self._fail(job, ["timeout"])
        self._lose(self._active_until(lambda lease: lease.deadline_ms), "visibility_timeout")
        for job in list(self.jobs.values()):
            if job.state in _WAITING and self._has_expired(job):
                self._expire(job)

    def promote(self) -> None:
        """Make scheduled and retryable jobs available whose time has come, in that order."""
        due = [
            (job.due_ms, job)
            for job in self.jobs.values()
            if job.state in (State.SCHEDULED, State.RETRYABLE)
            and job.due_ms is not None
            and job.due_ms <= self.now_ms
        ]
        self._steps += 1
        for due_ms, job in due:
            if self._has_expired(job):
                self._expire(job)
            else:
                self._make_available(job, (self._steps, due_ms))

    def recover(self, worker: str, dead_ms: int | None = None) -> list[str]:
        """Recover a worker that died at ``dead_ms``: the leases that it got before are lost."""
        at = self.now_ms if dead_ms is None else dead_ms
        lost = [
            job
            for job in self.jobs.values()
            if job.lease and job.lease.worker == worker and job.lease.given_ms <= at
        ]
        self._lose(lost, "worker_lost")
        return [job.job_id for job in lost]

    def on_end(self, job: ModelJob) -> None:
        """Handle the end of a job, for models with effects of it."""

    # -- shared rules

    def _find(self, job_id: str) -> ModelJob:
        if job_id not in self.jobs:
            raise NotFound("job", job_id)
        return self.jobs[job_id]

    def _find_dead(self, job_id: str) -> ModelJob:
        job = self._find(job_id)
        if not job.dead:
            raise NotFound("dead letter", job_id)
        return job

    def _cancel(self, job: ModelJob) -> None:
        job.state, job.lease = State.CANCELLED, None
        self.on_end(job)

    def _has_room(self, queue: str) -> bool:
        active = sum(job.queue == queue and job.lease is not None for job in self.jobs.values())
        return active < self.concurrency.get(queue, len(self.jobs) + 1)

    def _has_expired(self, job: ModelJob) -> bool:
        return job.expires_ms is not None and job.expires_ms <= self.now_ms

    def _release_when_due(self, job: ModelJob) -> None:
        if job.due_ms is not None and job.due_ms > self.now_ms:
            job.state = State.SCHEDULED
        else:
            self._make_available(job)

    def _make_available(self, job: ModelJob, place: Place | None = None) -> None:
        if place is None:
            self._steps += 1
            place = (self._steps, 0)
        job.state, job.place = State.AVAILABLE, place

    def _next(self, queue: str) -> list[ModelJob]:
        """Return the jobs of which one must be fetched next, in order of creation."""
        waiting = [
            job for job in self.jobs.values() if job.queue == queue and job.state is State.AVAILABLE
        ]
        first = min(((-job.priority, job.place) for job in waiting), default=None)
        return [job for job in waiting if (-job.priority, job.place) == first]

    def _pick(
        self, choice: list[ModelJob], position: int, observed: Sequence[tuple[str, str]] | None
    ) -> tuple[ModelJob, str]:
        if observed is None:
            self._leases += 1
            return choice[0], f"lease-{self._leases}"
        possible = [job.job_id for job in choice]
        if position >= len(observed):
            raise AssertionError(f"one of {possible} must be given, the server stopped")
        job_id, lease_id = observed[position]
        if job_id not in possible:
            raise AssertionError(f"one of {possible} must be given next, the server gave {job_id}")
        return self.jobs[job_id], lease_id

    def _lease(self, job: ModelJob, worker: str, lease_id: str, asked_ms: int | None) -> None:
        length = asked_ms or job.visibility_ms or self._visibility_ms
        job.state, job.started = State.ACTIVE, True
        job.attempt += 1
        job.settled = None
        job.lease = Lease(
            lease_id,
            worker,
            length,
            given_ms=self.now_ms,
            deadline_ms=self.now_ms + length,
            timeout_ms=None if job.timeout_ms is None else self.now_ms + job.timeout_ms,
        )

    def _settle_lease(self, job: ModelJob, worker: str | None, lease_id: str | None) -> None:
        if job.lease is None:
            raise Conflict(job.state)
        if not job.lease.is_held_by(worker, lease_id):
            raise Conflict("held by another lease")
        job.settled, job.lease = job.lease, None

    def _repeats_nack(self, job: ModelJob, lease_id: str | None) -> bool:
        return (
            job.lease is None
            and job.state not in (State.COMPLETED, State.CANCELLED)
            and job.settled is not None
            and lease_id == job.settled.lease_id
        )

    def _active_until(self, deadline: Callable[[Lease], int | None]) -> list[ModelJob]:
        """Return active jobs for which this deadline has passed."""
        return [
            job
            for job in self.jobs.values()
            if job.lease and (at := deadline(job.lease)) is not None and at <= self.now_ms
        ]

    def _record(self, job: ModelJob, error: str) -> None:
        job.errors = [*job.errors, error][-self._errors_kept :]
        job.failed = True

    def _fail(
        self,
        job: ModelJob,
        names: Sequence[str],
        delay_ms: int | None = None,
        *,
        retryable: bool = True,
        decided: str | None = None,
    ) -> None:
        self._record(job, names[0])
        if not retryable or self._ends(job, names):
            self._exhaust(job, decided)
            return
        if job.cancel_requested:
            self._cancel(job)
            return
        self._retry_after(job, backoff_ms(job.retry, job.attempt) if delay_ms is None else delay_ms)

    def _lose(self, jobs: list[ModelJob], error: str) -> None:
        self._steps += 1
        for job in jobs:
            deadline = job.lease.deadline_ms if job.lease else 0
            job.lease = None
            self._record(job, error)
            if self._ends(job, [error]):
                self._exhaust(job)
            elif job.cancel_requested:
                self._cancel(job)
            else:
                self._make_available(job, (self._steps, deadline))

    def _ends(self, job: ModelJob, names: Sequence[str]) -> bool:
        """Return whether a failure with these names is the last one under the retry policy."""
        return job.attempt >= job.retry.max_attempts or matches_pattern(
            job.retry.non_retryable, names
        )

    def _exhaust(self, job: ModelJob, decided: str | None = None) -> None:
        job.state = State.DISCARDED
        job.dead = (decided or job.on_exhaustion) == "dead_letter"
        self.on_end(job)

    def _expire(self, job: ModelJob) -> None:
        job.state, job.expired = State.DISCARDED, True
        self.on_end(job)
