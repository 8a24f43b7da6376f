"""Promote: scheduled and retryable jobs become available when they are due.

Fetch promotes due jobs of its own queues. This loop is for readers that do not fetch, and for long
polls, which a promotion wakes.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.sweeps.deadlines import promote
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop, which promotes at most ``batch`` jobs of one shard."""

    async def promote_shard(shard: int) -> StepResult:
        return await promote(store, store.keys.shard(shard), batch)

    return promote_shard
