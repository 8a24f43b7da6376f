"""Promote: scheduled and retryable jobs become available at their due time.

Fetch promotes what is due in the queues it looks at; this loop is for everybody who only looks, and
for long polls, which are woken by a promotion.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.sweeps.deadlines import promote
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop: at most `batch` jobs of one shard."""

    async def promote_shard(shard: int) -> StepResult:
        return await promote(store, store.keys.shard(shard), batch)

    return promote_shard
