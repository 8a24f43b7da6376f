"""Rate limits: grant tokens that become free as time passes, and revoke tokens that were not used.

One step does both. The two sorted sets that it reads are nearly always empty, so it is cheap.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.rate_limits.rate_limits import sweep_rate_limits
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step that sweeps the rate limits of one shard.

    Args:
        store: an open store.
        batch: maximum number of queues, and of jobs, that one step visits.
    """

    async def sweep_shard(shard: int) -> StepResult:
        return await sweep_rate_limits(store, store.keys.shard(shard), batch)

    return sweep_shard
