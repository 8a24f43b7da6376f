"""Changes of the number of partitions of a queue, and what the janitor does for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.partitions import Layout
from ojs_cluster.core.rate_limit import Limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.limits import depth_bounds, partition_quotas
from ojs_cluster.store.queues import partitions, pauses
from ojs_cluster.store.queues.partitions import DEFAULT, NO_LIMIT
from ojs_cluster.store.queues.queues import stats_in

UNUSED_MS: Final = 86_400_000
"""How long the number of partitions of a queue is kept that does not exist."""
UNUSED_CROWDED_MS: Final = 3_600_000
"""The same where the table is nearly full."""
_CROWDED: Final = 0.9


async def set_partitions(store: Store, queue: str, count: int) -> Layout:
    """Give a queue another number of partitions. It need not exist.

    It takes effect by and by (see ``core/partitions.py``); repeating it changes nothing.

    Raises:
        InvalidRequest: there cannot be that many, or too many queues have a number of their own.
        ValidationFailed: the queue has rate limits, in which its partitions have shares.
        BackendUnavailable: Redis did not answer in time.
    """
    most = store.keys.most_partitions
    if not 1 <= count <= most:
        raise InvalidRequest(
            f"partitions must be from 1 to {most}, not {count}", field="partitions"
        )
    before = (await get_partitions(store, queue)).parts
    limited = count != before and await _has_limits(store, queue)
    if not limited:

        def changed(old: Layout, now_ms: int) -> Layout:
            nonlocal before
            before = old.parts
            return old.changed(count, now_ms)

        layout = await store.partitions.change(store, queue, changed)
        limited = count != before and await _has_limits(store, queue)
        if limited:  # set meanwhile
            await store.partitions.change(
                store, queue, lambda old, now_ms: old.changed(before, now_ms)
            )
            await partition_quotas.mirror(store, queue)
    if limited:
        raise ValidationFailed(
            f"queue '{queue}' has rate limits, of which its {before} partitions have their shares: "
            "delete them, change the number, and set them again",
            field="partitions",
        )
    await pauses.mirror(store, queue)
    await depth_bounds.mirror(store, queue)
    return layout


async def get_partitions(store: Store, queue: str) -> Layout:
    """A queue's partitions now.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    return store.partitions.layout(queue)


async def look_after_changes(store: Store) -> int:
    """Bring changes to their end; returns how many there are.

    Pause marks follow into new partitions; old ones are closed when they are empty; one that got a
    late job is opened again. Two leaders who do this do it once, as each compares what it has seen.
    Partitions of the default are closed by the round over all queues (``end_round``).

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    now_ms = store.partitions.now_ms()
    changing = [
        queue
        for queue, layout in store.partitions.entries().items()
        if queue != DEFAULT and (layout.to_watch(now_ms) or not layout.settled(now_ms))
    ]
    for queue in changing:
        await look_after(store, queue)
    return len(changing) + await end_unused(store)


async def end_unused(store: Store) -> int:
    """End the entries of queues that do not exist; returns how many were changed or ended.

    Anybody with a name can fill the table, which has an end, and every process has it in memory.
    An entry ends as any other change does: the number becomes the default, then the partitions
    beyond it are closed, then, as much later, the entry goes. So the job of a producer that has
    slept since it read the old number is found.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    entries, now_ms = store.partitions.entries(), store.partitions.now_ms()
    crowded = len(entries) > partitions.MOST_ENTRIES * _CROWDED
    kept_ms = UNUSED_CROWDED_MS if crowded else UNUSED_MS
    old = [
        queue
        for queue, layout in entries.items()
        if queue != DEFAULT and now_ms - layout.at_ms >= kept_ms
    ]
    if not old:
        return 0
    meta = store.keys.meta
    known: Any = await store.redis.call(meta.slot, "ZMSCORE", meta.queues, *old, idempotent=True)
    unused = [queue for queue, score in zip(old, known, strict=True) if score is None]
    for queue in unused:
        seen = entries[queue]
        await store.partitions.change(
            store, queue, partial(_less, seen, store.partitions.default.parts)
        )
    return len(unused)


def _less(seen: Layout, parts: int, old: Layout, now_ms: int) -> Layout:
    """The next step towards no entry, from the layout that was seen."""
    if old != seen:
        return old
    if old.parts != parts:
        return old.changed(parts, now_ms)
    return replace(old, held=old.open) if old.open == old.parts else old


async def look_after(store: Store, queue: str) -> None:
    """Make the pause marks and shares of a queue agree; close partitions that are empty, open one
    that is not.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await pauses.mirror(store, queue)
    await partition_quotas.mirror(store, queue)
    await depth_bounds.mirror(store, queue)
    seen = store.partitions.layout(queue)
    if seen.held == seen.parts:
        return
    shards = store.keys.partitions(queue, seen.held)
    live = 0

    async def look(number: int) -> None:
        nonlocal live
        if await _lives(store, shards[number], queue):
            live = max(live, number + 1)

    await over_shards(range(seen.parts, seen.held), look)
    own = queue in store.partitions.entries()

    def closed(old: Layout, now_ms: int) -> Layout:
        # What was seen holds for the layout that was seen, and for no other.
        if old != seen:
            return old
        if not own and live > old.parts and old.drains(now_ms):
            return old.apart(live, now_ms)
        return old.drained(live, now_ms)

    await store.partitions.change(store, queue, closed, most=NO_LIMIT)


async def begin_round(store: Store) -> None:
    """Before each queue is looked after once: does the default wait for them?

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    default = store.partitions.default
    store.partitions.draining = default if default.drains(store.partitions.now_ms()) else None


async def end_round(store: Store) -> None:
    """Each queue was looked after: those with jobs in old partitions of the default say so by
    themselves now, so it closes them for all others.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    seen, store.partitions.draining = store.partitions.draining, None
    if seen is not None:
        await store.partitions.change(
            store, DEFAULT, lambda old, now_ms: old.drained(0, now_ms) if old == seen else old
        )


async def forget(store: Store, queue: str) -> None:
    """A queue was retired: nothing of it is left in any partition."""
    await store.partitions.change(store, queue, lambda old, _: replace(old, held=old.open))


async def _has_limits(store: Store, queue: str) -> bool:
    return await partition_quotas.of_queue(store, queue) != Limits()


async def _lives(store: Store, shard: Shard, queue: str) -> bool:
    return (await stats_in(store, shard, queue)).live
