"""Rate limits of queues (spec: ojs-rate-limiting 7.2).

They are fields of the queue's hash, read and counted inside the pop (``lua/include/gate.lua``): no
fetch sees a limit that another has used up meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.rate_limit import Limits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.tick import Tick


@dataclass(frozen=True, slots=True)
class Usage:
    """Limits and how far they are used at one moment. Times in ms.

    Parameters
    ----------
    active: jobs that the concurrency counts.
    started: starts in the window that ends now.
    resets_ms: when the oldest of them leaves the window.
    next_ms: when a throttle lets the next start.
    """

    limits: Limits
    active: int
    started: int = 0
    resets_ms: int | None = None
    next_ms: int | None = None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """A queue's limits: the operator's, and what its jobs declared last."""

    usage: Usage
    max_per_second: int | None


def usage(fields: dict[bytes, bytes], limits: Limits, active: int, now: int) -> Usage:
    """What ``lua/include/meter.lua`` counted, from the fields it keeps."""
    started, resets = 0, None
    if limits.rate is not None:
        for entry in fields.get(b"starts", b"").split():
            at, _, n = entry.partition(b":")
            if int(at) + limits.rate.period_ms > now:
                started += int(n)
                resets = resets or int(at) + limits.rate.period_ms
    next_ms = int(float(fields.get(b"next", 0))) if limits.throttle is not None else None
    return Usage(limits, active, started, resets, next_ms)


async def set_queue(store: Store, queue: str, limits: Limits) -> None:
    """Set a queue's limits; empty ones take them back. Fetches obey from then on.

    Raises
    ------
    TooManyQueues: an unknown queue would be one too many.
    BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    shard = store.keys.shard_of_queue(queue)
    packed = limits.packed() if limits != Limits() else ""
    first = await store.run(
        shard, "limit_queue", [shard.queue(queue)], [queue, packed], idempotent=True
    )
    if first:
        await store.queues.created(store, [queue.encode()])


async def of_queue(store: Store, queue: str) -> QueueLimits:
    """A queue's limits; a queue that nobody used has none.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    now, flat = await store.run(shard, "look", [shard.queue(queue)], idempotent=True)
    items = iter(flat)
    fields: dict[bytes, bytes] = dict(zip(items, items, strict=True))
    packed, most = fields.get(b"limits"), fields.get(b"mps")
    limits = unpack_limits(packed.decode()) if packed else Limits()
    active = int(fields.get(b"active", 0))
    return QueueLimits(usage(fields, limits, active, now), int(most) if most else None)


async def open_due(store: Store, shard: Shard, limit: int) -> Tick:
    """Wake those who wait for queues whose limits have room again.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    reply: Any = await store.run(shard, "limits_due", [shard.opening], [limit], idempotent=True)
    done, now, following = reply
    return Tick(done, None if following < 0 else following, now, done >= limit)
