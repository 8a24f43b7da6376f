"""The pause mark of a queue that has several partitions.

Fetch reads the mark in its pop, in the shard it takes jobs from, so each partition has one. That of
partition 0 says what is wanted. Whoever changes it, or the number of partitions, makes the others
follow, and is done only when it has seen that they agree with a mark that did not change meanwhile:
so two who do this at once leave what the later one wants. For who dies before that the janitor does
it, within three seconds of a change; producers use a new partition ten seconds after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import over_shards

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def mirror(store: Store, queue: str) -> None:
    """Make the marks of all partitions agree.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    before = None
    while True:
        await store.partitions.latest(store)
        held = store.partitions.layout(queue).held
        first, *others = store.keys.partitions(queue, held)
        if not others:
            return
        wanted = await _mark(store, first, queue)
        wrong = await _others(store, others, queue, wanted is not None)
        # Twice the same, and nothing to correct the second time.
        if not wrong and (wanted, held) == before:
            return
        before = (wanted, held)
        await over_shards(wrong, lambda shard: _set(store, shard, queue, wanted is not None))  # noqa: B023 - awaited here


async def _mark(store: Store, shard: Shard, queue: str) -> Any:
    return await store.redis.call(shard.slot, "HGET", shard.queue(queue), "paused", idempotent=True)


async def _others(store: Store, shards: list[Shard], queue: str, paused: bool) -> list[Shard]:
    """Those whose mark is not as it should be."""
    wrong: list[Shard] = []

    async def look(shard: Shard) -> None:
        if (await _mark(store, shard, queue) is not None) != paused:
            wrong.append(shard)

    await over_shards(shards, look)
    return wrong


async def _set(store: Store, shard: Shard, queue: str, paused: bool) -> None:
    # No events: the queue is paused once, not once for each partition.
    await store.run(
        shard,
        "switch_queue",
        [shard.queue(queue), shard.available(queue), shard.events],
        [0, queue, "pause" if paused else "resume"],
        idempotent=True,
    )
