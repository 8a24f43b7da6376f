"""The harness detects the faults that it is meant to detect."""

from __future__ import annotations

from typing import Literal

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from tests.crash.enqueues import Batch, Wanted
from tests.crash.harness import World, failing_at_every_command
from tests.store.shortcuts import new_job
from tests.support.failing_process import Mode

Fault = Literal[
    "halves", "leaves a lock", "leaves a lock until repeated", "leaves a debt", "says too much"
]


class Faulty(Batch):
    """A batch with a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("plain")
        self.fault = fault

    async def act(self, store: Store, scene: Wanted) -> None:
        if self.fault == "halves":
            for job in scene.jobs:
                await enqueue(store, job)
            return
        if self.fault == "says too much":
            return
        shard = store.keys.shard(0)
        key = shard.outbox if self.fault == "leaves a debt" else shard.lock("of no job")
        await store.redis.call(shard.slot, "HSET", key, "17", "x", idempotent=True)
        await enqueue_many(store, scene.jobs)
        if self.fault == "leaves a lock until repeated":
            await store.redis.call(shard.slot, "DEL", key, idempotent=True)


@pytest.mark.parametrize(
    ("fault", "mode"),
    [
        ("halves", "killed"),
        ("halves", "applied"),
        ("leaves a lock", "killed"),
        ("leaves a lock until repeated", "killed"),
        ("leaves a debt", "deaf"),
        ("says too much", "applied"),
    ],
)
async def test_an_operation_that_is_not_atomic_is_detected(
    world: World, fault: Fault, mode: Mode
) -> None:
    with pytest.raises(AssertionError):
        await failing_at_every_command(world, Faulty(fault), mode)


async def test_nothing_is_left_of_many_jobs(world: World) -> None:
    await enqueue_many(world.store, [new_job("many") for _ in range(120)])
    await world.end_all_jobs()
    world.check_nothing_left("afterwards")


async def test_an_operation_with_too_few_commands_is_detected(world: World) -> None:
    class Trivial(Batch):
        least = 1000

    with pytest.raises(AssertionError, match="1000"):
        await failing_at_every_command(world, Trivial("plain"), "killed")
