"""Sort the jobs that a filter admits, for orders that no index has.

All jobs are read for each page: the ids from the indexes, and the small fields of these jobs. So
their number is limited. Indexes of further orders were refused, because every job would pay for
them (docs/adr/002).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import INDEXES_OF_QUEUE, JobFilter, JobOrder
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.read_sets import ShardKey, read_sizes
from ojs_cluster.store.features.search.all_queues import MAX_QUEUES, read_queue_names
from ojs_cluster.store.features.search.merged_indexes import IndexEntry
from ojs_cluster.store.features.search.small_fields import BATCH, read_matching
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.fanout import run_concurrently

MAX_ENTRIES: Final = 20_000
"""Maximum number of index entries of a sorted list."""


@dataclass(frozen=True, slots=True)
class SortedPosition:
    """A position after a job of a sorted list.

    Args:
        order: the order.
        key: the job's value that decides the order.
        job_id: its id.
    """

    order: JobOrder
    key: int
    job_id: str

    def precedes(self, job: JobRecord) -> bool:
        """Return whether a job comes after this position."""
        place, end = sort_key(self.order, job), (self.key, self.job_id)
        return place > end if self.order.ascending else place < end

    def text(self) -> str:
        """Return the position as an opaque cursor."""
        return cursors.encode([self.order.by, self.order.ascending, self.key, self.job_id])

    @classmethod
    def parse(cls, text: str, order: JobOrder) -> SortedPosition:
        """Parse a cursor.

        Raises:
            InvalidRequest: it belongs to no list in this order.
        """
        match cursors.decode(text):
            case [by, bool(ascending), int(key), str(job_id)] if (by, ascending) == (
                order.by,
                order.ascending,
            ) and cursors.are_numbers((abs(key),)):
                return cls(order, key, job_id)
        raise InvalidRequest("cursor belongs to a list in another order", field="cursor")


@dataclass(frozen=True, slots=True)
class SortedJobs:
    """Sorted jobs.

    Args:
        order: their order.
        jobs: the key, the id and the shard of each job after the cursor.
        matched: number of all jobs whose small fields match, also of those before the cursor.
    """

    order: JobOrder
    jobs: Sequence[tuple[int, str, Shard]]
    matched: int

    async def walk(self, offset: int) -> AsyncGenerator[IndexEntry]:
        """Yield the jobs without the first ``offset``."""
        for key, job_id, shard in self.jobs[offset:]:
            yield IndexEntry(SortedPosition(self.order, key, job_id), shard, job_id)


def sort_key(order: JobOrder, job: JobRecord) -> tuple[int, str]:
    """Return what a job is compared by."""
    if order.by == "created_at":
        return job.created_ms, job.id
    if order.by == "started_at":
        return job.started_ms or 0, job.id
    return (job.priority if order.by == "priority" else job.due_ms or 0), job.id


async def read_sorted(
    store: Store,
    wanted: JobFilter,
    cursor: str | None,
) -> SortedJobs:
    """Read and sort the jobs whose small fields a filter admits.

    Args:
        store: the store.
        wanted: the filter, which has an order.
        cursor: where the last page ended, None for the first page.

    Raises:
        InvalidRequest: there are too many jobs, or the cursor belongs to another list.
        BackendUnavailable: Redis did not answer in time.
    """
    order = wanted.order or JobOrder("created_at", ascending=False)
    after = SortedPosition.parse(cursor, order) if cursor else None
    found: dict[str, tuple[int, Shard]] = {}

    async def read_batch(ids: Sequence[tuple[Shard, str]]) -> None:
        shards = {job_id: shard for shard, job_id in ids}
        for job in await read_matching(store, wanted, ids):
            with suppress(KeyError, ValueError):  # a malformed job is in no list
                found[job.id] = sort_key(order, job)[0], shards[job.id]

    all_ids = await _read_ids(store, await read_sizes(store, await keys_of_indexes(store, wanted)))
    batches = [all_ids[start : start + BATCH] for start in range(0, len(all_ids), BATCH)]
    await run_concurrently(batches, read_batch)
    jobs = [(key, job_id, shard) for job_id, (key, shard) in found.items()]
    jobs.sort(key=lambda job: job[:2], reverse=not order.ascending)
    matched = len(jobs)
    if after is not None:
        end = (after.key, after.job_id)
        jobs = [job for job in jobs if (job[:2] > end if order.ascending else job[:2] < end)]
    return SortedJobs(order, jobs, matched)


async def _read_ids(store: Store, sizes: Mapping[ShardKey, int]) -> list[tuple[Shard, str]]:
    """Return the ids in sorted sets, the ids of a shard together."""
    if sum(sizes.values()) > MAX_ENTRIES:
        raise _too_many()
    ids: list[tuple[Shard, str]] = []

    async def read(item: tuple[Shard, bytes]) -> None:
        shard, key = item
        members: Any = await store.redis.call(
            shard.slot, "ZRANGE", key, 0, MAX_ENTRIES, idempotent=True
        )
        ids.extend((shard, member.decode(errors="replace")) for member in members)
        if len(ids) > 2 * MAX_ENTRIES:  # they have grown since they were counted
            raise _too_many()

    await run_concurrently(sizes, read)
    ids.sort(key=lambda item: item[0].index)
    return ids


async def keys_of_indexes(store: Store, wanted: JobFilter) -> list[ShardKey]:
    """Return the keys of all indexes of a filter, with their shards."""
    keys: list[ShardKey] = []
    for index in wanted.indexes:
        if index not in INDEXES_OF_QUEUE:
            queue = wanted.queue
            shards = await store.partitions.occupied_shards(store, queue) if queue else store.keys
            keys += [(shard, getattr(shard, index)) for shard in shards]
            continue
        for queue in [wanted.queue] if wanted.queue else await _queues(store, wanted):
            occupied = await store.partitions.occupied_shards(store, queue)
            keys += [(shard, getattr(shard, index)(queue)) for shard in occupied]
    return keys


async def _queues(store: Store, wanted: JobFilter) -> list[str]:
    names: list[str] = []
    begin: bytes | None = b"-"
    while begin is not None:
        some, begin = await read_queue_names(store, begin, b"+", wanted.queue_test())
        names += some
        if len(names) > MAX_QUEUES:
            raise InvalidRequest(
                f"there are more than {MAX_QUEUES} queues: name a queue, or leave out 'sort'",
                field="sort",
            )
    return names


def _too_many() -> InvalidRequest:
    # Without their number: an API key may not access all of them.
    return InvalidRequest(
        f"at most {MAX_ENTRIES} jobs can be sorted: name a queue or a state, or leave out 'sort'",
        field="sort",
    )
