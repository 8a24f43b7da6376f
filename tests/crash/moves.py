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
from ojs_cluster.store.features.workflows import read_workflows
from tests.crash.harness import World
from tests.store.hot_queues import pass_time
from tests.store.shortcuts import put
from tests.store.workflow_jobs import chain, job_ids, step

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class MoveScene:
    """A job, the queue that it is to get, and its workflow."""

    job_id: str
    target: str
    flow_id: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A job that waits is moved to a paused queue, in whose partitions its shard is not."""

    how: Literal["available", "scheduled", "step"]
    least = 5

    async def prepare(self, world: World) -> MoveScene:
        if self.how == "step":
            flow = await chain(world.store, step("t", "from"))
            job_id, flow_id = job_ids(flow)[0], flow.id
        else:
            options = {"scheduled_at": "+PT1H"} if self.how == "scheduled" else {}
            job = await put(world.store, "from", expires_at="+PT2H", **options)
            job_id, flow_id = job.id, ""
        home = world.store.keys.shard_of_queue("from")
        names = (f"to{number}" for number in _serial)
        target = next(n for n in names if world.store.keys.shard_of_queue(n) is not home)
        await pauses.pause_or_resume(world.store, target, "pause")
        return MoveScene(job_id, target, flow_id)

    async def act(self, store: Store, scene: MoveScene) -> None:
        await move(store, scene.job_id, scene.target)

    async def happened(self, world: World, scene: MoveScene) -> bool:
        """A moved job is in a paused partition that workers search, and known to its workflow."""
        store = world.store
        await store.partitions.read(store)
        job = await read_jobs.get(store, scene.job_id)
        assert job.state == ("available" if self.how == "step" else self.how)
        if job.queue == "from":
            return False
        assert job.queue == scene.target
        shard = store.keys.shard_of_queue("from")
        assert shard in await store.partitions.open_shards(store, scene.target)
        assert world.db.hexists(shard.queue_counters(scene.target), "paused")
        if scene.flow_id:
            assert scene.target in (await read_workflows.get(store, scene.flow_id)).queues
        return True

    async def finish(self, world: World, scene: MoveScene) -> None:
        """Resume the queue, and close its other partition."""
        await pauses.pause_or_resume(world.store, scene.target, "resume")
        if world.db.hexists(world.store.keys.meta.partitions, scene.target):
            await pass_time(world.store, world.db, DRAIN_MS, scene.target)
        await advance_changes(world.store)
