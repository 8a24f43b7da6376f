"""Reap: end what time alone ends. Lost leases, execution timeouts, expired jobs."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.sweeps.deadlines import reap
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop, which handles ``batch`` deadlines of each kind in one shard."""

    async def reap_shard(shard: int) -> StepResult:
        return await reap(store, store.keys.shard(shard), batch)

    return reap_shard
