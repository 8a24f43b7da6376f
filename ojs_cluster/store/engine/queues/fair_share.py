"""The fair share of a queue between tenants (spec: ojs-multi-tenancy 7.1 and 7.2).

An operator switches it on. It is a field of the queue's hash, in each partition, and each partition
has its own turns (``store/include/queues/tenant_turns.lua``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine import mirrored_fields
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store
    from ojs_cluster.store.ground.runtime import Arg

_FIELD: Final = "fair"
_ON: Final = re.compile(rb"1")
_MAX_IDLE_TURNS: Final = 500
"""Maximum number of turns that one script checks."""


async def set_fair_share(store: Store, queue: str, *, on: bool) -> None:
    """Switch the fair share of a queue on or off, in all its partitions. The queue need not exist.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    await store.partitions.try_read(store)
    await _write(store, store.keys.shard_of_queue(queue), queue, "1" if on else "")
    with after_first_write():
        await mirror_fair_share(store, queue)


async def has_fair_share(store: Store, queue: str) -> bool:
    """Return whether an operator has switched on the fair share of a queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return bool(await _read(store, store.keys.shard_of_queue(queue), queue))


async def mirror_fair_share(store: Store, queue: str) -> None:
    """Make the fair share of all partitions agree with partition 0.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await mirrored_fields.mirror_text(
        store,
        queue,
        lambda shard: _read(store, shard, queue),
        lambda shard, value: _write(store, shard, queue, value),
    )


async def remove_idle_turns(store: Store, queue: str, shards: Sequence[Shard]) -> None:
    """Remove the turns of tenants without jobs, as fetches do, in a queue without fetches.

    A turn stays while a tenant with jobs has a lower one, because the tenant has had more than its
    share. Only fetches make such turns.

    Args:
        store: the store.
        queue: the queue's name.
        shards: the shards of its partitions.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def remove(shard: Shard) -> None:
        keys = [shard.tenant_turns(queue)]
        args: list[Arg] = [queue, _MAX_IDLE_TURNS]
        removed = _MAX_IDLE_TURNS
        while removed == _MAX_IDLE_TURNS:
            removed = await store.run(shard, "remove_idle_turns", keys, args, idempotent=True)

    await run_concurrently(shards, remove)


async def _read(store: Store, shard: Shard, queue: str) -> str | None:
    return await mirrored_fields.read_text(store, shard, queue, _FIELD, _ON)


async def _write(store: Store, shard: Shard, queue: str, value: str) -> None:
    keys = [shard.queue_counters(queue), shard.tenant_turns(queue)]
    effects = await store.run(shard, "fair_share_set", keys, [queue, value], idempotent=True)
    await deliver(store, shard, effects)
