"""Rate limits: grant tokens that time alone makes free, and take back tokens that were not used.

One step does both, because each reads a set that is nearly always empty.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.limits.rate_limits import sweep_rate_limits
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop, for at most ``batch`` queues and jobs of one shard."""

    async def sweep_shard(shard: int) -> StepResult:
        return await sweep_rate_limits(store, store.keys.shard(shard), batch)

    return sweep_shard
