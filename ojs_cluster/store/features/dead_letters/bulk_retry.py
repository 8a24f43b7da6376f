"""Bulk retry of the discarded jobs that a filter admits (spec: ojs-admin-api 8.1).

A call examines and retries a limited number of jobs, and returns a cursor for the next call. It
chooses all its jobs before it retries any. This is no transaction, unlike a batch of new jobs: if
one job has been retried or removed by another request, the others are still retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from ojs_cluster.core.errors import Conflict, Duplicate, MalformedJob, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause
from ojs_cluster.store.engine.jobs.listing import JobFilter, ListingPosition, walk
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write

MAX_RETRIED = 1000
"""Maximum number of jobs that one call retries."""
MAX_EXAMINED = 20_000
"""Maximum number of jobs that one call examines, including those that the filter does not admit."""
MAX_DURATION_S = 20.0
"""Time in seconds after which a call examines no more jobs."""


@dataclass(frozen=True, slots=True)
class BulkRetryResult:
    """The outcome of a call of ``retry_matching``.

    Args:
        matched: number of jobs that the call has tried to retry.
        failures: id and reason of each chosen job that could not be retried.
        next_cursor: where the next call continues; None when all jobs were examined.
    """

    matched: int
    failures: Sequence[tuple[str, str]]
    next_cursor: str | None

    @property
    def retried(self) -> int:
        """Number of jobs that the call has made available."""
        return self.matched - len(self.failures)


async def retry_matching(
    store: Store, wanted: JobFilter, cursor: str | None = None, cause: Cause = UNKNOWN
) -> BulkRetryResult:
    """Retry the discarded jobs that ``wanted`` admits. Its ``state`` is ignored.

    Dead letters are retried first, because they have an index of their own.

    Args:
        store: the store.
        wanted: the filter.
        cursor: ``next_cursor`` of the last call; None to begin.
        cause: who retries the jobs, for their histories.

    Raises:
        InvalidRequest: this server did not create the cursor.
        BackendUnavailable: Redis did not answer in time. The call can be repeated, because jobs
            that were retried are not discarded any more.
    """
    extend_deadline(MAX_DURATION_S)
    retry = partial(
        dead_letters.retry if wanted.dead else dead_letters.retry_discarded, cause=cause
    )
    choice = await _choose(store, replace(wanted, state=State.DISCARDED), cursor)
    failures = await _retry(store, retry, choice.job_ids)
    next_cursor = None
    if choice.end is not None:
        next_cursor = choice.end.without(choice.removed_positions).text()
    return BulkRetryResult(len(choice.job_ids), failures, next_cursor)


@dataclass(slots=True)
class _Choice:
    """The jobs that a call retries.

    Args:
        job_ids: the ids of the jobs.
        removed_positions: positions of index entries that the retry removes.
        end: the last examined position, None when all jobs were examined.
    """

    job_ids: list[str] = field(default_factory=list)
    removed_positions: list[ListingPosition] = field(default_factory=list)
    end: ListingPosition | None = None


async def _choose(store: Store, wanted: JobFilter, cursor: str | None) -> _Choice:
    """Choose the jobs to retry: examine jobs from the cursor on, up to the limits of a call."""
    dead_indexes = replace(wanted, dead=True).indexes
    indexes = dead_indexes if wanted.dead else (*dead_indexes, *wanted.indexes)
    choice = _Choice()
    examined = 0
    deadline = trio.current_time() + MAX_DURATION_S
    async with aclosing(walk(store, wanted, indexes, cursor)) as entries:
        async for position, job in entries:
            examined += 1
            if job is not None and wanted.admits(job):
                choice.removed_positions.append(position)
                # A dead letter is also in the index of finished jobs, and is skipped there.
                if job.dead == (indexes[position.index] in dead_indexes):
                    choice.job_ids.append(job.id)
            if (
                len(choice.job_ids) >= MAX_RETRIED
                or examined >= MAX_EXAMINED
                or trio.current_time() >= deadline
            ):
                choice.end = position
                break
    return choice


async def _retry(
    store: Store, retry: Callable[[Store, str], Awaitable[JobRecord]], job_ids: Sequence[str]
) -> list[tuple[str, str]]:
    """Retry jobs; return the id and the reason of each job that could not be retried."""
    failures: list[tuple[str, str]] = []

    async def retry_one(job_id: str) -> None:
        try:
            await retry(store, job_id)
        except (Conflict, Duplicate, MalformedJob, NotFound) as error:
            failures.append((job_id, error.message))

    with after_first_write(when=len(job_ids) > 1):
        await run_concurrently(job_ids, retry_one)
    return failures
