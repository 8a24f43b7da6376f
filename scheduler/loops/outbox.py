"""Carries out effects that their own process did not live to carry out."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.outbox.outbox import OnBlocked, drain, drain_blocked
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from scheduler.pacing import Step


def step(store: Store, limit: int, on_blocked: OnBlocked) -> Step:
    """Make the step that drains one shard's outbox, up to ``limit`` entries at a time.

    ``on_blocked`` is told when entries must wait for a shard that does not answer.
    """

    async def drain_shard(index: int) -> SweepResult:
        return await drain(store, store.keys.shard(index), limit, on_blocked)

    return drain_shard


def waiting_step(store: Store, limit: int) -> Step:
    """Make the step that tries the shards that one shard's entries wait for.

    It has a loop of its own, because it waits for a shard that may not answer.
    """

    async def drain_waiting_of(index: int) -> SweepResult:
        return await drain_blocked(store, store.keys.shard(index), limit)

    return drain_waiting_of
