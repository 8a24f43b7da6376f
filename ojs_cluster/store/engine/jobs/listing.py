"""Which jobs a list admits, the indexes that hold them, and a walk over these indexes.

An index of all jobs was refused: it would cost memory for every job, and listings are rare. A
listing walks the indexes that the lifecycle needs, shard after shard. A cursor stores the position
of the walk. A job that changes its state during a listing may be missed or listed twice. Finished
jobs are listed in the order of their removal times, the latest first.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search import Search
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.read_jobs import read_some
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import cursor as cursors

# The formats in which Redis returns scores.
_is_score = re.compile(r"-inf|-?[0-9]{1,17}(?:\.[0-9]{1,17})?(?:e[+-]?[0-9]{1,2})?").fullmatch
_CHUNK = 100
"""Number of ids that one command reads from an index."""

# The indexes, as attributes of ``keys.Shard``.
_WAITING_OF_QUEUE = ("queue_available", "queue_blocked")
_DEAD_OF_QUEUE = ("queue_dead",)
INDEXES_OF_QUEUE = (*_WAITING_OF_QUEUE, *_DEAD_OF_QUEUE)
"""The indexes that each queue has."""
_DEAD = ("dead",)
_NEWEST_FIRST = ("finished", *_DEAD, *_DEAD_OF_QUEUE)
_INDEX: dict[State, tuple[str, ...]] = {
    State.PENDING: ("pending",),
    State.AVAILABLE: _WAITING_OF_QUEUE,
    State.SCHEDULED: ("due",),
    State.RETRYABLE: ("due",),
    State.ACTIVE: ("active",),
    State.COMPLETED: ("finished",),
    State.CANCELLED: ("finished",),
    State.DISCARDED: ("finished",),
}
"""Indexes of the jobs of each state. Available jobs that are blocked have an index of their own."""
_INDEXES = ("pending", "queue_available", "queue_blocked", "due", "active", "finished")


@dataclass(frozen=True, slots=True)
class JobOrder:
    """An order of a list that a client has asked for.

    Args:
        by: the member of a job that decides. Equal jobs are in the order of their ids.
        ascending: whether the lowest value comes first.
    """

    by: Literal["created_at", "priority", "scheduled_at", "started_at"]
    ascending: bool


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The jobs that a listing returns. A field that is None admits all jobs.

    Args:
        state: the job's state.
        queue: the job's queue.
        type: a job type, or a prefix followed by ``*``.
        worker: worker id of the job's holder. Only active jobs are admitted then.
        since_ms: minimum creation time in Unix milliseconds. With ``dead`` the minimum time of the
            job's end.
        until_ms: Unix milliseconds before which the job was created. With ``dead`` the time before
            which the job has ended.
        dead: whether to admit only dead letters.
        within: patterns of the queues that the API key may access.
        tenant: the tenant of the jobs.
        search: a search that the jobs match. The caller copies its times to ``since_ms`` and
            ``until_ms``, because the search itself does not compare them.
        by_index: whether the jobs may come from the index of the search, which may lack some
            (``store.search.indexed``).
        order: the order of the list; None for the order of the indexes
            (``store.search.newest_first``).
    """

    state: State | None = None
    queue: str | None = None
    type: str | None = None
    worker: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    dead: bool = False
    within: QueuePatterns | None = None
    tenant: str | None = None
    search: Search | None = None
    by_index: bool = False
    order: JobOrder | None = None

    def admits(self, job: JobRecord) -> bool:
        """Return whether the filter admits the job."""
        return self.admits_without_content(job) and (
            self.search is None or not self.search.needs_content or self.search.admits_content(job)
        )

    def admits_without_content(self, job: JobRecord) -> bool:
        """Return whether the filter admits the small fields of the job."""
        return (
            not job.hidden
            and (self.state is None or job.state == self.state)
            and (self.queue is None or job.queue == self.queue)
            and (self.within is None or self.within.admits(job.queue))
            and (self.tenant is None or self.tenant == job.tenant)
            and (self.type is None or _is_of_type(job.type, self.type))
            and (self.worker is None or (job.worker_id, job.state) == (self.worker, State.ACTIVE))
            and (job.dead or not self.dead)
            and self._admits_time(job)
            and (self.search is None or self.search.admits_without_content(job))
        )

    @property
    def counted(self) -> bool:
        """Whether the number of admitted jobs can be read from the counters of queues."""
        return replace(self, order=None) == JobFilter(state=self.state, queue=self.queue)

    @property
    def is_sorted(self) -> bool:
        """Whether no index has the order, so that all jobs are read and sorted."""
        return self.order is not None and self.order.by != "scheduled_at"

    def queue_test(self) -> Callable[[str], bool]:
        """Return a function that returns whether a queue may have admitted jobs."""
        named = None if self.search is None else self.search.exact_values("queue")

        def admits(queue: str) -> bool:
            return (named is None or queue in named) and (
                self.within is None or self.within.admits(queue)
            )

        return admits

    @property
    def indexes(self) -> tuple[str, ...]:
        """Indexes that hold the admitted jobs."""
        if self.dead:
            return _DEAD if self.queue is None else _DEAD_OF_QUEUE
        if self.state is not None:
            return _INDEX[self.state]
        if self.search is None:
            return _INDEXES
        if self.search.has_field("worker"):
            return _INDEX[State.ACTIVE]
        states = self.search.exact_values("state")
        if states is None:
            return _INDEXES
        return tuple(
            index for index in _INDEXES if any(index in _INDEX[State(name)] for name in states)
        )

    def _admits_time(self, job: JobRecord) -> bool:
        if self.since_ms is None and self.until_ms is None:
            return True
        ms = job.created_ms if not self.dead else job.finished_ms or 0
        return (self.since_ms or ms) <= ms and (self.until_ms is None or ms < self.until_ms)


def _is_of_type(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


@dataclass(frozen=True, slots=True)
class ListingPosition:
    """A position of a listing: after the last listed entry of an index.

    Args:
        index: number of the index among the indexes of the listing.
        shard: number of the shard, or of the partition in a listing of one queue.
        queue: the queue whose index is listed; empty for an index of a whole shard.
        score: score of the last listed entry, ``-inf`` at the beginning.
        skip: number of entries with this score that were already listed.
    """

    index: int = 0
    shard: int = 0
    queue: str = ""
    score: str = "-inf"
    skip: int = 0

    def text(self) -> str:
        """Return the position as an opaque cursor."""
        return cursors.encode([self.index, self.shard, self.queue, self.score, self.skip])

    def without(self, removed: Sequence[ListingPosition]) -> ListingPosition:
        """Return this position after the removal of the entries at the positions ``removed``."""
        removed_here = sum(
            (position.index, position.shard, position.queue, position.score)
            == (self.index, self.shard, self.queue, self.score)
            for position in removed
        )
        return replace(self, skip=self.skip - removed_here)

    @classmethod
    def parse(cls, text: str, indexes: int, shards: int) -> ListingPosition:
        """Parse a cursor.

        Args:
            text: the cursor.
            indexes: number of the listing's indexes.
            shards: number of shards.

        Raises:
            InvalidRequest: this server did not create the cursor.
        """
        match cursors.decode(text):
            case [int(index), int(shard), str(queue), str(score), int(skip)] if (
                cursors.are_numbers((index, shard, skip))
                and (index < indexes and shard < shards)
                and (not queue or is_queue(queue))
                and _is_score(score)
            ):
                return cls(index, shard, queue, score, skip)
        raise InvalidRequest("cursor is not one that this server issued", field="cursor")


async def walk(
    store: Store, wanted: JobFilter, indexes: tuple[str, ...], cursor: str | None
) -> AsyncGenerator[tuple[ListingPosition, JobRecord | None], None]:
    """Yield each job of the indexes, with the position after it.

    At the end of each index of a shard, yield None with the position of the next index. The caller
    must close the generator.

    Args:
        store: the store.
        wanted: the filter, of which only the queue is used.
        indexes: the indexes, as attributes of ``keys.Shard``.
        cursor: where to begin, None for the beginning.

    Raises:
        InvalidRequest: this server did not create the cursor.
    """
    position = (
        ListingPosition.parse(cursor, len(indexes), len(store.keys))
        if cursor
        else ListingPosition()
    )
    while position.index < len(indexes):
        index = indexes[position.index]
        # Each queue has its own index of available jobs. The queues are walked in name order.
        by_queue = index in INDEXES_OF_QUEUE and wanted.queue is None
        queue = wanted.queue or (position.queue if by_queue else "")
        shards = await store.partitions.occupied_shards(store, queue) if queue else list(store.keys)
        if position.shard < len(shards) and (queue or not by_queue):
            shard = shards[position.shard]
            key = getattr(shard, index)
            if index in INDEXES_OF_QUEUE:
                key = key(queue)
            while True:
                ids, position = await _next_ids(store, shard, key, position, index in _NEWEST_FIRST)
                unread = ids
                while unread:
                    jobs = await _read_first(store, shard, unread)
                    for position_after, job in jobs:
                        yield position_after, job
                    unread = unread[len(jobs) :]
                if len(ids) < _CHUNK:
                    break
        next_queue: str | None = None
        if (queue or not by_queue) and position.shard + 1 < len(shards):
            position = ListingPosition(position.index, position.shard + 1, position.queue)
        elif by_queue and (next_queue := await queue_after(store, queue)) is not None:
            position = ListingPosition(position.index, 0, next_queue)
        else:
            position = ListingPosition(position.index + 1)
        if position.index < len(indexes):
            yield position, None


async def _next_ids(
    store: Store, shard: Shard, key: bytes, position: ListingPosition, newest_first: bool
) -> tuple[list[tuple[ListingPosition, str]], ListingPosition]:
    """Return up to ``_CHUNK`` ids after a position of an index.

    Returns:
        Each id with the position after it, and the position after the last id.
    """
    score_range: tuple[str, ...] = (position.score, "+inf", "BYSCORE")
    if newest_first:
        first_score = "+inf" if position.score == "-inf" else position.score
        score_range = (first_score, "-inf", "BYSCORE", "REV")
    ids_and_scores: Any = await store.redis.call(
        shard.slot,
        *("ZRANGE", key),
        *score_range,
        *("LIMIT", position.skip, _CHUNK, "WITHSCORES"),
        idempotent=True,
    )
    ids: list[tuple[ListingPosition, str]] = []
    items = iter(ids_and_scores)
    for job_id, raw_score in zip(items, items, strict=True):
        score = raw_score.decode()
        skip = position.skip + 1 if score == position.score else 1
        position = replace(position, score=score, skip=skip)
        ids.append((position, job_id.decode(errors="replace")))
    return ids, position


async def _read_first(
    store: Store, shard: Shard, ids: list[tuple[ListingPosition, str]]
) -> list[tuple[ListingPosition, JobRecord | None]]:
    """Read the first of these jobs, at least one, as many as fit into ``PAGE_BYTES``."""
    jobs = await read_some(store, [(shard, job_id) for _, job_id in ids])
    return [(position, job) for (position, _), job in zip(ids, jobs, strict=False)]


async def queue_after(store: Store, queue: str) -> str | None:
    """Return the first registered queue whose name is after ``queue``, None for none.

    Damaged names are left out.
    """
    meta = store.keys.meta
    begin = f"({queue}".encode() if queue else b"-"
    while True:
        names: Any = await store.redis.call(
            meta.slot,
            *("ZRANGEBYLEX", meta.queues, begin, "+", "LIMIT", 0, 1),
            idempotent=True,
        )
        if not names:
            return None
        name = names[0].decode(errors="replace")
        if is_queue(name):
            return str(name)
        begin = b"(" + names[0]
