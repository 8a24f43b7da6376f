"""Rate limits: room that time alone makes is told to those who wait for it."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.rate_limits import open_due
from scheduler.pacing import Step, Tick


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop: at most `batch` queues of one shard."""

    async def open_shard(shard: int) -> Tick:
        return await open_due(store, store.keys.shard(shard), batch)

    return open_shard
