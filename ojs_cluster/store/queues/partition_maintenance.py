"""Changes of the number of partitions of a queue, and the janitor's work for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.dead_letters import exhaustion
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.limits import depth_bounds, partition_quotas
from ojs_cluster.store.queues import partitions, pauses
from ojs_cluster.store.queues.partitions import DEFAULT, NO_ENTRY_LIMIT
from ojs_cluster.store.queues.queues import get_partition_stats

UNUSED_MS: Final = 86_400_000
"""Time in milliseconds for which the table keeps an entry of a queue that does not exist."""
UNUSED_CROWDED_MS: Final = 3_600_000
"""The same while the table is nearly full."""
_CROWDED: Final = 0.9
"""The part of the table's entries above which it is nearly full."""


async def set_partitions(store: Store, queue: str, count: int) -> PartitionLayout:
    """Give a queue another number of partitions. The queue need not exist.

    The change takes effect in stages (see ``core/partitions.py``). Repeating it changes nothing.

    Args:
        store: the store.
        queue: the queue's name.
        count: the new number of partitions.

    Raises:
        InvalidRequest: ``count`` is out of range, or too many queues have a number of their own.
        ValidationFailed: the queue has rate limits, which are divided among its partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    most = store.keys.max_partitions
    if not 1 <= count <= most:
        raise InvalidRequest(
            f"partitions must be from 1 to {most}, not {count}", field="partitions"
        )
    before = (await get_partitions(store, queue)).count
    if count != before and await _has_limits(store, queue):
        raise _has_quotas(queue, before)

    def resized(old: PartitionLayout, now_ms: int) -> PartitionLayout:
        nonlocal before
        before = old.count
        return old.resized(count, now_ms)

    layout = await store.partitions.update(store, queue, resized)
    # Another request may have set limits since the check above.
    if count != before and await _has_limits(store, queue):
        await store.partitions.update(store, queue, lambda old, now_ms: old.resized(before, now_ms))
        await partition_quotas.update_quotas(store, queue)
        raise _has_quotas(queue, before)
    await pauses.mirror_pause_flag(store, queue)
    await depth_bounds.mirror_bound(store, queue)
    await exhaustion.mirror_on_exhaustion(store, queue)
    return layout


async def get_partitions(store: Store, queue: str) -> PartitionLayout:
    """Read the table; return a queue's partitions.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    return store.partitions.layout(queue)


async def advance_changes(store: Store) -> int:
    """Move each change of a number of partitions on; return how many changes are under way.

    New partitions get the mirrored fields. Old partitions are closed when they are empty. A closed
    partition that got a late job is opened again. Two leaders cannot disturb each other here: each
    compares the entry with what it has read. Partitions of the default are closed by the round over
    all queues (``end_round``).

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    now_ms = store.partitions.now_ms()
    changing = [
        queue
        for queue, layout in store.partitions.entries().items()
        if queue != DEFAULT and (layout.needs_check(now_ms) or not layout.is_propagated(now_ms))
    ]
    for queue in changing:
        await maintain_queue(store, queue)
    return len(changing) + await remove_unused_entries(store)


async def remove_unused_entries(store: Store) -> int:
    """Remove the entries of queues that do not exist; return how many were changed or removed.

    Any client with a queue name can add an entry, the table is bounded, and every process has it in
    memory. An entry is removed like any other change: the number becomes the default, then the
    partitions beyond it are closed, then, after the same time again, the entry is removed. So the
    job of a producer that was suspended since it read the old number is found.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    entries, now_ms = store.partitions.entries(), store.partitions.now_ms()
    crowded = len(entries) > partitions.MAX_ENTRIES * _CROWDED
    kept_ms = UNUSED_CROWDED_MS if crowded else UNUSED_MS
    old = [
        queue
        for queue, layout in entries.items()
        if queue != DEFAULT and now_ms - layout.changed_at_ms >= kept_ms
    ]
    if not old:
        return 0
    meta = store.keys.meta
    known: Any = await store.redis.call(meta.slot, "ZMSCORE", meta.queues, *old, idempotent=True)
    unused = [queue for queue, score in zip(old, known, strict=True) if score is None]
    for queue in unused:
        seen = entries[queue]
        await store.partitions.update(
            store, queue, partial(_next_removal_step, seen, store.partitions.default.count)
        )
    return len(unused)


def _next_removal_step(
    seen: PartitionLayout, parts: int, old: PartitionLayout, now_ms: int
) -> PartitionLayout:
    """Return the next step towards no entry, from the layout that was read."""
    if old != seen:
        return old
    if old.count != parts:
        return old.resized(parts, now_ms)
    return replace(old, occupied_count=old.open_count) if old.open_count == old.count else old


async def maintain_queue(store: Store, queue: str) -> None:
    """Make the mirrored fields of a queue agree; close empty partitions, open those with late jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await pauses.mirror_pause_flag(store, queue)
    await partition_quotas.update_quotas(store, queue)
    await depth_bounds.mirror_bound(store, queue)
    await exhaustion.mirror_on_exhaustion(store, queue)
    seen = store.partitions.layout(queue)
    if seen.occupied_count == seen.count:
        return
    shards = store.keys.partitions(queue, seen.occupied_count)
    live_count = 0

    async def check(number: int) -> None:
        nonlocal live_count
        if await _has_live_jobs(store, shards[number], queue):
            live_count = max(live_count, number + 1)

    await run_concurrently(range(seen.count, seen.occupied_count), check)
    has_entry = queue in store.partitions.entries()

    def closed(old: PartitionLayout, now_ms: int) -> PartitionLayout:
        # The check was made for the layout that was read, and is valid for no other.
        if old != seen:
            return old
        if not has_entry and live_count > old.count and old.can_shrink(now_ms):
            return old.as_own_entry(live_count, now_ms)
        return old.after_live_check(live_count, now_ms)

    await store.partitions.update(store, queue, closed, max_entries=NO_ENTRY_LIMIT)


async def begin_round(store: Store) -> None:
    """Note whether the default can shrink, before a round maintains each queue once.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    default = store.partitions.default
    store.partitions.draining = default if default.can_shrink(store.partitions.now_ms()) else None


async def end_round(store: Store) -> None:
    """Close old partitions of the default after a round has maintained each queue once.

    By then each queue with jobs in these partitions has an entry of its own.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    seen, store.partitions.draining = store.partitions.draining, None
    if seen is not None:
        await store.partitions.update(
            store,
            DEFAULT,
            lambda old, now_ms: old.after_live_check(0, now_ms) if old == seen else old,
        )


async def forget_queue(store: Store, queue: str) -> None:
    """Note that a queue was retired: its closed partitions hold nothing of it any more."""
    await store.partitions.update(
        store, queue, lambda old, _: replace(old, occupied_count=old.open_count)
    )


def _has_quotas(queue: str, count: int) -> ValidationFailed:
    return ValidationFailed(
        f"queue '{queue}' has rate limits, which are divided among its {count} partitions: "
        "delete the limits, change the number, and set them again",
        field="partitions",
    )


async def _has_limits(store: Store, queue: str) -> bool:
    return await partition_quotas.get_limits(store, queue) != RateLimits()


async def _has_live_jobs(store: Store, shard: Shard, queue: str) -> bool:
    return (await get_partition_stats(store, shard, queue)).has_live_jobs
