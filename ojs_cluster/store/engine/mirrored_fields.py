"""Copy fields of a queue's hash from partition 0 to the other partitions.

These fields are the flags ``paused`` and ``draining``, the depth bound, ``on_exhaustion`` and the
fair share. The scripts of a partition can read only the queue's hash in their own shard, so each
partition has a copy.

Partition 0 holds the wanted value. A process that changes the value, or the number of partitions,
writes the copies. It repeats this until all copies agree with a value that did not change during
the pass. So when two processes change the value at once, all copies get the later one. If the
process dies first, the janitor finishes in its next round. ``copied_settings.py`` writes the copies
of a new partition before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Shard
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MirroredText:
    """A setting of a queue as a text, which each partition has.

    Args:
        read: returns the value in one partition: "" if there is none, None if it is damaged.
        write: sets the value in one partition, and removes it for "".
    """

    read: Callable[[Store, Shard, str], Awaitable[str | None]]
    write: Callable[[Store, Shard, str, str], Awaitable[None]]

    async def get(self, store: Store, queue: str) -> str:
        """Return the value of a queue, "" for none.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        return await self.read(store, store.keys.shard_of_queue(queue), queue) or ""

    async def set(self, store: Store, queue: str, value: str) -> None:
        """Set the value in all partitions of a queue, which need not exist.

        Raises:
            TooManyQueues: the queue is new, and the registry of queue names is full.
            BackendUnavailable: Redis did not answer in time.
        """
        await store.queues.ensure(store, [queue])
        await store.partitions.try_read(store)
        await self.write(store, store.keys.shard_of_queue(queue), queue, value)
        with after_first_write():
            await self.mirror(store, queue)

    async def mirror(self, store: Store, queue: str) -> None:
        """Make all partitions agree with partition 0, and remove damaged values.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """

        async def read_or_remove(shard: Shard) -> str:
            found = await self.read(store, shard, queue)
            if found is None:
                await self.write(store, shard, queue, "")
            return found or ""

        await mirror_field(
            store, queue, read_or_remove, lambda shard, text: self.write(store, shard, queue, text)
        )


def reader_of(
    field: str, valid: re.Pattern[bytes]
) -> Callable[[Store, Shard, str], Awaitable[str | None]]:
    """Return a function that reads a field of a queue's hash, for ``MirroredText``.

    Args:
        field: the field.
        valid: what the field may hold, as ASCII.
    """

    async def read(store: Store, shard: Shard, queue: str) -> str | None:
        key = shard.queue_counters(queue)
        found = await store.redis.call(shard.slot, "HGET", key, field, idempotent=True)
        if not isinstance(found, bytes):
            return ""
        return found.decode() if valid.fullmatch(found) else None

    return read


async def mirror_field(
    store: Store,
    queue: str,
    read: Callable[[Shard], Awaitable[T]],
    write: Callable[[Shard, T], Awaitable[None]],
) -> None:
    """Make one field of all partitions agree with partition 0.

    Args:
        store: the store.
        queue: the queue's name.
        read: returns the field's value in the shard of a partition.
        write: sets the field's value in the shard of a partition.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def correct(shards: Sequence[Shard], wanted: T, _layout: PartitionLayout) -> bool:
        outdated: list[Shard] = []

        async def check(shard: Shard) -> None:
            if await read(shard) != wanted:
                outdated.append(shard)

        await run_concurrently(shards[1:], check)
        await run_concurrently(outdated, lambda shard: write(shard, wanted))
        return bool(outdated)

    await correct_until_stable(store, queue, read, correct)


async def correct_until_stable(
    store: Store,
    queue: str,
    read_wanted: Callable[[Shard], Awaitable[T]],
    correct: Callable[[Sequence[Shard], T, PartitionLayout], Awaitable[bool]],
) -> None:
    """Correct the partitions until a pass over the same value and layout finds nothing wrong.

    A queue of one partition needs no correction.

    Args:
        store: the store.
        queue: the queue's name.
        read_wanted: returns the wanted value, read in partition 0.
        correct: checks and corrects all partitions; returns whether it had to correct any.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    last_pass: tuple[T, PartitionLayout] | None = None
    while True:
        await store.partitions.try_read(store)
        layout = store.partitions.layout(queue)
        if layout.occupied_count == 1:
            return
        shards = store.keys.partitions(queue, layout.occupied_count)
        wanted = await read_wanted(shards[0])
        corrected = await correct(shards, wanted, layout)
        if not corrected and (wanted, layout) == last_pass:
            return
        last_pass = (wanted, layout)
