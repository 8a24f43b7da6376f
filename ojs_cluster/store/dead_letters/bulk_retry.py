"""Bulk retry of the discarded jobs that a filter admits (spec: ojs-admin-api 8.1).

A call retries and examines a bounded number of jobs, and returns where it stopped. It chooses all
its jobs before it changes any. Unlike a batch of new jobs this is no transaction: a job that was
retried or removed in between is no reason to leave out the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import trio

from ojs_cluster.core.errors import Conflict, Duplicate, MalformedJob, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.dead_letters import dead_letters
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.listing import JobFilter, ListingPosition, walk
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.partial_failures import after_first_write

MAX_RETRIED = 1000
"""Most jobs that one call retries."""
MAX_EXAMINED = 20_000
"""Jobs that one call examines, however many the filter admits."""
MAX_DURATION_S = 20.0
"""Time in seconds after which a call examines no more jobs."""


@dataclass(frozen=True, slots=True)
class BulkRetryResult:
    """The outcome of a call.

    Args:
        matched: number of jobs that the call has chosen.
        failures: id and reason of each chosen job that could not be retried.
        next_cursor: where the next call continues; None when all jobs were examined.
    """

    matched: int
    failures: Sequence[tuple[str, str]]
    next_cursor: str | None

    @property
    def retried(self) -> int:
        """Number of jobs that are available again."""
        return self.matched - len(self.failures)


async def retry_matching(
    store: Store, wanted: JobFilter, cursor: str | None = None
) -> BulkRetryResult:
    """Make discarded jobs available again that ``wanted`` admits, whatever state it names.

    Dead letters come first, because they are found without examining other jobs.

    Args:
        store: the store.
        wanted: the filter.
        cursor: where an earlier call stopped; None to start.

    Raises:
        InvalidRequest: this server did not create the cursor.
        BackendUnavailable: Redis did not answer in time. Jobs that were retried do not match again.
    """
    extend_deadline(MAX_DURATION_S)
    retry = dead_letters.retry if wanted.dead else dead_letters.retry_discarded
    choice = await _choose(store, replace(wanted, state=State.DISCARDED), cursor)
    failures = await _retry(store, retry, choice.job_ids)
    stopped = choice.stopped
    following = None if stopped is None else stopped.without(choice.leaving).text()
    return BulkRetryResult(len(choice.job_ids), failures, following)


@dataclass(slots=True)
class _Choice:
    """The jobs that a call retries.

    Args:
        job_ids: their ids.
        leaving: positions in the indexes of the jobs that the retry removes from them.
        stopped: the last examined position, None when all jobs were examined.
    """

    job_ids: list[str] = field(default_factory=list)
    leaving: list[ListingPosition] = field(default_factory=list)
    stopped: ListingPosition | None = None


async def _choose(store: Store, wanted: JobFilter, cursor: str | None) -> _Choice:
    dead = replace(wanted, dead=True).indexes
    indexes = dead if wanted.dead else (*dead, *wanted.indexes)
    choice = _Choice()
    examined = 0
    deadline = trio.current_time() + MAX_DURATION_S
    async with aclosing(walk(store, wanted, indexes, cursor)) as passed:
        async for place, job in passed:
            examined += 1
            if job is not None and wanted.admits(job):
                choice.leaving.append(place)
                # Dead letters appear a second time among all finished jobs.
                if job.dead == (indexes[place.index] in dead):
                    choice.job_ids.append(job.id)
            if (
                len(choice.job_ids) >= MAX_RETRIED
                or examined >= MAX_EXAMINED
                or trio.current_time() >= deadline
            ):
                choice.stopped = place
                break
    return choice


async def _retry(
    store: Store, retry: Callable[[Store, str], Awaitable[JobRecord]], job_ids: Sequence[str]
) -> list[tuple[str, str]]:
    failures: list[tuple[str, str]] = []

    async def one(job_id: str) -> None:
        try:
            await retry(store, job_id)
        except (Conflict, Duplicate, MalformedJob, NotFound) as error:
            failures.append((job_id, error.message))

    with after_first_write(when=len(job_ids) > 1):
        await run_concurrently(job_ids, one)
    return failures
