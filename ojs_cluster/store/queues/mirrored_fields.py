"""A field of a queue's hash that each partition has, because its scripts read it there.

Partition 0 says what is wanted. Whoever changes it, or the number of partitions, makes the others
follow, and is done only when all agree with a value that did not change meanwhile. So two that do
this at once leave what the later one wants. If the process dies first, the janitor finishes within
three seconds of a change. Producers use a new partition ten seconds after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import over_shards

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

T = TypeVar("T")


async def mirror(
    store: Store,
    queue: str,
    read: Callable[[Shard], Awaitable[T]],
    write: Callable[[Shard, T], Awaitable[None]],
) -> None:
    """Make all partitions agree with partition 0.

    Args:
        store: the store.
        queue: the queue's name.
        read: returns the value of a partition.
        write: sets the value of a partition.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    before: tuple[T, int] | None = None
    while True:
        await store.partitions.latest(store)
        held = store.partitions.layout(queue).held
        first, *others = store.keys.partitions(queue, held)
        if not others:
            return
        wanted = await read(first)
        wrong = await _others(others, read, wanted)
        # Twice the same, and nothing to correct the second time.
        if not wrong and (wanted, held) == before:
            return
        before = (wanted, held)
        await over_shards(wrong, lambda shard: write(shard, wanted))  # noqa: B023 - awaited here


async def _others(
    shards: list[Shard], read: Callable[[Shard], Awaitable[T]], wanted: T
) -> list[Shard]:
    """Return the partitions whose value is not as it should be."""
    wrong: list[Shard] = []

    async def check(shard: Shard) -> None:
        if await read(shard) != wanted:
            wrong.append(shard)

    await over_shards(shards, check)
    return wrong
