"""Copy fields of a queue's hash from partition 0 to the other partitions.

These fields are the flags ``paused`` and ``draining``, the depth bound and ``on_exhaustion``. The
scripts of a partition can read only the queue's hash in their own shard, so each partition has a
copy.

Partition 0 holds the wanted value. A process that changes the value, or the number of partitions,
writes the copies. It repeats this until all copies agree with a value that did not change during
the pass. So when two processes change the value at once, all copies get the later one. If the
process dies first, the janitor finishes in its next round. ``copied_settings.py`` writes the copies
of a new partition before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Shard
from ojs_cluster.store.ground.fanout import run_concurrently

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

T = TypeVar("T")


async def read_text(
    store: Store, shard: Shard, queue: str, field: str, valid: re.Pattern[bytes]
) -> str | None:
    """Return a field of a queue's hash in one partition.

    Args:
        store: the store.
        shard: the shard of the partition.
        queue: the queue's name.
        field: the field.
        valid: what the field may hold, as ASCII.

    Returns:
        The value, "" if there is none, None if it is damaged.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    key = shard.queue_counters(queue)
    found = await store.redis.call(shard.slot, "HGET", key, field, idempotent=True)
    if not isinstance(found, bytes):
        return ""
    return found.decode() if valid.fullmatch(found) else None


async def mirror_text(
    store: Store,
    queue: str,
    read: Callable[[Shard], Awaitable[str | None]],
    write: Callable[[Shard, str], Awaitable[None]],
) -> None:
    """Make all partitions agree with partition 0, and remove damaged values.

    Args:
        store: the store.
        queue: the queue's name.
        read: returns the value of a partition, as ``read_text`` does.
        write: sets the value of a partition, and removes it for "".

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def read_or_remove(shard: Shard) -> str:
        found = await read(shard)
        if found is None:
            await write(shard, "")
        return found or ""

    await mirror_field(store, queue, read_or_remove, write)


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
