"""The fair share of a queue between tenants (spec: ojs-multi-tenancy 7.1 and 7.2).

An operator switches it on. It is a field of the queue's hash, in each partition, and each partition
has its own turns (``store/include/queues/tenant_turns.lua``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.mirrored_fields import MirroredText, reader_of
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store
    from ojs_cluster.store.ground.runtime import Arg

_MAX_IDLE_TURNS: Final = 500
"""Maximum number of turns that one script checks."""


async def _write(store: Store, shard: Shard, queue: str, value: str) -> None:
    keys = [shard.queue_counters(queue), shard.tenant_turns(queue)]
    effects = await store.run(shard, "fair_share_set", keys, [queue, value], idempotent=True)
    await deliver(store, shard, effects)


FAIR_SHARE: Final = MirroredText(reader_of("fair", re.compile(rb"1")), _write)


async def set_fair_share(store: Store, queue: str, *, on: bool) -> None:
    """Switch the fair share of a queue on or off, as ``MirroredText.set``."""
    await FAIR_SHARE.set(store, queue, "1" if on else "")


async def has_fair_share(store: Store, queue: str) -> bool:
    """Return whether an operator has switched on the fair share of a queue."""
    return bool(await FAIR_SHARE.get(store, queue))


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
