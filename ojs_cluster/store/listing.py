"""List jobs, page by page, with a bound on the work of each page (spec: ojs-admin-api).

There is no index of all jobs: it would cost every job memory for a view few look at. A listing
walks the indexes that the lifecycle needs anyway, shard after shard; a cursor says where it was.
Jobs that move while a listing goes on may be missed or met twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import read_many
from ojs_cluster.store.record import JobRecord

SCAN_BUDGET = 2000
"""Most jobs one page looks at, whatever the filters let through."""
_CHUNK = 100

_BY_QUEUE = ("available", "held")
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
_INDEXES = ("pending", "available", "held", "due", "active", "finished")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a listing lets through; None lets everything through."""

    state: State | None = None
    queue: str | None = None
    type: str | None = None

    def admits(self, job: JobRecord) -> bool:
        return (
            (self.state is None or job.state == self.state)
            and (self.queue is None or job.queue == self.queue)
            and (self.type is None or job.type == self.type)
        )


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page. It may hold fewer jobs than asked for and still have a ``next_cursor``."""

    jobs: list[JobRecord]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a listing is: index, shard (of one queue's jobs: its partition), queue (of available
    jobs), score, entries of that score already seen."""

    index: int = 0
    shard: int = 0
    queue: str = ""
    score: str = "-inf"
    skip: int = 0

    def text(self) -> str:
        return cursors.encode([self.index, self.shard, self.queue, self.score, self.skip])

    @classmethod
    def parse(cls, text: str, indexes: int, shards: int) -> _Place:
        match cursors.decode(text):
            case [int(index), int(shard), str(queue), str(score), int(skip)] if (
                0 <= index < indexes and 0 <= shard < shards and skip >= 0
            ):
                try:
                    float(score)
                except ValueError:
                    pass
                else:
                    return cls(index, shard, queue, score, skip)
        raise InvalidRequest("cursor is not one that this server gave", field="cursor")


async def list_jobs(
    store: Store, wanted: JobFilter, *, limit: int, cursor: str | None = None
) -> JobPage:
    """Jobs that ``wanted`` admits, after ``cursor``.

    Parameters
    ----------
    limit: most jobs in the page.

    Raises
    ------
    InvalidRequest: the cursor is not one of ours.
    BackendUnavailable: Redis did not answer in time.
    """
    indexes = _INDEXES if wanted.state is None else _INDEX[wanted.state]
    start = _Place.parse(cursor, len(indexes), len(store.keys)) if cursor else _Place()
    jobs: list[JobRecord] = []
    budget = SCAN_BUDGET
    async with aclosing(_walk(store, wanted, indexes, start)) as walk:
        async for place, job in walk:
            budget -= 1  # an empty index still cost a call
            if job is not None and wanted.admits(job):
                jobs.append(job)
            if len(jobs) >= limit or budget <= 0:
                return JobPage(jobs, place.text())
    return JobPage(jobs, None)


async def _walk(
    store: Store, wanted: JobFilter, indexes: tuple[str, ...], place: _Place
) -> AsyncGenerator[tuple[_Place, JobRecord | None], None]:
    """Every job of the indexes with the place right after it; None after each index's end."""
    while place.index < len(indexes):
        index = indexes[place.index]
        # Available jobs lie per queue; the registry's name order is the walk's.
        by_queue = index in _BY_QUEUE and wanted.queue is None
        queue = wanted.queue or (place.queue if by_queue else "")
        shards = await store.partitions.held(store, queue) if queue else list(store.keys)
        if place.shard < len(shards) and (queue or not by_queue):
            shard = shards[place.shard]
            key = getattr(shard, index)
            if index in _BY_QUEUE:
                key = key(queue)
            while True:
                ids, place = await _next_ids(store, shard, key, place)
                for (passed, _), job in await _jobs(store, shard, ids):
                    yield passed, job
                if len(ids) < _CHUNK:
                    break
        following: str | None = None
        if (queue or not by_queue) and place.shard + 1 < len(shards):
            place = _Place(place.index, place.shard + 1, place.queue)
        elif by_queue and (following := await _queue_after(store, queue)) is not None:
            place = _Place(place.index, 0, following)
        else:
            place = _Place(place.index + 1)
        if place.index < len(indexes):
            yield place, None


async def _next_ids(
    store: Store, shard: Shard, key: bytes, place: _Place
) -> tuple[list[tuple[_Place, str]], _Place]:
    flat: Any = await store.redis.call(
        shard.slot,
        *("ZRANGE", key, place.score, "+inf", "BYSCORE"),
        *("LIMIT", place.skip, _CHUNK, "WITHSCORES"),
        idempotent=True,
    )
    ids: list[tuple[_Place, str]] = []
    items = iter(flat)
    for member, raw in zip(items, items, strict=True):
        score = raw.decode()
        skip = place.skip + 1 if score == place.score else 1
        place = replace(place, score=score, skip=skip)
        ids.append((place, member.decode()))
    return ids, place


async def _jobs(
    store: Store, shard: Shard, ids: list[tuple[_Place, str]]
) -> list[tuple[tuple[_Place, str], JobRecord | None]]:
    found = {job.id: job for job in await read_many(store, shard, [job_id for _, job_id in ids])}
    return [(item, found.get(item[1])) for item in ids]


async def _queue_after(store: Store, queue: str) -> str | None:
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, f"({queue}" if queue else "-", "+", "LIMIT", 0, 1),
        idempotent=True,
    )
    return names[0].decode() if names else None
