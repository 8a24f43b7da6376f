"""Deletions of queues together with their jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS
from ojs_cluster.store.bulk import operations
from ojs_cluster.store.bulk.execution import run_due
from ojs_cluster.store.bulk.operation import BulkOperation, BulkState
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.queue_deletion.deletion import begin_deletion
from ojs_cluster.store.queues import queues
from ojs_cluster.store.queues.partition_maintenance import (
    advance_changes,
    maintain_queue,
    set_partitions,
)
from tests.crash.harness import World
from tests.store.hot_queues import pass_time, put_into

QUEUE = "old"


@dataclass(frozen=True, slots=True)
class DeletionScene:
    """A deletion that does not exist yet, and its jobs."""

    operation_id: str
    jobs: tuple[str, ...]


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
        operation_id = new_job_id(0, len(store.keys), time.time_ns() // 1_000_000)
        return DeletionScene(operation_id, tuple(job.id for job in made))

    async def act(self, store: Store, scene: DeletionScene) -> None:
        deletion = await begin_deletion(store, QUEUE, self.target)
        assert deletion is not None
        action = BulkAction.MOVE if self.target else BulkAction.DISCARD
        selection = Selection(DEFAULT_STATES[action], queue=QUEUE)
        await operations.create(store, scene.operation_id, action, selection, deletion=deletion)
        await self._carry_out(store, scene)

    async def happened(self, world: World, scene: DeletionScene) -> bool:
        """The next leader continues the deletion, if its operation was created."""
        store = world.store
        await maintain_queue(store, QUEUE)
        if await operations.read(store, scene.operation_id) is None:
            await self._check_jobs(store, scene, QUEUE, discarded=False)
            await queues.pause_or_resume(store, QUEUE, "resume")
            return False
        world.db.zadd(store.keys.meta.bulk_running, {scene.operation_id: 1}, xx=True)
        operation = await self._carry_out(store, scene)
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

    async def _carry_out(self, store: Store, scene: DeletionScene) -> BulkOperation:
        for _ in range(100):
            operation = await operations.get(store, scene.operation_id)
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
