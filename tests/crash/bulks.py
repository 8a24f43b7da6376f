"""Bulk operations over shards."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.errors import BackendUnavailable, NotFound
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.features.bulk.execution import run_due
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkOperation
from tests.crash.harness import World
from tests.store.shortcuts import HOUR, ack, foreign_id, nack, put, queues_in_other_shards, take


@dataclass(frozen=True, slots=True)
class BulkScene:
    """An operation that does not exist yet, and its jobs."""

    operation_id: str
    jobs: tuple[str, ...]
    created: list[str]


@dataclass(frozen=True, slots=True)
class Bulk:
    """A bulk operation changes jobs in two shards, one of them with an alias in another shard."""

    action: BulkAction
    least = 8

    async def prepare(self, world: World) -> BulkScene:
        store = world.store
        names = queues_in_other_shards(store, 2)
        retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
        made = [
            await put(store, names[0], id=foreign_id(store, names[0]), retry=retry),
            await put(store, names[1], retry=retry),
        ]
        await world.recover(HOUR)
        if self.action in (BulkAction.RETRY, BulkAction.DELETE):
            for job in await take(store, *names, count=2):
                await nack(store, job)
        operation_id = new_job_id(0, len(store.keys), time.time_ns() // 1_000_000)
        return BulkScene(operation_id, tuple(job.id for job in made), [])

    async def act(self, store: Store, scene: BulkScene) -> None:
        selection = Selection(DEFAULT_STATES[self.action], type="mail.*")
        await operations.create(store, scene.operation_id, self.action, selection)
        await self._carry_out(store, scene)

    async def happened(self, world: World, scene: BulkScene) -> bool:
        """The next leader continues the operation, if it was created."""
        store = world.store
        if await operations.read(store, scene.operation_id) is None:
            for job_id in scene.jobs:
                await jobs.get(store, job_id)
            return False
        world.db.zadd(store.keys.meta.bulk_running, {scene.operation_id: 1}, xx=True)
        operation = await self._carry_out(store, scene)
        assert (operation.matched, operation.succeeded, operation.failed) == (2, 2, 0), operation
        for job_id in scene.jobs:
            await self._check(store, job_id)
        return True

    async def finish(self, world: World, scene: BulkScene) -> None:
        """End the retention of the operation."""
        meta = world.store.keys.meta
        for name in world.db.zrange(meta.bulk_ended, 0, -1):
            world.db.zadd(meta.bulk_ended, {name: 1})
        await run_due(world.store)
        if self.action is BulkAction.RETRY:
            names = queues_in_other_shards(world.store, 2)
            for job in await take(world.store, *names, count=10):
                await ack(world.store, job)
        for shard in world.store.keys:  # the dead letters of an operation that was not created
            for job_id in world.db.zrange(shard.dead, 0, -1):
                world.db.zadd(shard.finished, {job_id: 1})

    async def _carry_out(self, store: Store, scene: BulkScene) -> BulkOperation:
        for _ in range(100):
            operation = await operations.get(store, scene.operation_id)
            if operation.ended:
                return operation
            await run_due(store)
        # Its last reply was lost, so this process has postponed the operation.
        raise BackendUnavailable("postponed", outcome="unknown")

    async def _check(self, store: Store, job_id: str) -> None:
        if self.action in (BulkAction.DELETE, BulkAction.PURGE):
            try:
                raise AssertionError(await jobs.get(store, job_id))
            except NotFound:
                return
        job = await jobs.get(store, job_id)
        wanted = State.CANCELLED if self.action is BulkAction.CANCEL else State.AVAILABLE
        assert (job.state, job.replays) == (wanted, int(self.action is BulkAction.RETRY)), job
