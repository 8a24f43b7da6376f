"""Drain outbox entries left behind by crashed processes."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import OnBlocked, drain, drain_blocked
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Step


def step(store: Store, limit: int, on_blocked: OnBlocked) -> Step:
    """Return the step that drains one shard's outbox.

    Args:
        store: an open store.
        limit: maximum number of entries of one step.
        on_blocked: called when entries must wait for an unreachable shard.
    """

    async def drain_shard(index: int) -> SweepResult:
        return await drain(store, store.keys.shard(index), limit, on_blocked)

    return drain_shard


def blocked_step(store: Store, limit: int) -> Step:
    """Return the step that tries to deliver the entries of one shard to unreachable shards.

    The step has its own loop, because it waits for shards that may not answer.

    Args:
        store: an open store.
        limit: maximum number of entries that one step delivers to each unreachable shard.
    """

    async def drain_blocked_shard(index: int) -> SweepResult:
        return await drain_blocked(store, store.keys.shard(index), limit)

    return drain_blocked_shard
