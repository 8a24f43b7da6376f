"""Walk the indexes of jobs, newest first, over all shards at once.

The indexes are those that the lifecycle needs (docs/adr/002). Within an index the entries of all
shards are merged by score. So finished jobs and dead letters come by the time of their end, active
jobs by their deadline, and pending jobs by the time of their creation, each latest first. Scheduled
and retryable jobs come by the time at which they are due, next first. Available jobs have an index
per queue, so they come queue by queue: those first that a fetch would return last.

A cursor holds the score of the last entry and its shard. All shards continue from this score, so a
cursor has the same size for any number of shards.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.listing import (
    INDEXES_OF_QUEUE,
    JobFilter,
    ListingPosition,
    queue_after,
)

_CHUNK: Final = 100
"""Entries of one read of an index."""
_FIRST_CHUNK: Final = 200
"""Entries of the first read of an index, of all shards together."""
_MIN_CHUNK: Final = 5
_OLDEST_FIRST: Final = frozenset({"due"})


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of an index.

    Args:
        place: the position after the entry.
        shard: the shard of the job.
        job_id: its id.
    """

    place: ListingPosition
    shard: Shard
    job_id: str


@dataclass(slots=True)
class _Stream:
    """The index of one shard.

    Args:
        number: the number of the shard, or of the partition in the index of a queue.
        shard: the shard.
        key: the key of the index.
        score: the score where the next read starts, "" at the beginning; "(" excludes it.
        skip: entries of that score that the next read skips.
        entries: entries that were read and not yielded yet, as score and id.
        ended: whether the index has no further entries.
        last: score of the last entry that was yielded, and the number of such entries.
    """

    number: int
    shard: Shard
    key: bytes
    score: str = ""
    skip: int = 0
    entries: deque[tuple[str, str]] = field(default_factory=deque)
    ended: bool = False
    last: tuple[str, int] = ("", 0)


async def walk_newest_first(
    store: Store, wanted: JobFilter, cursor: str | None
) -> AsyncGenerator[IndexEntry | ListingPosition]:
    """Yield the entries of all indexes of ``wanted``, and a position after the end of each index.

    The caller closes the generator. Of ``wanted`` only the indexes and the queue are used.

    Args:
        store: the store.
        wanted: the filter.
        cursor: where the last page ended, None for the first page.

    Raises:
        InvalidRequest: the cursor is not one of this server.
        BackendUnavailable: Redis did not answer in time.
    """
    indexes = wanted.indexes
    place = ListingPosition()
    if cursor:
        place = ListingPosition.parse(cursor, len(indexes), len(store.keys))
    while place.index < len(indexes):
        index = indexes[place.index]
        by_queue = index in INDEXES_OF_QUEUE and wanted.queue is None
        queue = wanted.queue or (place.queue if by_queue else "")
        if queue or not by_queue:
            shards = await store.partitions.occupied_shards(store, queue) if queue else store.keys
            streams = [
                _stream(index, queue, number, shard, place) for number, shard in enumerate(shards)
            ]
            newest = index not in _OLDEST_FIRST
            async with aclosing(_merge(store, streams, place, newest=newest)) as merged:
                async for entry in merged:
                    yield entry
        following = await queue_after(store, queue) if by_queue else None
        if following is not None:
            place = ListingPosition(place.index, 0, following)
        else:
            place = ListingPosition(place.index + 1)
        if place.index < len(indexes):
            yield place


def _stream(index: str, queue: str, number: int, shard: Shard, place: ListingPosition) -> _Stream:
    """Return the index of a shard from ``place`` on."""
    key = getattr(shard, index)
    stream = _Stream(number, shard, key(queue) if index in INDEXES_OF_QUEUE else key)
    if place.score != "-inf":
        # Entries of one score come in the order of their shards.
        if number < place.shard:
            stream.score = f"({place.score}"
        elif number == place.shard:
            stream.score, stream.skip = place.score, place.skip
            stream.last = (place.score, place.skip)
        else:
            stream.score = place.score
    return stream


async def _merge(
    store: Store, streams: Sequence[_Stream], place: ListingPosition, *, newest: bool
) -> AsyncGenerator[IndexEntry]:
    first = max(_MIN_CHUNK, min(_CHUNK, _FIRST_CHUNK // max(1, len(streams))))
    await run_concurrently(streams, lambda stream: _read(store, stream, first, newest=newest))
    sign = -1 if newest else 1
    heap = [
        (sign * float(stream.entries[0][0]), stream.number, stream)
        for stream in streams
        if stream.entries
    ]
    heapq.heapify(heap)
    while heap:
        stream = heap[0][2]
        score, job_id = stream.entries.popleft()
        known, count = stream.last
        stream.last = (score, count + 1 if score == known else 1)
        yield IndexEntry(
            ListingPosition(place.index, stream.number, place.queue, *stream.last),
            stream.shard,
            job_id,
        )
        if not stream.entries and not stream.ended:
            await _read(store, stream, _CHUNK, newest=newest)
        if stream.entries:
            heapq.heapreplace(heap, (sign * float(stream.entries[0][0]), stream.number, stream))
        else:
            heapq.heappop(heap)


async def _read(store: Store, stream: _Stream, count: int, *, newest: bool) -> None:
    """Read the next entries of an index."""
    way: tuple[str, ...] = (stream.score or "-inf", "+inf", "BYSCORE")
    if newest:
        way = (stream.score or "+inf", "-inf", "BYSCORE", "REV")
    flat: Any = await store.redis.call(
        stream.shard.slot,
        *("ZRANGE", stream.key),
        *way,
        *("LIMIT", stream.skip, count, "WITHSCORES"),
        idempotent=True,
    )
    items = iter(flat)
    for member, raw in zip(items, items, strict=True):
        score = raw.decode()
        stream.skip = stream.skip + 1 if score == stream.score else 1
        stream.score = score
        stream.entries.append((score, member.decode()))
    stream.ended = len(flat) < 2 * count
