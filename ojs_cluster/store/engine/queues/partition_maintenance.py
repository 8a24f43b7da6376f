"""Change the number of partitions of a queue, and finish such changes later (the janitor).

In a round, the janitor maintains each registered queue once (``features/retention``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.engine.queues.copied_settings import copy_settings
from ojs_cluster.store.engine.queues.queues import get_partition_stats
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state import partitions
from ojs_cluster.store.ground.process_state.partitions import (
    DEFAULT,
    NO_ENTRY_LIMIT,
    DrainingDefault,
    PartitionTable,
)

STEP_ENTRIES: Final = 200
"""Number of entries of the partition table that one step of the janitor checks."""
UNUSED_MS: Final = 86_400_000
"""Time in milliseconds for which the partition table keeps the entry of an unregistered queue."""
UNUSED_CROWDED_MS: Final = 3_600_000
"""As ``UNUSED_MS``, while the table is crowded."""
_CROWDED: Final = 0.9
"""The table is crowded above this fraction of ``MAX_ENTRIES``."""


async def check_change(store: Store, queue: str, count: int) -> PartitionLayout:
    """Check that an operator can give a queue another number of partitions.

    Args:
        store: the store.
        queue: the queue's name.
        count: the new number of partitions.

    Returns:
        The layout that the queue would have.

    Raises:
        InvalidRequest: ``count`` is out of range, or the partition table is full.
        ValidationFailed: the queue has rate limits, which are divided among its partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    _check_count(store, count)
    layout = await get_partitions(store, queue)
    if count != layout.count:
        store.partitions.check_free_entry(queue)
        if await _has_limits(store, queue):
            raise _has_limits_error(queue, layout.count)
    return layout.resized(count, store.partitions.now_ms())


async def set_partitions(
    store: Store, queue: str, count: int, *, max_entries: int | None = None
) -> PartitionLayout:
    """Give a queue another number of partitions. The queue need not exist.

    The change takes effect in stages (see ``core/partitions.py``). Repeating it changes nothing.

    Args:
        store: the store.
        queue: the queue's name.
        count: the new number of partitions.
        max_entries: maximum number of queues with an entry; None for that of operators.

    Raises:
        InvalidRequest: ``count`` is out of range, or the partition table is full.
        ValidationFailed: the queue has rate limits, which are divided among its partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    _check_count(store, count)
    old = await get_partitions(store, queue)
    old_count = old.count
    if count != old_count and await _has_limits(store, queue):
        raise _has_limits_error(queue, old_count)
    if count > old.occupied_count:
        await store.partitions.update(
            *(store, queue, lambda old, now_ms: old.reserved(count, now_ms)),
            max_entries=max_entries,
        )
    if count > old.open_count:
        with after_first_write():
            await copy_settings(store, queue)

    def resized(old: PartitionLayout, now_ms: int) -> PartitionLayout:
        nonlocal old_count
        old_count = old.count
        return old.resized(count, now_ms)

    layout = await store.partitions.update(store, queue, resized, max_entries=max_entries)
    # Another request may have set limits since the check above.
    if count != old_count and await _has_limits(store, queue):
        await store.partitions.update(
            store, queue, lambda old, now_ms: old.resized(old_count, now_ms)
        )
        await partition_quotas.update_quotas(store, queue)
        raise _has_limits_error(queue, old_count)
    return layout


async def get_partitions(store: Store, queue: str) -> PartitionLayout:
    """Read the partition table now, and return a queue's layout.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    return store.partitions.layout(queue)


async def advance_changes(store: Store) -> int:
    """Do the next step of changes of numbers of partitions, for the next ``STEP_ENTRIES`` entries.

    Copies of settings are corrected. Old partitions are closed when they are empty. A closed
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
    entries = store.partitions.next_entries(STEP_ENTRIES)
    changing = [
        queue
        for queue, layout in entries.items()
        if layout.needs_check(now_ms) or not layout.is_propagated(now_ms)
    ]
    for queue in changing:
        await maintain_queue(store, queue)
    return len(changing) + await remove_unused_entries(store, entries)


async def remove_unused_entries(store: Store, entries: Mapping[str, PartitionLayout]) -> int:
    """Remove entries of queues that do not exist; return how many were changed or removed.

    A request can add an entry for any queue name. But the table has a maximum size, because every
    process has all of it in memory.

    An entry is removed in steps. First its number of partitions becomes the default number. Then
    the partitions above that number are closed. After another ``UNUSED_MS``, less while the table
    is crowded, the entry is removed. A producer with an old copy of the table may put a job into a
    partition that is being closed, and workers still find that job.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now_ms = store.partitions.now_ms()
    crowded = store.partitions.entry_count > partitions.MAX_ENTRIES * _CROWDED
    kept_ms = UNUSED_CROWDED_MS if crowded else UNUSED_MS
    old = [queue for queue, layout in entries.items() if now_ms - layout.changed_at_ms >= kept_ms]
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
    await copy_settings(store, queue)
    if store.partitions.layout(queue).is_pinned:
        await _unpin(store, queue)
    checked, now_ms = store.partitions.layout(queue), store.partitions.now_ms()
    if checked.settled(now_ms).is_replaced_by(store.partitions.default):
        await store.partitions.update(store, queue, PartitionLayout.settled)
    if checked.occupied_count == checked.count:
        return
    shards = store.keys.partitions(queue, checked.occupied_count)
    live_count = 0  # 1 + the number of the last old partition with a live job

    async def check(number: int) -> None:
        nonlocal live_count
        if await _has_live_jobs(store, shards[number], queue):
            live_count = max(live_count, number + 1)

    await run_concurrently(range(checked.count, checked.occupied_count), check)
    if not store.partitions.has_entry(queue) and live_count <= checked.open_count:
        if live_count > checked.count:
            _note_open_default(store.partitions, queue, live_count)
        return
    await store.partitions.update(
        store,
        queue,
        # Another layout may have partitions that were not checked.
        lambda current, now_ms: (
            current.after_live_check(live_count, now_ms) if current == checked else current
        ),
        max_entries=NO_ENTRY_LIMIT,
    )


def _note_open_default(table: PartitionTable, queue: str, live_count: int) -> None:
    """Note that a queue without an entry has jobs in old partitions of the default."""
    if table.draining is None:
        return
    table.draining.live_counts[queue] = live_count
    if len(table.draining.live_counts) > partitions.MAX_SEPARATED:
        table.draining = None  # the default stays open, so no queue needs an entry


async def _unpin(store: Store, queue: str) -> None:
    """Give a queue the default number of partitions, if it has no limits any more.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    default = store.partitions.default
    if default.is_announced or await _has_limits(store, queue):
        return
    with suppress(ValidationFailed):  # limits have been set meanwhile
        await set_partitions(store, queue, default.count, max_entries=NO_ENTRY_LIMIT)


async def begin_round(store: Store) -> None:
    """Record before a round whether old partitions of the default may close.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.read(store)
    default = store.partitions.default
    may_close = default.can_close_partitions(store.partitions.now_ms())
    store.partitions.draining = DrainingDefault(default) if may_close else None


async def end_round(store: Store) -> None:
    """Close the old partitions of the default layout, after a round has maintained each queue once.

    Queues with jobs in these partitions get an entry of their own first. If there are too many of
    them, the round has ended with ``draining`` None, and the partitions stay open.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    draining, store.partitions.draining = store.partitions.draining, None
    if draining is None:
        return
    for queue, live_count in draining.live_counts.items():
        await store.partitions.update(
            store,
            queue,
            partial(_separated, store.partitions, queue, live_count),
            max_entries=NO_ENTRY_LIMIT,
        )
    await store.partitions.update(
        store,
        DEFAULT,
        lambda old, now_ms: old.after_live_check(0, now_ms) if old == draining.layout else old,
    )


def _separated(
    table: PartitionTable, queue: str, live_count: int, current: PartitionLayout, now_ms: int
) -> PartitionLayout:
    if table.has_entry(queue):
        return current
    return current.separated_from_default(live_count, now_ms)


async def forget_closed_partitions(store: Store, queue: str) -> None:
    """Record that the closed partitions of a retired queue hold nothing of the queue any more."""
    await store.partitions.update(
        store, queue, lambda old, _: replace(old, occupied_count=old.open_count)
    )


def _check_count(store: Store, count: int) -> None:
    """Check that a queue can have ``count`` partitions.

    Raises:
        InvalidRequest: ``count`` is out of range.
    """
    max_count = store.keys.max_partitions
    if not 1 <= count <= max_count:
        raise InvalidRequest(
            f"partitions must be from 1 to {max_count}, not {count}", field="partitions"
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
