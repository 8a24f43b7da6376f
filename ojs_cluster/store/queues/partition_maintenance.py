"""Change the number of partitions of a queue, and finish such changes later (the janitor).

In a round, the janitor maintains each registered queue once (``store/sweeps/retention.py``).
"""

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
from ojs_cluster.store.tenants import fair_share

UNUSED_MS: Final = 86_400_000
"""Time in milliseconds for which the partition table keeps the entry of an unregistered queue."""
UNUSED_CROWDED_MS: Final = 3_600_000
"""As ``UNUSED_MS``, while the table is crowded."""
_CROWDED: Final = 0.9
"""The table is crowded above this fraction of ``MAX_ENTRIES``."""


async def set_partitions(store: Store, queue: str, count: int) -> PartitionLayout:
    """Give a queue another number of partitions. The queue need not exist.

    The change takes effect in stages (see ``core/partitions.py``). Repeating it changes nothing.

    Args:
        store: the store.
        queue: the queue's name.
        count: the new number of partitions.

    Raises:
        InvalidRequest: ``count`` is out of range, or the partition table is full.
        ValidationFailed: the queue has rate limits, which are divided among its partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    check_count(store, count)
    old_count = (await get_partitions(store, queue)).count
    if count != old_count and await _has_limits(store, queue):
        raise _has_limits_error(queue, old_count)

    def resized(old: PartitionLayout, now_ms: int) -> PartitionLayout:
        nonlocal old_count
        old_count = old.count
        return old.resized(count, now_ms)

    layout = await store.partitions.update(store, queue, resized)
    # Another request may have set limits since the check above.
    if count != old_count and await _has_limits(store, queue):
        await store.partitions.update(
            store, queue, lambda old, now_ms: old.resized(old_count, now_ms)
        )
        await partition_quotas.update_quotas(store, queue)
        raise _has_limits_error(queue, old_count)
    await pauses.mirror_flags(store, queue)
    await depth_bounds.mirror_bound(store, queue)
    await exhaustion.mirror_on_exhaustion(store, queue)
    await fair_share.mirror_fair_share(store, queue)
    return layout


def check_count(store: Store, count: int) -> None:
    """Check that a queue can have ``count`` partitions.

    Raises:
        InvalidRequest: ``count`` is out of range.
    """
    max_count = store.keys.max_partitions
    if not 1 <= count <= max_count:
        raise InvalidRequest(
            f"partitions must be from 1 to {max_count}, not {count}", field="partitions"
        )


async def get_partitions(store: Store, queue: str) -> PartitionLayout:
    """Read the partition table now, and return a queue's layout.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    return store.partitions.layout(queue)


async def advance_changes(store: Store) -> int:
    """Do the next step of each change of a number of partitions.

    New partitions get the mirrored fields. Old partitions are closed when they are empty. A closed
    partition that got a late job is opened again. Two leaders may do this at the same time: a write
    is refused if another process has changed the entry since it was read. ``end_round`` closes the
    old partitions of queues without an entry of their own.

    Returns:
        The number of changes that are not complete yet.

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

    A request can add an entry for any queue name. But the table has a maximum size, because every
    process has all of it in memory.

    An entry is removed in steps. First its number of partitions becomes the default number. Then
    the partitions above that number are closed. After another ``UNUSED_MS``, less while the table
    is crowded, the entry is removed. A producer with an old copy of the table may put a job into a
    partition that is being closed, and workers still find that job.

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
        checked = entries[queue]
        await store.partitions.update(
            store, queue, partial(_next_removal_step, checked, store.partitions.default.count)
        )
    return len(unused)


def _next_removal_step(
    checked: PartitionLayout, default_count: int, current: PartitionLayout, now_ms: int
) -> PartitionLayout:
    """Return the layout after the next step of an entry's removal.

    Args:
        checked: the layout of the queue when it was found to be unused.
        default_count: the number of partitions of queues without an entry.
        current: the layout now. If it is not ``checked``, it is returned unchanged.
        now_ms: the time in Unix milliseconds.
    """
    if current != checked:
        return current
    if current.count != default_count:
        return current.resized(default_count, now_ms)
    if current.open_count == current.count:
        return replace(current, occupied_count=current.open_count)
    return current


async def maintain_queue(store: Store, queue: str) -> None:
    """Correct the mirrored fields of a queue, and open or close its old partitions.

    An empty partition is closed. A closed partition is opened again if a late job is in it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await pauses.mirror_flags(store, queue)
    await partition_quotas.update_quotas(store, queue)
    await depth_bounds.mirror_bound(store, queue)
    await exhaustion.mirror_on_exhaustion(store, queue)
    await fair_share.mirror_fair_share(store, queue)
    checked = store.partitions.layout(queue)
    if checked.occupied_count == checked.count:
        return
    shards = store.keys.partitions(queue, checked.occupied_count)
    live_count = 0  # 1 + the number of the last old partition with a live job

    async def check(number: int) -> None:
        nonlocal live_count
        if await _has_live_jobs(store, shards[number], queue):
            live_count = max(live_count, number + 1)

    await run_concurrently(range(checked.count, checked.occupied_count), check)
    has_entry = queue in store.partitions.entries()

    def closed(current: PartitionLayout, now_ms: int) -> PartitionLayout:
        # Another layout may have partitions that were not checked.
        if current != checked:
            return current
        if not has_entry and live_count > current.count and current.can_close_partitions(now_ms):
            return current.separated_from_default(live_count, now_ms)
        return current.after_live_check(live_count, now_ms)

    await store.partitions.update(store, queue, closed, max_entries=NO_ENTRY_LIMIT)


async def begin_round(store: Store) -> None:
    """Record before a round whether old partitions of the default may close.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    default = store.partitions.default
    store.partitions.draining = (
        default if default.can_close_partitions(store.partitions.now_ms()) else None
    )


async def end_round(store: Store) -> None:
    """Close the old partitions of the default layout, after a round has maintained each queue once.

    The round has given an entry of its own to each queue with jobs in these partitions.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    checked, store.partitions.draining = store.partitions.draining, None
    if checked is not None:
        await store.partitions.update(
            store,
            DEFAULT,
            lambda old, now_ms: old.after_live_check(0, now_ms) if old == checked else old,
        )


async def forget_closed_partitions(store: Store, queue: str) -> None:
    """Record that the closed partitions of a retired queue hold nothing of the queue any more."""
    await store.partitions.update(
        store, queue, lambda old, _: replace(old, occupied_count=old.open_count)
    )


def _has_limits_error(queue: str, count: int) -> ValidationFailed:
    return ValidationFailed(
        f"queue '{queue}' has rate limits, which are divided among its {count} partitions: "
        "delete the limits, change the number, and set them again",
        field="partitions",
    )


async def _has_limits(store: Store, queue: str) -> bool:
    return await partition_quotas.get_limits(store, queue) != RateLimits()


async def _has_live_jobs(store: Store, shard: Shard, queue: str) -> bool:
    return (await get_partition_stats(store, shard, queue)).has_live_jobs
