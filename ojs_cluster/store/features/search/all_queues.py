"""Walk the waiting jobs of all queues, newest first.

Waiting are the available jobs and those that are blocked. Each queue has indexes of its own, in the
order of fetches, so no command merges them by time. But a job id begins with the time of its
creation. So the ids of a group of queues are read at once and sorted. A group is a range of queue
names that have at most ``MAX_ENTRIES`` waiting jobs. Up to this number, all waiting jobs have one
order. Otherwise the groups follow each other. A queue that has more jobs than a group is walked
alone, in the reverse order of fetches.

The cursor of a group has its first and last queue and the last listed id. Positions in each queue
were refused, because a cursor would grow with the number of queues.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
import trio

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import ListingPosition
from ojs_cluster.store.engine.read_sets import ShardKey, read_members, read_sizes
from ojs_cluster.store.features.search.merged_indexes import IndexEntry, walk_index
from ojs_cluster.store.ground import cursor as cursors

WAITING: Final = ("queue_available", "queue_blocked")
"""The indexes of waiting jobs, as attributes of ``keys.Shard``."""
MAX_ENTRIES: Final = 20_000
"""Maximum number of waiting jobs of a group when its first page is read."""
_MAX_GROWTH: Final = 2
"""A later page reads at most this multiple of ``MAX_ENTRIES``, because queues may have grown."""
MAX_QUEUES: Final = 2000
"""Maximum number of queues of a group. An empty queue costs two commands per page."""
_YIELD_AFTER: Final = 5000
"""Number of ids after which other requests run. Reading so many takes 2 ms."""
_NAMES: Final = 500
"""Maximum number of queue names of one read."""

QueueTest = Callable[[str], bool]
"""Returns whether the caller wants the jobs of a queue."""


class GroupPosition(msgspec.Struct, frozen=True):
    """A position in the waiting jobs of a group of queues.

    Args:
        index: number of the index ``queue_available`` among the indexes of the listing.
        first: the first queue of the group by name.
        last: the last one.
        before: only jobs with a smaller id follow; '' when no job follows, None at the beginning.
    """

    index: int
    first: str
    last: str
    before: str | None = None

    def text(self) -> str:
        """Return the position as an opaque cursor."""
        return cursors.encode([self.index, self.first, self.last, self.before])

    @classmethod
    def parse(cls, text: str, indexes: Sequence[str]) -> GroupPosition | None:
        """Parse a cursor.

        Args:
            text: the cursor.
            indexes: the indexes of the listing.

        Returns:
            The position, None for a cursor of another kind.

        Raises:
            InvalidRequest: this server did not create the cursor.
        """
        match cursors.decode(text):
            case [int(index), str(first), str(last), None | str() as before] if (
                cursors.are_numbers((index,), len(indexes))
                and indexes[index] == WAITING[0]
                and is_queue(first)
                and is_queue(last)
            ):
                return cls(index, first, last, before)
        return None


async def walk_all_queues(
    store: Store, position: GroupPosition | ListingPosition, start: int, wanted: QueueTest
) -> AsyncGenerator[IndexEntry | GroupPosition | ListingPosition]:
    """Yield the waiting jobs of all queues, and a position before each group or large queue.

    The caller closes the generator.

    Args:
        store: the store.
        position: where to begin.
        start: number of the index ``queue_available`` among the indexes of the listing.
        wanted: returns whether to list a queue.

    Raises:
        InvalidRequest: a group has grown by too many jobs since its first page.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        done = ""
        if isinstance(position, GroupPosition):
            entries = await _read_group(store, position, wanted)
            group = position.index, position.first, position.last
            for job_id in sorted(entries, reverse=True):
                yield IndexEntry(GroupPosition(*group, job_id), entries[job_id], job_id)
            done = position.last
        elif position.queue:
            index = WAITING[position.index - start]
            async with aclosing(walk_index(store, index, position.queue, position)) as walk:
                async for entry in walk:
                    yield entry
            done = position.queue
            if position.index == start:
                position = ListingPosition(start + 1, 0, done)
                yield position
                continue
        following = await _next(store, start, done, wanted)
        if following is None:
            return
        position = following
        yield position


async def _next(
    store: Store, start: int, after: str, wanted: QueueTest
) -> GroupPosition | ListingPosition | None:
    """Return the beginning of the next group, or of the next large queue; None at the end."""
    first, last, entries, queues = "", "", 0, 0
    begin: bytes | None = f"({after}".encode() if after else b"-"
    while begin is not None:
        names, begin = await read_queue_names(store, begin, b"+", wanted)
        sizes = await _sizes(store, names)
        for name in names:
            entries, queues = entries + sizes[name], queues + 1
            if not first and sizes[name] > MAX_ENTRIES:
                return ListingPosition(start, 0, name)
            if first and (entries > MAX_ENTRIES or queues > MAX_QUEUES):
                return GroupPosition(start, first, last)
            first, last = first or name, name
    return GroupPosition(start, first, last) if first else None


async def _read_group(store: Store, position: GroupPosition, wanted: QueueTest) -> dict[str, Shard]:
    """Return the ids of the group that follow a position, with their shards."""
    names: list[str] = []
    begin: bytes | None = f"[{position.first}".encode()
    while begin is not None:
        some, begin = await read_queue_names(store, begin, f"[{position.last}".encode(), wanted)
        names += some
        if len(names) > _MAX_GROWTH * MAX_QUEUES:
            raise _grown()
    if position.before == "":
        return {}
    sizes = await read_sizes(store, await _waiting_sets(store, names))
    if sum(sizes.values()) > _MAX_GROWTH * MAX_ENTRIES:
        raise _grown()
    before = None if position.before is None else position.before.encode()
    found: dict[str, Shard] = {}
    unseen = _YIELD_AFTER
    for (shard, _), ids in (await read_members(store, sizes)).items():
        for job_id in ids:
            if before is None or job_id < before:
                found[job_id.decode(errors="replace")] = shard
        unseen -= len(ids)
        if unseen <= 0:  # other requests run in between
            await trio.lowlevel.checkpoint()
            unseen = _YIELD_AFTER
    return found


def _grown() -> InvalidRequest:
    return InvalidRequest(
        "the queues have grown too much since the first page: begin again", field="cursor"
    )


async def read_queue_names(
    store: Store, begin: bytes, end: bytes, wanted: QueueTest
) -> tuple[list[str], bytes | None]:
    """Read up to ``_NAMES`` registered names in their order.

    Args:
        store: the store.
        begin: where to begin, as ``ZRANGEBYLEX`` reads it.
        end: where to end.
        wanted: returns whether a queue is wanted.

    Returns:
        The names of wanted queues, and where the next read begins, None after the last name.
        Damaged names belong to no queue, so they are left out.
    """
    meta = store.keys.meta
    raw: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, begin, end, "LIMIT", 0, _NAMES),
        idempotent=True,
    )
    decoded = (name.decode(errors="replace") for name in raw)
    names = [name for name in decoded if is_queue(name) and wanted(name)]
    return names, b"(" + raw[-1] if len(raw) == _NAMES else None


async def _sizes(store: Store, names: Sequence[str]) -> dict[str, int]:
    """Return the number of waiting jobs of each queue."""
    sets = await _waiting_sets(store, names)
    sizes = dict.fromkeys(names, 0)
    for key, size in (await read_sizes(store, sets)).items():
        sizes[sets[key]] += size
    return sizes


async def _waiting_sets(store: Store, names: Sequence[str]) -> dict[ShardKey, str]:
    """Return the indexes of the waiting jobs of some queues, each with its queue."""
    await store.partitions.refresh_if_stale(store)
    return {
        (shard, getattr(shard, index)(name)): name
        for name in names
        for shard in store.keys.partitions(name, store.partitions.layout(name).occupied_count)
        for index in WAITING
    }
