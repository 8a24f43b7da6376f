"""Promote: make scheduled and retryable jobs available when they are due.

A fetch also promotes the due jobs of its queues. This loop is needed for long polls, which wait
until a job becomes available, and for requests that show jobs or statistics.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.deadlines import promote
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step that promotes at most ``batch`` jobs of one shard."""

    async def promote_shard(shard: int) -> StepResult:
        return await promote(store, store.keys.shard(shard), batch)

    return promote_shard
