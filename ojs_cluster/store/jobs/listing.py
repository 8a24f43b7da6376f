"""List jobs, page by page, with a bound on the work of each page (spec: ojs-admin-api).

There is no index of all jobs: it would cost memory for every job, and listings are rare. A listing
walks the indexes that the lifecycle needs anyway, shard after shard. A cursor stores the position.
Jobs that move during a listing may be missed or listed twice. Finished jobs come in order of their
removal time, latest first. Failed jobs are kept longest, so they come first.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.read_jobs import PAGE_BYTES, read_some
from ojs_cluster.store.jobs.record import JobRecord

# As Redis spells the scores that scripts write.
_is_score = re.compile(r"-inf|-?[0-9]{1,17}(?:\.[0-9]{1,17})?(?:e[+-]?[0-9]{1,2})?").fullmatch
SCAN_BUDGET = 2000
"""Most jobs that one page reads, whatever the filter admits; of large jobs ``PAGE_BYTES``."""
_CHUNK = 100

_BY_QUEUE = ("queue_available", "queue_blocked")
_DEAD_OF_QUEUE = ("queue_dead",)
_OF_A_QUEUE = (*_BY_QUEUE, *_DEAD_OF_QUEUE)
_DEAD = ("dead",)
_NEWEST_FIRST = ("finished", *_DEAD, *_DEAD_OF_QUEUE)
_INDEX: dict[State, tuple[str, ...]] = {
    State.PENDING: ("pending",),
    State.AVAILABLE: _BY_QUEUE,
    State.SCHEDULED: ("due",),
    State.RETRYABLE: ("due",),
    State.ACTIVE: ("active",),
    State.COMPLETED: ("finished",),
    State.CANCELLED: ("finished",),
    State.DISCARDED: ("finished",),
}
"""Indexes of the jobs of each state. Blocked jobs have an index of their own."""
_INDEXES = ("pending", "queue_available", "queue_blocked", "due", "active", "finished")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The jobs that a listing returns; a field of None admits all.

    Args:
        state: the state.
        queue: the queue.
        type: a job type, or a prefix followed by ``*``.
        worker: worker id of the holder; the job is then active.
        since_ms: earliest creation time in milliseconds; of dead letters, of their end.
        until_ms: the time before which the job was created; of dead letters, has ended.
        dead: only dead letters.
        within: the queues that the reader may access.
    """

    state: State | None = None
    queue: str | None = None
    type: str | None = None
    worker: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    dead: bool = False
    within: QueuePatterns | None = None

    def admits(self, job: JobRecord) -> bool:
        """Return whether the filter lets the job through."""
        return (
            not job.hidden
            and (self.state is None or job.state == self.state)
            and (self.queue is None or job.queue == self.queue)
            and (self.within is None or self.within.admits(job.queue))
            and (self.type is None or _is_of_type(job.type, self.type))
            and (self.worker is None or (job.worker_id, job.state) == (self.worker, State.ACTIVE))
            and (job.dead or not self.dead)
            and self._admits_moment(job)
        )

    @property
    def counted(self) -> bool:
        """Whether the counters of queues give the number of admitted jobs."""
        return self == JobFilter(state=self.state, queue=self.queue)

    @property
    def indexes(self) -> tuple[str, ...]:
        """Indexes that hold the admitted jobs."""
        if self.dead:
            return _DEAD if self.queue is None else _DEAD_OF_QUEUE
        return _INDEXES if self.state is None else _INDEX[self.state]

    def _admits_moment(self, job: JobRecord) -> bool:
        if self.since_ms is None and self.until_ms is None:
            return True
        at = job.created_ms if not self.dead else job.finished_ms or 0
        return (self.since_ms or at) <= at and (self.until_ms is None or at < self.until_ms)


def _is_of_type(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page. It may hold fewer jobs than asked for and still have a ``next_cursor``."""

    jobs: list[JobRecord]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ListingPosition:
    """A position of a listing.

    Args:
        index: number of the index.
        shard: number of the shard, or of the partition in a listing of one queue.
        queue: queue of available jobs.
        score: score of the last entry, ``-inf`` at the beginning.
        skip: entries of that score that were already listed.
    """

    index: int = 0
    shard: int = 0
    queue: str = ""
    score: str = "-inf"
    skip: int = 0

    def text(self) -> str:
        """Return the position as an opaque cursor."""
        return cursors.encode([self.index, self.shard, self.queue, self.score, self.skip])

    def without(self, gone: Sequence[ListingPosition]) -> ListingPosition:
        """Return the position after the entries at the positions ``gone`` have left the index."""
        left = sum(
            (place.index, place.shard, place.queue, place.score)
            == (self.index, self.shard, self.queue, self.score)
            for place in gone
        )
        return replace(self, skip=self.skip - left)

    @classmethod
    def parse(cls, text: str, indexes: int, shards: int) -> ListingPosition:
        """Read a cursor; it must name one of ``indexes`` and one of ``shards``."""
        match cursors.decode(text):
            case [int(index), int(shard), str(queue), str(score), int(skip)] if (
                cursors.are_numbers((index, shard, skip))
                and (index < indexes and shard < shards)
                and (not queue or is_queue(queue))
                and _is_score(score)
            ):
                return cls(index, shard, queue, score, skip)
        raise InvalidRequest("cursor is not one that this server issued", field="cursor")


async def list_jobs(
    store: Store, wanted: JobFilter, *, limit: int, cursor: str | None = None
) -> JobPage:
    """Return the jobs that ``wanted`` admits after ``cursor``.

    Args:
        wanted: the filter.
        limit: most jobs of the page.
        cursor: where the last page ended, None for the first page.

    Raises:
        InvalidRequest: the cursor is not one of this server.
        BackendUnavailable: Redis did not answer in time.
    """
    jobs: list[JobRecord] = []
    budget, left = SCAN_BUDGET, PAGE_BYTES
    async with aclosing(walk(store, wanted, wanted.indexes, cursor)) as passed:
        async for place, job in passed:
            budget -= 1  # an empty index costs a call too
            if job is not None:
                left -= job.size
                if wanted.admits(job):
                    jobs.append(job)
            if len(jobs) >= limit or budget <= 0 or left <= 0:
                return JobPage(jobs, place.text())
    return JobPage(jobs, None)


async def walk(
    store: Store, wanted: JobFilter, indexes: tuple[str, ...], cursor: str | None
) -> AsyncGenerator[tuple[ListingPosition, JobRecord | None], None]:
    """Yield every job of the indexes with the position after it; None after the end of each index.

    The caller closes the generator. Of ``wanted`` only the queue is used.

    Raises:
        InvalidRequest: the cursor is not one of this server.
    """
    place = (
        ListingPosition.parse(cursor, len(indexes), len(store.keys))
        if cursor
        else ListingPosition()
    )
    while place.index < len(indexes):
        index = indexes[place.index]
        # Available jobs have an index per queue; the walk follows the order of queue names.
        by_queue = index in _OF_A_QUEUE and wanted.queue is None
        queue = wanted.queue or (place.queue if by_queue else "")
        shards = await store.partitions.occupied_shards(store, queue) if queue else list(store.keys)
        if place.shard < len(shards) and (queue or not by_queue):
            shard = shards[place.shard]
            key = getattr(shard, index)
            if index in _OF_A_QUEUE:
                key = key(queue)
            while True:
                ids, place = await _next_ids(store, shard, key, place, index in _NEWEST_FIRST)
                rest = ids
                while rest:
                    some = await _some(store, shard, rest)
                    for passed, job in some:
                        yield passed, job
                    rest = rest[len(some) :]
                if len(ids) < _CHUNK:
                    break
        following: str | None = None
        if (queue or not by_queue) and place.shard + 1 < len(shards):
            place = ListingPosition(place.index, place.shard + 1, place.queue)
        elif by_queue and (following := await _queue_after(store, queue)) is not None:
            place = ListingPosition(place.index, 0, following)
        else:
            place = ListingPosition(place.index + 1)
        if place.index < len(indexes):
            yield place, None


async def _next_ids(
    store: Store, shard: Shard, key: bytes, place: ListingPosition, newest_first: bool
) -> tuple[list[tuple[ListingPosition, str]], ListingPosition]:
    way: tuple[str, ...] = (place.score, "+inf", "BYSCORE")
    if newest_first:
        way = ("+inf" if place.score == "-inf" else place.score, "-inf", "BYSCORE", "REV")
    flat: Any = await store.redis.call(
        shard.slot,
        *("ZRANGE", key),
        *way,
        *("LIMIT", place.skip, _CHUNK, "WITHSCORES"),
        idempotent=True,
    )
    ids: list[tuple[ListingPosition, str]] = []
    items = iter(flat)
    for member, raw in zip(items, items, strict=True):
        score = raw.decode()
        skip = place.skip + 1 if score == place.score else 1
        place = replace(place, score=score, skip=skip)
        ids.append((place, member.decode()))
    return ids, place


async def _some(
    store: Store, shard: Shard, ids: list[tuple[ListingPosition, str]]
) -> list[tuple[ListingPosition, JobRecord | None]]:
    """Return the first of these jobs, at least one, with the positions after them."""
    found = await read_some(store, [(shard, job_id) for _, job_id in ids])
    return [(place, job) for (place, _), job in zip(ids, found, strict=False)]


async def _queue_after(store: Store, queue: str) -> str | None:
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, f"({queue}" if queue else "-", "+", "LIMIT", 0, 1),
        idempotent=True,
    )
    return names[0].decode() if names else None
