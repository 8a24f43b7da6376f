"""List jobs, page by page, with a bound on the work of each page (spec: ojs-admin-api).

There is no index of all jobs: it would cost every job memory for a view few look at. A listing
walks the indexes that the lifecycle needs anyway, shard after shard; a cursor says where it was.
Jobs that move while a listing goes on may be missed or met twice. Finished jobs come newest first:
those kept longest are met first, and those are the ones that failed.
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
"""Most jobs one page looks at, whatever the filters let through; of large jobs ``PAGE_BYTES``."""
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
"""Where jobs of a state are found. Available jobs that wait for a token are held apart."""
_INDEXES = ("pending", "queue_available", "queue_blocked", "due", "active", "finished")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a listing lets through; None lets everything through.

    Args:
        type: a job type, or how it begins when a ``*`` follows.
        worker: who holds the job, which is active then.
        since_ms, until_ms: when it was created, from the one up to the other; of dead letters, when
            they died.
        dead: only dead letters.
        within: the queues that the reader may reach.
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
        """Whether the counters of queues tell how many jobs it lets through."""
        return self == JobFilter(state=self.state, queue=self.queue)

    @property
    def indexes(self) -> tuple[str, ...]:
        """Where the jobs are found."""
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
class Place:
    """Where a listing is: index, shard (of one queue's jobs: its partition), queue (of available
    jobs), score ("-inf" where it begins), entries of that score already seen.
    """

    index: int = 0
    shard: int = 0
    queue: str = ""
    score: str = "-inf"
    skip: int = 0

    def text(self) -> str:
        return cursors.encode([self.index, self.shard, self.queue, self.score, self.skip])

    def without(self, gone: Sequence[Place]) -> Place:
        """The same place when the entries right before those places have left their index."""
        left = sum(
            (place.index, place.shard, place.queue, place.score)
            == (self.index, self.shard, self.queue, self.score)
            for place in gone
        )
        return replace(self, skip=self.skip - left)

    @classmethod
    def parse(cls, text: str, indexes: int, shards: int) -> Place:
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
    """Jobs that ``wanted`` admits, after ``cursor``.

    Args:
        limit: most jobs in the page.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time.
    """
    jobs: list[JobRecord] = []
    budget, left = SCAN_BUDGET, PAGE_BYTES
    async with aclosing(walk(store, wanted, wanted.indexes, cursor)) as passed:
        async for place, job in passed:
            budget -= 1  # an empty index still cost a call
            if job is not None:
                left -= job.size
                if wanted.admits(job):
                    jobs.append(job)
            if len(jobs) >= limit or budget <= 0 or left <= 0:
                return JobPage(jobs, place.text())
    return JobPage(jobs, None)


async def walk(
    store: Store, wanted: JobFilter, indexes: tuple[str, ...], cursor: str | None
) -> AsyncGenerator[tuple[Place, JobRecord | None], None]:
    """Every job of the indexes with the place right after it; None after each index's end.

    Of ``wanted`` only the queue counts here. To be closed by the caller.

    Raises:
        InvalidRequest: the cursor is not one of ours.
    """
    place = Place.parse(cursor, len(indexes), len(store.keys)) if cursor else Place()
    while place.index < len(indexes):
        index = indexes[place.index]
        # Available jobs lie per queue; the registry's name order is the walk's.
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
            place = Place(place.index, place.shard + 1, place.queue)
        elif by_queue and (following := await _queue_after(store, queue)) is not None:
            place = Place(place.index, 0, following)
        else:
            place = Place(place.index + 1)
        if place.index < len(indexes):
            yield place, None


async def _next_ids(
    store: Store, shard: Shard, key: bytes, place: Place, newest_first: bool
) -> tuple[list[tuple[Place, str]], Place]:
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
    ids: list[tuple[Place, str]] = []
    items = iter(flat)
    for member, raw in zip(items, items, strict=True):
        score = raw.decode()
        skip = place.skip + 1 if score == place.score else 1
        place = replace(place, score=score, skip=skip)
        ids.append((place, member.decode()))
    return ids, place


async def _some(
    store: Store, shard: Shard, ids: list[tuple[Place, str]]
) -> list[tuple[Place, JobRecord | None]]:
    """The first of these jobs, at least one, with the places right after them."""
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
