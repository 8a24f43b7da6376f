"""Deletions of queues together with their jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    maintain_queue,
    set_partitions,
)
from ojs_cluster.store.features.bulk.execution import run_due
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState
from ojs_cluster.store.features.queue_deletion.deletion import begin_deletion
from tests.crash.harness import World
from tests.store.hot_queues import pass_time, put_into

QUEUE = "old"


@dataclass(frozen=True, slots=True)
class DeletionScene:
    """The jobs of a queue that is to be deleted, and the ids of the operations that try it."""

    jobs: tuple[str, ...]
    operation_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Deletion:
    """A queue with jobs in two partitions is deleted, and its jobs are discarded or moved."""

    target: str
    least = 15

    async def prepare(self, world: World) -> DeletionScene:
        store = world.store
        await set_partitions(store, QUEUE, 2)
        await pass_time(store, world.db, PROPAGATION_MS, QUEUE)
        shards = store.keys.partitions(QUEUE, 2)
        made = [await put_into(store, shard, QUEUE) for shard in shards]
        last = max(shards, key=lambda shard: shard.index)  # its job is the last one of the walk
        once = {"type": "once", "unique": {"keys": ["type"]}}
        made.append(await put_into(store, last, QUEUE, scheduled_at="+PT1H", **once))
        return DeletionScene(tuple(job.id for job in made))

    async def act(self, store: Store, scene: DeletionScene) -> None:
        operation_id = new_job_id(0, len(store.keys), time.time_ns() // 1_000_000)
        scene.operation_ids.append(operation_id)
        assert await begin_deletion(store, operation_id, QUEUE, self.target) is not None
        await self._carry_out(store, operation_id)

    async def happened(self, world: World, scene: DeletionScene) -> bool:
        """The next leader continues the deletion, or ends it if the queue does not drain yet."""
        store = world.store
        await maintain_queue(store, QUEUE)
        operation_id = scene.operation_ids[-1]
        operation = await operations.read(store, operation_id)
        if operation is not None:
            world.db.zadd(store.keys.meta.bulk_running, {operation_id: 1}, xx=True)
            operation = await self._carry_out(store, operation_id)
        if operation is None or operation.state is BulkState.STOPPED:
            assert operation is None or operation.succeeded == 0, operation
            assert (await queues.get_stats(store, QUEUE)).status == "active"
            await self._check_jobs(store, scene, QUEUE, discarded=False)
            return False
        assert (operation.state, operation.succeeded) == (BulkState.COMPLETED, 3), operation
        assert (await queues.get_stats(store, QUEUE)).deleted
        await self._check_jobs(store, scene, self.target or QUEUE, discarded=not self.target)
        return True

    async def finish(self, world: World, scene: DeletionScene) -> None:
        """End the retention of the operation, and close the old partitions."""
        meta = world.store.keys.meta
        for name in world.db.zrange(meta.bulk_ended, 0, -1):
            world.db.zadd(meta.bulk_ended, {name: 1})
        await run_due(world.store)
        await set_partitions(world.store, QUEUE, 1)
        for name in (QUEUE, self.target or QUEUE):
            if world.db.hexists(meta.partitions, name):
                await pass_time(world.store, world.db, DRAIN_MS, name)
        await advance_changes(world.store)

    async def _carry_out(self, store: Store, operation_id: str) -> BulkOperation:
        for _ in range(100):
            operation = await operations.get(store, operation_id)
            if operation.ended:
                return operation
            await run_due(store)
        # Its last reply was lost, so this process has postponed the operation.
        raise BackendUnavailable("postponed", outcome="unknown")

    async def _check_jobs(
        self, store: Store, scene: DeletionScene, queue: str, *, discarded: bool
    ) -> None:
        for job_id in scene.jobs:
            job = await read_jobs.get(store, job_id)
            assert (job.queue, job.state is State.DISCARDED) == (queue, discarded), job
