"""Partition quotas: the part of a queue's rate limits that each of its partitions may use.

Fetch counts starts in the script that pops jobs, in the shard of the jobs. So each partition has
limits of its own, its quota, and the quotas add up to the operator's limits. Partition 0 stores the
operator's limits as well.

A process that changes the limits writes the quotas of all partitions. It repeats this until a pass
finds all quotas right, and the limits and the layout unchanged. If the process dies first, the
janitor finishes.

When one of the limits is raised, no partition's part of it shrinks; when it is lowered, no part
grows. So the order of the writes does not matter. After a change of the number of partitions it
would matter: jobs that run in the old partitions would have to end before jobs may start in the new
ones. So the number of partitions of a queue with limits cannot change: when the default grows, such
a queue keeps its number (``PartitionTable.pin``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.engine import mirrored_fields
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

_ANY = b"*"
"""Value of ``expected`` for a write that replaces any limits (see ``limit_queue.lua``)."""


async def set_limits(
    store: Store, queue: str, limits: RateLimits, *, must_divide: bool = True
) -> None:
    """Set the limits of a whole queue, in all its partitions.

    Args:
        store: the store.
        queue: the queue's name.
        limits: the new limits; empty ones remove the limits.
        must_divide: whether to refuse limits that cannot be divided among the open partitions.
            Otherwise each of these may start one job, until there are fewer of them.

    Raises:
        ValidationFailed: a partition would have no quota, or the partitions are being changed.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.try_read(store)
    layout = store.partitions.layout(queue)
    if limits != RateLimits():
        if must_divide:
            check_divisible(queue, limits, layout)
        await store.partitions.pin(store, queue)
    packed = limits.packed().encode() if limits != RateLimits() else b""
    first = store.keys.shard_of_queue(queue)
    await _write_quota(store, first, queue, packed, 0, layout.open_count)
    with after_first_write():
        await update_quotas(store, queue)
        if packed:
            # A higher default may have been announced since, whose round has passed the queue.
            await store.partitions.pin(store, queue)
    if packed and store.partitions.layout(queue).count != layout.count:
        with after_first_write():
            await _write_quota(store, first, queue, b"", 0, layout.open_count, expected=packed)
            await update_quotas(store, queue)
        raise ValidationFailed(f"the partitions of queue '{queue}' have just been changed")


async def get_limits(store: Store, queue: str) -> RateLimits:
    """Return the limits of a whole queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return _unpack(await _read_queue_limits(store, store.keys.shard_of_queue(queue), queue))


async def update_quotas(store: Store, queue: str) -> None:
    """Make the quotas of all partitions agree with the queue's limits.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def correct(shards: Sequence[Shard], limits: bytes, layout: PartitionLayout) -> bool:
        outdated = await _outdated_partitions(store, shards, queue, limits, layout.open_count)

        async def write(number: int) -> None:
            expected = limits if number == 0 else _ANY
            await _write_quota(
                *(store, shards[number], queue, limits, number, layout.open_count),
                expected=expected,
            )

        await run_concurrently(outdated, write)
        return bool(outdated)

    await mirrored_fields.correct_until_stable(
        store, queue, lambda shard: _read_queue_limits(store, shard, queue), correct
    )


def check_divisible(queue: str, limits: RateLimits, layout: PartitionLayout) -> None:
    """Check that limits can be divided among the partitions of a queue.

    Raises:
        ValidationFailed: a partition would have no quota, or the partitions are being changed.
    """
    if layout.open_count > layout.count:
        raise ValidationFailed(
            f"queue '{queue}' still has jobs in {layout.open_count} partitions instead of "
            f"{layout.count}: set its limits when 'draining' is 0"
        )
    for name, limit in (
        # None and 0 need no division: a concurrency of 0 is a quota of 0 in each partition.
        ("concurrency", limits.concurrency or layout.count),
        ("rate", limits.rate.limit if limits.rate else layout.count),
        ("throttle", limits.throttle.limit if limits.throttle else layout.count),
    ):
        if limit < layout.count:
            raise ValidationFailed(
                f"{name} {limit} cannot be divided among the {layout.count} partitions of queue "
                f"'{queue}': each partition needs at least 1",
                field=name,
            )


def _unpack(packed: bytes) -> RateLimits:
    return unpack_limits(packed.decode(errors="replace")) if packed else RateLimits()


def _packed_quota(limits: bytes, number: int, count: int) -> bytes:
    return _unpack(limits).partition_quota(number, count).packed().encode() if limits else b""


async def _read_quota(store: Store, shard: Shard, queue: str) -> tuple[bytes, bytes | None]:
    """Return a partition's packed quota, and the packed limits of the whole queue.

    Only partition 0 of several partitions has the latter; elsewhere they are None.
    """
    reply: Any = await store.redis.call(
        shard.slot, "HMGET", shard.queue_counters(queue), "limits", "queue_limits", idempotent=True
    )
    quota, queue_limits = reply
    return quota or b"", queue_limits


async def _read_queue_limits(store: Store, first: Shard, queue: str) -> bytes:
    """Return the packed limits of a whole queue, read in partition 0; empty for none."""
    quota, queue_limits = await _read_quota(store, first, queue)
    return quota if queue_limits is None else queue_limits


async def _outdated_partitions(
    store: Store, shards: Sequence[Shard], queue: str, limits: bytes, count: int
) -> list[int]:
    """Return the numbers of the partitions whose quota does not follow from the limits.

    Args:
        store: the store.
        shards: the shards of the partitions.
        queue: the queue's name.
        limits: the packed limits of the whole queue, empty for none.
        count: the number of partitions that have a quota.
    """
    outdated: list[int] = []

    async def check(number: int) -> None:
        queue_limits = (limits or None) if number == 0 and count > 1 else None
        wanted = (_packed_quota(limits, number, count), queue_limits)
        if await _read_quota(store, shards[number], queue) != wanted:
            outdated.append(number)

    await run_concurrently(range(len(shards)), check)
    return outdated


async def _write_quota(
    store: Store,
    shard: Shard,
    queue: str,
    limits: bytes,
    number: int,
    count: int,
    *,
    expected: bytes = _ANY,
) -> None:
    """Set a partition's quota.

    Args:
        store: the store.
        shard: the partition's shard.
        queue: the queue's name.
        limits: the packed limits of the whole queue, empty for none.
        number: the partition's number.
        count: the number of partitions that have a quota.
        expected: packed limits of the whole queue. If the partition has others, nothing changes.
    """
    queue_limits = limits if number == 0 and count > 1 else b""
    effects = await store.run(
        shard,
        "limit_queue",
        [shard.queue_counters(queue)],
        [queue, _packed_quota(limits, number, count), queue_limits, expected],
        idempotent=True,
    )
    await deliver(store, shard, effects)
