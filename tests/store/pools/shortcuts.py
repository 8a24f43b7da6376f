"""Short ways to make a pool, and one life of a pool."""

from __future__ import annotations

from ojs_cluster.core.pools.pool import Pool, new_pool
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.pools.pool_fetch import fetch_for_pool
from ojs_cluster.store.ground.process_state import pools
from tests.store.shortcuts import put


def allow(_old: Pool | None) -> None:
    """Refuse no change."""


async def make_pool(
    store: Store, strategy: str = "round-robin", name: str = "p", **weights: int
) -> Pool:
    """Create or replace a pool of the queues that have ``weights``."""
    pool, _ = await pools.set_pool(store, new_pool(name, strategy, [*weights], weights), allow)
    await store.pools.read(store)
    return pool


async def one_life_of_a_pool(store: Store) -> None:
    """Run every script of pools at least once."""
    await make_pool(store, "weighted", pooled=3, other=1)
    await put(store, "pooled")
    state = await store.pools.get(store, "p")
    assert len(await fetch_for_pool(state, store, state.pool.queues, 2, "w1", None)) == 1
    await store.pools.flush(store)
    await make_pool(store, "strict", pooled=1)
    await pools.delete_pool(store, "p", allow)
