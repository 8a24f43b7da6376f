"""Repair operations: lost references, stalled workflows, malformed jobs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue import references
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.retention.retention import purge_due
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.ground import job_fields as f
from tests.crash.harness import YEAR, World
from tests.store.shortcuts import (
    HOUR,
    ack,
    foreign_id,
    middle_queue,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import once
from tests.store.workflow_jobs import (
    chain,
    group,
    home_of,
    job_ids,
    lose_job,
    lose_statuses,
    run_one,
    step,
    step_states,
)
from tests.support.timeshift import age_job, age_references


@dataclass(frozen=True, slots=True)
class Job:
    """A unique job whose id names another shard than its own."""

    id: str
    shard: Shard
    home: Shard
    lock: bytes

    def in_its_shard(self, world: World) -> bool:
        return bool(world.db.exists(self.shard.job(self.id)))


async def unique_job(world: World, step: int = 1) -> Job:
    store, queue = world.store, middle_queue(world.store)
    job_id = foreign_id(store, queue, step=step)
    await once(store, queue, id=job_id)
    shard = shard_of(store, queue)
    fingerprint = world.db.hget(shard.job(job_id), f.UNIQUE).decode()
    lock = store.keys.shard_of_fingerprint(fingerprint).lock(fingerprint)
    return Job(job_id, shard, store.keys.shard_of_id(job_id), lock)


@dataclass(frozen=True, slots=True)
class References:
    """The janitor checks a job that lost data in a failover.

    ``lost``: the alias of the job; its lock; both; or the removal of its alias.
    """

    lost: Literal["alias", "lock", "both", "removal"]
    least = 3

    async def prepare(self, world: World) -> Job:
        job = await unique_job(world)
        lock_home = next(s for s in world.store.keys if job.lock.startswith(s.lock("")))
        if self.lost in ("lock", "both"):
            world.db.delete(job.lock, lock_home.locks)
        if self.lost in ("alias", "both"):
            world.db.delete(job.home.job(job.id))
            world.db.delete(job.home.alias_claims)
        if self.lost == "removal":
            await self._remove(world, job)
        age_references(world.db, job.shard, HOUR)
        return job

    async def _remove(self, world: World, job: Job) -> None:
        """Remove the job, then restore its alias."""
        await world.recover(HOUR)
        [taken] = await take(world.store, middle_queue(world.store))
        await ack(world.store, taken)
        age_job(world.db, job.shard, job.id, YEAR)
        alias = world.db.hgetall(job.home.job(job.id))
        await purge_due(world.store, job.shard, 10)
        assert not job.in_its_shard(world)
        world.db.hset(job.home.job(job.id), mapping=alias)

    async def act(self, store: Store, scene: Job) -> None:
        await references.check_references(store, scene.shard, 10)

    async def happened(self, world: World, scene: Job) -> bool:
        """The next janitor continues: the job is listed until it has been checked completely."""
        age_references(world.db, scene.shard, HOUR)
        await references.check_references(world.store, scene.shard, 10)
        assert not world.db.exists(scene.shard.references)
        there = self.lost != "removal"
        assert world.db.exists(scene.home.job(scene.id)) == there
        assert world.db.exists(scene.lock) == there
        return True

    async def finish(self, world: World, scene: Job) -> None:
        """Everything ends with the job."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """A workflow that makes no progress by itself."""

    workflow: WorkflowRecord
    home: Shard
    db: Any

    def make_due(self) -> None:
        """Let the next check read the jobs of the workflow."""
        self.db.zadd(self.home.running_workflows, {self.workflow.id: 1}, xx=True)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The scheduler checks a stalled workflow.

    ``lost``: the record of how its first job ended; or that job itself.
    """

    lost: Literal["record", "job"]
    least = 8

    async def prepare(self, world: World) -> Stalled:
        store = world.store
        one, other = queues_in_other_shards(store, 2)
        if self.lost == "record":
            workflow = await chain(store, step("a", one), step("b", other))
            await run_one(store, one)
            lose_statuses(store, world.db, workflow, "q.")
        else:
            workflow = await group(store, step("a", one), step("b", other))
            lose_job(store, world.db, job_ids(workflow)[0], one)
        scene = Stalled(workflow, home_of(store, workflow), world.db)
        scene.make_due()
        return scene

    async def act(self, store: Store, scene: Stalled) -> None:
        leader = WorkflowCheck()
        for _ in range(2):  # a job that is not there is missed twice
            scene.make_due()
            await leader.check(store, scene.home, 10)

    async def happened(self, world: World, scene: Stalled) -> bool:
        """A leader without memory comes to the same result."""
        await self.act(world.store, scene)
        first = "completed" if self.lost == "record" else "failed"
        assert await step_states(world.store, scene.workflow) == [first, "pending"]
        assert world.live() == {job_ids(scene.workflow)[1]}
        return True

    async def finish(self, world: World, scene: Stalled) -> None:
        """Everything ends with the jobs."""


@dataclass(frozen=True, slots=True)
class MalformedRemoval:
    """A malformed job is cancelled; its alias and its lock in other shards are removed too.

    ``step``: distance from the shard of its queue to the shard that the id names.
    """

    step: Literal[-1, 1]
    least = 4

    async def prepare(self, world: World) -> Job:
        job = await unique_job(world, self.step)
        await world.recover(HOUR)  # its references have been checked
        world.db.hset(job.shard.job(job.id), f.CREATED, "x")
        return job

    async def act(self, store: Store, scene: Job) -> None:
        with suppress(NotFound):
            await cancel(store, scene.id)

    async def happened(self, world: World, scene: Job) -> bool:
        """While the job exists, its id leads to it; afterwards the janitor frees the id."""
        if scene.in_its_shard(world):
            with pytest.raises(MalformedJob):
                await read_jobs.get(world.store, scene.id)
            return False
        await world.recover(HOUR)
        left = list(world.db.scan_iter(match=f"ojs:*:j:{scene.id}", count=10_000))
        assert left == []
        assert not world.db.exists(scene.lock)
        return True

    async def finish(self, world: World, scene: Job) -> None:
        if scene.in_its_shard(world):
            await self.act(world.store, scene)
