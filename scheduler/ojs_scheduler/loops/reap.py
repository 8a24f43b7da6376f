"""Reap: handle expired leases, execution timeouts and expired jobs."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.deadlines import reap
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step that reaps one shard.

    Args:
        store: an open store.
        batch: maximum number of deadlines of each kind that one step handles.
    """

    async def reap_shard(shard: int) -> StepResult:
        return await reap(store, store.keys.shard(shard), batch)

    return reap_shard
