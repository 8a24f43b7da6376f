"""The process that restores what a lost master had."""

from __future__ import annotations

import itertools

from ojs_cluster.keys import KEYS_OF_QUEUES
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.losses import forget_losses, read_losses
from tests.crash.harness import World
from tests.store.shortcuts import put, restore

_serial = itertools.count(1)


class LostData:
    """The meta tag has lost its data: this is recorded, and the list of queues is rebuilt."""

    least = 4

    async def prepare(self, world: World) -> str:
        store, queue = world.store, f"lost{next(_serial)}"
        for key in list(world.db.scan_iter(match=KEYS_OF_QUEUES)):  # fewer steps
            world.db.delete(key)
        await put(store, queue)
        for _ in range(2):
            await restore(store)
        world.db.delete(store.keys.meta.schema)
        world.db.delete(store.keys.meta.queues)
        return queue

    async def act(self, store: Store, scene: str) -> None:
        await restore(store)

    async def happened(self, world: World, scene: str) -> bool:
        """The next look continues until all is restored."""
        store = world.store
        await restore(store)
        assert world.db.zscore(store.keys.meta.queues, scene) is not None
        assert world.db.hget(store.keys.meta.schema, "stamp") == b"2"
        [loss] = await read_losses(store)
        assert (loss.shards, loss.of_meta) == (0, True)
        return True

    async def finish(self, world: World, scene: str) -> None:
        address = world.store.redis.topology.owner(world.store.keys.meta.slot)
        assert await forget_losses(world.store, str(address))
