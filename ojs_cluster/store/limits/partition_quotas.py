"""The shares that the partitions of a queue have in its limits.

Fetch counts in its pop, in the shard it takes jobs from, so each partition has limits of its own,
which add up to the operator's. Partition 0 keeps these too, and they say what is wanted. Whoever
changes them makes the shares of the others follow, and is done only when it has seen that all agree
with limits and partitions that did not change meanwhile. For who dies before that the janitor does
it. With the same partitions no share grows while another shrinks: limits that are raised raise
each share or leave it, so the order in which they are written does not matter. That is why a queue
with limits is not given another number of partitions: jobs that run in the old ones would have to
be waited for before others may start in the new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.partitions import Layout
from ojs_cluster.core.rate_limit import Limits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.partial_failures import begun

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def put(store: Store, queue: str, limits: Limits) -> None:
    """Set the limits of a whole queue, in all partitions; empty ones take them back.

    Raises:
        ValidationFailed: a partition would have no share, or the partitions are being changed.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.latest(store)
    layout = store.partitions.layout(queue)
    if limits != Limits():
        _check(queue, limits, layout)
    packed = limits.packed().encode() if limits != Limits() else b""
    first = store.keys.shard_of_queue(queue)
    await _write(store, first, queue, packed, 0, layout.open)
    with begun():
        await mirror(store, queue)
    if packed and store.partitions.layout(queue).parts != layout.parts:
        with begun():
            await _write(store, first, queue, b"", 0, layout.open, seen=packed)
            await mirror(store, queue)
        raise ValidationFailed(f"the partitions of queue '{queue}' have just been changed")


async def of_queue(store: Store, queue: str) -> Limits:
    """The limits of a whole queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    share, whole = await _read(store, store.keys.shard_of_queue(queue), queue)
    return _unpacked(share if whole is None else whole) if share else Limits()


async def mirror(store: Store, queue: str) -> None:
    """Make the shares of all partitions agree with the queue's limits.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    before = None
    while True:
        await store.partitions.latest(store)
        layout = store.partitions.layout(queue)
        if layout.held == 1:
            return
        shards = store.keys.partitions(queue, layout.held)
        share, whole = await _read(store, shards[0], queue)
        wanted = share if whole is None else whole
        wrong = await _wrong(store, shards, queue, wanted, layout.open)
        # Twice the same, and nothing to correct the second time.
        if not wrong and (wanted, layout) == before:
            return
        before = (wanted, layout)

        async def correct(number: int) -> None:
            at = (shards[number], queue, wanted, number, layout.open)  # noqa: B023 - awaited here
            await _write(store, *at, seen=wanted if number == 0 else b"*")  # noqa: B023 - as above

        await over_shards(wrong, correct)


def _check(queue: str, limits: Limits, layout: Layout) -> None:
    if layout.open > layout.parts:
        raise ValidationFailed(
            f"queue '{queue}' still has jobs in {layout.open} partitions instead of "
            f"{layout.parts}: set its limits when 'draining' is 0"
        )
    for name, limit in (
        ("concurrency", limits.concurrency or layout.parts),  # 0 is 0 in each
        ("rate", limits.rate.limit if limits.rate else layout.parts),
        ("throttle", limits.throttle.limit if limits.throttle else layout.parts),
    ):
        if limit < layout.parts:
            raise ValidationFailed(
                f"{name} {limit} cannot be shared by the {layout.parts} partitions of queue "
                f"'{queue}': each needs 1 at least",
                field=name,
            )


def _unpacked(packed: bytes) -> Limits:
    return unpack_limits(packed.decode(errors="replace"))


def _share(packed: bytes, number: int, count: int) -> bytes:
    return _unpacked(packed).share(number, count).packed().encode() if packed else b""


async def _read(store: Store, shard: Shard, queue: str) -> tuple[bytes, bytes | None]:
    """A partition's share, empty for none, and the limits of the whole queue if it keeps them."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.queue_counters(queue), "limits", "whole", idempotent=True
    )
    share, whole = found
    return share or b"", whole


async def _wrong(
    store: Store, shards: list[Shard], queue: str, wanted: bytes, count: int
) -> list[int]:
    """Partitions whose share is not as it should be."""
    wrong: list[int] = []

    async def look(number: int) -> None:
        whole = (wanted or None) if number == 0 and count > 1 else None
        if await _read(store, shards[number], queue) != (_share(wanted, number, count), whole):
            wrong.append(number)

    await over_shards(range(len(shards)), look)
    return wrong


async def _write(
    store: Store,
    shard: Shard,
    queue: str,
    whole: bytes,
    number: int,
    count: int,
    *,
    seen: bytes = b"*",
) -> None:
    """Set a partition's share; ``seen`` as in ``limit_queue.lua``."""
    kept = whole if number == 0 and count > 1 else b""
    owed = await store.run(
        shard,
        "limit_queue",
        [shard.queue_counters(queue)],
        [queue, _share(whole, number, count), kept, seen],
        idempotent=True,
    )
    await deliver(store, shard, owed)
