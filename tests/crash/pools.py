"""Changes of worker pools and of defaults of queues, which are whole or not made."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.pools.pool import new_pool
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state import pools
from ojs_cluster.store.ground.process_state import queue_defaults as records
from ojs_cluster.store.ground.process_state.pool_table import read_counts
from tests.crash.harness import World
from tests.store.pools.shortcuts import allow, make_pool

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class PoolChange:
    """A pool is created, changed or deleted."""

    how: Literal["new", "changed", "deleted"]
    least = 2

    async def prepare(self, world: World) -> str:
        name = f"p{next(_serial)}"
        if self.how != "new":
            await make_pool(world.store, "strict", name, a=1)
            state = await world.store.pools.get(world.store, name)
            state.count("a")
            await world.store.pools.flush(world.store)
        return name

    async def act(self, store: Store, scene: str) -> None:
        if self.how == "deleted":
            await pools.delete_pool(store, scene, allow)
        else:
            await pools.set_pool(store, new_pool(scene, "weighted", ["a", "b"], {}), allow)

    async def happened(self, world: World, scene: str) -> bool:
        """The counts always belong to the configuration that is stored."""
        pool = (await pools.read_all(world.store)).records.get(scene)
        counts = (await read_counts(world.store, [scene]))[scene]
        meta = world.store.keys.meta
        counted = await world.store.redis.call(
            meta.slot, "HGET", meta.pool_counts(scene), "@", idempotent=True
        )
        if pool is None:
            assert (counted, counts) == (None, {})
            return self.how == "deleted"
        assert counted == str(pool.updated_ms).encode()
        assert counts.get("a", 0) == (pool.strategy == "strict")
        return self.how != "deleted" and pool.strategy == "weighted"

    async def finish(self, world: World, scene: str) -> None:
        with suppress(NotFound):
            await pools.delete_pool(world.store, scene, allow)


class DefaultsChange:
    """One of two defaults of a queue is changed."""

    least = 2

    async def prepare(self, world: World) -> str:
        queue = f"d{next(_serial)}"
        await records.change_defaults(world.store, queue, {"visibility_timeout": 5})
        return queue

    async def act(self, store: Store, scene: str) -> None:
        await records.change_defaults(store, scene, {"default_timeout": 7})

    async def happened(self, world: World, scene: str) -> bool:
        await world.store.queue_defaults.read(world.store)
        assert scene in world.store.queue_defaults.by_queue
        found = await records.get_defaults(world.store, scene)
        assert (found.visibility_timeout, found.default_timeout) in ((5, None), (5, 7))
        return found.default_timeout == 7

    async def finish(self, world: World, scene: str) -> None:
        record = await records.read_record(world.store, scene)
        assert await records.remove_record(world.store, scene, record)
