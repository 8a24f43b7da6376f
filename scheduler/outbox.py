"""Carries out effects that their own process did not live to carry out."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.outbox import drain
from ojs_cluster.store.tick import Tick
from scheduler.pacing import Step


def step(store: Store, limit: int) -> Step:
    """Make the step that drains one shard's outbox, up to ``limit`` entries at a time."""

    async def drain_shard(index: int) -> Tick:
        return await drain(store, store.keys.shard(index), limit)

    return drain_shard
