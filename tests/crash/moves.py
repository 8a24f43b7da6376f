"""One job is moved to another queue."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.partitions import DRAIN_MS
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.partition_maintenance import advance_changes
from ojs_cluster.store.features.queue_deletion.move_waiting import move
from tests.crash.harness import World
from tests.store.hot_queues import pass_time
from tests.store.shortcuts import put

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class MoveScene:
    """A job, and the queue that it is to get."""

    job_id: str
    target: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A job that waits is moved to a paused queue, in whose partitions its shard is not."""

    how: Literal["available", "scheduled"]
    least = 5

    async def prepare(self, world: World) -> MoveScene:
        options = {"scheduled_at": "+PT1H"} if self.how == "scheduled" else {}
        job = await put(world.store, "from", expires_at="+PT2H", **options)
        home = world.store.keys.shard_of_queue("from")
        names = (f"to{number}" for number in _serial)
        target = next(n for n in names if world.store.keys.shard_of_queue(n) is not home)
        await pauses.pause_or_resume(world.store, target, "pause")
        return MoveScene(job.id, target)

    async def act(self, store: Store, scene: MoveScene) -> None:
        await move(store, scene.job_id, scene.target)

    async def happened(self, world: World, scene: MoveScene) -> bool:
        """A moved job is in a paused partition that workers search."""
        store = world.store
        await store.partitions.read(store)
        job = await read_jobs.get(store, scene.job_id)
        assert job.state == self.how
        if job.queue == "from":
            return False
        assert job.queue == scene.target
        shard = store.keys.shard_of_queue("from")
        assert shard in await store.partitions.open_shards(store, scene.target)
        assert world.db.hexists(shard.queue_counters(scene.target), "paused")
        return True

    async def finish(self, world: World, scene: MoveScene) -> None:
        """Resume the queue, and close its other partition."""
        await pauses.pause_or_resume(world.store, scene.target, "resume")
        if world.db.hexists(world.store.keys.meta.partitions, scene.target):
            await pass_time(world.store, world.db, DRAIN_MS, scene.target)
        await advance_changes(world.store)
