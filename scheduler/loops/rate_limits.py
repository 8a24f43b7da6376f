"""Rate limits: what time does to them.

Room that time alone makes is given to those who wait for it, and tokens that nobody has fetched a
job with go back. One step for all of it, since each looks at a set that is nearly always empty.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.limits.rate_limits import sweep_rate_limits
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop: at most `batch` queues and jobs of one shard."""

    async def look_at_shard(shard: int) -> StepResult:
        return await sweep_rate_limits(store, store.keys.shard(shard), batch)

    return look_at_shard
