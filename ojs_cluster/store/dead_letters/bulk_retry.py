"""Many jobs retried by hand at once: those that a filter admits (spec: ojs-admin-api 8.1).

A call retries and looks at a bounded number of jobs, and says where it stopped. Nothing is changed
before all jobs of the call have been chosen. Unlike a batch of new jobs this is no transaction:
that one job was retried or removed by another meanwhile is no reason to leave out the rest.
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
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs.listing import JobFilter, Place, walk
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.partial_failures import begun

MOST_RETRIED = 1000
"""Jobs that one call retries."""
MOST_EXAMINED = 20_000
"""Jobs that one call looks at, whatever the filter lets through."""
MAX_DURATION_S = 20.0
"""A call looks no further after this long."""


@dataclass(frozen=True, slots=True)
class BulkRetryResult:
    """What a call did.

    Args:
        matched: jobs that it meant to retry.
        failures: id and reason of those that could not be.
        next_cursor: where the next call goes on; None when there is nothing more to look at.
    """

    matched: int
    failures: Sequence[tuple[str, str]]
    next_cursor: str | None

    @property
    def retried(self) -> int:
        """How many run again."""
        return self.matched - len(self.failures)


async def retry_matching(
    store: Store, wanted: JobFilter, cursor: str | None = None
) -> BulkRetryResult:
    """Run discarded jobs again that ``wanted`` admits, whatever state it names.

    Dead letters come first: they are found without looking at other jobs.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time; what was retried stays so, and does
            not match again.
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
    """Jobs to retry; the places right after what will leave its index; where the look stopped."""

    job_ids: list[str] = field(default_factory=list)
    leaving: list[Place] = field(default_factory=list)
    stopped: Place | None = None


async def _choose(store: Store, wanted: JobFilter, cursor: str | None) -> _Choice:
    dead = replace(wanted, dead=True).indexes
    indexes = dead if wanted.dead else (*dead, *wanted.indexes)
    choice = _Choice()
    looked_at = 0
    deadline = trio.current_time() + MAX_DURATION_S
    async with aclosing(walk(store, wanted, indexes, cursor)) as passed:
        async for place, job in passed:
            looked_at += 1
            if job is not None and wanted.admits(job):
                choice.leaving.append(place)
                # Dead letters are met once more among all that is finished.
                if job.dead == (indexes[place.index] in dead):
                    choice.job_ids.append(job.id)
            if (
                len(choice.job_ids) >= MOST_RETRIED
                or looked_at >= MOST_EXAMINED
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

    with begun(when=len(job_ids) > 1):
        await over_shards(job_ids, one)
    return failures
