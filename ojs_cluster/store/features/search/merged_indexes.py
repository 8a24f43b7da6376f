"""Merge an index of several shards by score.

All shards continue from the score of the last entry, so a position has the same size for any number
of shards.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import INDEXES_OF_QUEUE, ListingPosition
from ojs_cluster.store.ground.fanout import run_concurrently

_CHUNK: Final = 100
"""Maximum number of entries of one read of an index."""
_FIRST_CHUNK: Final = 200
"""Maximum number of entries of the first reads of an index, of all shards together."""
_MIN_CHUNK: Final = 5
"""Minimum number of entries of the first read of an index in one shard."""


class Position(Protocol):
    """A position of a list, from which a later page continues."""

    def text(self) -> str:
        """Return the position as an opaque cursor."""


class IndexEntry(NamedTuple):
    """An entry of an index. A search makes thousands of them, so it is a tuple.

    Args:
        position: the position after the entry.
        shard: the shard of the job.
        job_id: its id.
    """

    position: Position
    shard: Shard
    job_id: str


@dataclass(slots=True)
class _IndexWalk:
    """The walk over an index in one shard.

    Args:
        number: the number of the shard, or of the partition in the index of a queue.
        shard: the shard.
        key: the key of the index.
        score: the score where the next read starts, '' at the beginning. With "(" in front of it
            the read starts after this score.
        skip: entries of that score that the next read skips.
        entries: entries that were read and not yielded yet, as score and id.
        ended: whether the index has no further entries.
        last_score: score of the last yielded entry.
        last_count: number of yielded entries with ``last_score``.
    """

    number: int
    shard: Shard
    key: bytes
    score: str = ""
    skip: int = 0
    entries: deque[tuple[str, str]] = field(default_factory=deque)
    ended: bool = False
    last_score: str = ""
    last_count: int = 0


async def walk_index(
    store: Store, index: str, queue: str, position: ListingPosition, *, newest: bool = True
) -> AsyncGenerator[IndexEntry]:
    """Yield the entries of an index after a position, merged over its shards.

    The caller closes the generator.

    Args:
        store: the store.
        index: the index, as an attribute of ``keys.Shard``.
        queue: the queue; '' for all queues, if the index is not of one queue.
        position: where to begin.
        newest: whether the highest score comes first.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue) if queue else store.keys
    sets = []
    for number, shard in enumerate(shards):
        key = getattr(shard, index)
        sets.append((number, shard, key(queue) if index in INDEXES_OF_QUEUE else key))
    async with aclosing(walk_sets(store, sets, position, newest=newest)) as merged:
        async for entry in merged:
            yield entry


async def walk_sets(
    store: Store,
    sets: Sequence[tuple[int, Shard, bytes]],
    position: ListingPosition,
    *,
    newest: bool = True,
) -> AsyncGenerator[IndexEntry]:
    """Yield the entries of sorted sets after a position, merged by score.

    The caller closes the generator.

    Args:
        store: the store.
        sets: per set its number, its shard and its key. Of equal scores the lower number comes
            first. The numbers are ``shard`` of the positions, so they stay the same on each page.
        position: where to begin.
        newest: whether the highest score comes first.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    walks = [_start_walk(number, shard, key, position) for number, shard, key in sets]
    async with aclosing(_merge(store, walks, position, newest=newest)) as merged:
        async for entry in merged:
            yield entry


def _start_walk(number: int, shard: Shard, key: bytes, position: ListingPosition) -> _IndexWalk:
    """Return a walk over a sorted set, from ``position`` on."""
    walk = _IndexWalk(number, shard, key)
    if position.score != "-inf":
        # Entries of one score come in the order of their shards.
        if number < position.shard:
            walk.score = f"({position.score}"
        elif number == position.shard:
            walk.score, walk.skip = position.score, position.skip
            walk.last_score, walk.last_count = position.score, position.skip
        else:
            walk.score = position.score
    return walk


async def _merge(
    store: Store, walks: Sequence[_IndexWalk], position: ListingPosition, *, newest: bool
) -> AsyncGenerator[IndexEntry]:
    first = max(_MIN_CHUNK, min(_CHUNK, _FIRST_CHUNK // max(1, len(walks))))
    await run_concurrently(walks, lambda walk: _read(store, walk, first, newest=newest))
    sign = -1 if newest else 1
    heap = [(sign * float(walk.entries[0][0]), walk.number, walk) for walk in walks if walk.entries]
    heapq.heapify(heap)
    while heap:
        walk = heap[0][2]
        score, job_id = walk.entries.popleft()
        walk.last_count = walk.last_count + 1 if score == walk.last_score else 1
        walk.last_score = score
        yield IndexEntry(
            ListingPosition(position.index, walk.number, position.queue, score, walk.last_count),
            walk.shard,
            job_id,
        )
        if not walk.entries and not walk.ended:
            await _read(store, walk, _CHUNK, newest=newest)
        if walk.entries:
            heapq.heapreplace(heap, (sign * float(walk.entries[0][0]), walk.number, walk))
        else:
            heapq.heappop(heap)


async def _read(store: Store, walk: _IndexWalk, count: int, *, newest: bool) -> None:
    """Read the next entries of an index."""
    score_range: tuple[str, ...] = (walk.score or "-inf", "+inf", "BYSCORE")
    if newest:
        score_range = (walk.score or "+inf", "-inf", "BYSCORE", "REV")
    flat: Any = await store.redis.call(
        walk.shard.slot,
        *("ZRANGE", walk.key),
        *score_range,
        *("LIMIT", walk.skip, count, "WITHSCORES"),
        idempotent=True,
    )
    items = iter(flat)
    for member, raw in zip(items, items, strict=True):
        score = raw.decode()
        walk.skip = walk.skip + 1 if score == walk.score else 1
        walk.score = score
        # A damaged id names no job, so the list leaves it out.
        walk.entries.append((score, member.decode(errors="replace")))
    walk.ended = len(flat) < 2 * count
