"""Fetches of jobs whose last worker has died while it held them."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from tests.crash.harness import World
from tests.store.shortcuts import HOUR, ack, put, reap_all, take
from tests.support.timeshift import age_job, age_worker, isolation_of

_serial = count()
MINUTE = 60_000


class Fetched(NamedTuple):
    """A suspect, its queue, and the worker that fetches it."""

    job_id: str
    queue: str
    worker: str


class SuspectFetch:
    """A worker that holds no job fetches a suspect, and is kept from other jobs."""

    least = 8

    async def prepare(self, world: World) -> Fetched:
        """Let a worker die that holds a job."""
        store, number = world.store, next(_serial)
        queue, mortal = f"suspects{number}", f"mortal-of-suspects{number}"
        job = await put(store, queue)
        assert len(await take(store, queue, worker=mortal)) == 1
        await heartbeat(store, Heartbeat(mortal))
        age_worker(world.db, store.keys.shard_of_worker(mortal), mortal, HOUR)
        age_job(world.db, store.keys.shard_of_queue(queue), job.id, HOUR)
        await reap_all(store, queue)
        key = store.keys.shard_of_queue(queue).job(job.id)
        world.db.hset(key, f.ENQUEUED, int(world.db.time()[0]) * 1000)
        return Fetched(job.id, queue, f"idle{number}")

    async def act(self, store: Store, scene: Fetched) -> None:
        """Fetch the suspect."""
        await take(store, scene.queue, worker=scene.worker)

    async def happened(self, world: World, scene: Fetched) -> bool:
        """Check that the worker gets the suspect alone: in this fetch, or in a later one."""
        if (await read_jobs.get(world.store, scene.job_id)).state is State.AVAILABLE:
            _age_flags(world, scene)
            await take(world.store, scene.queue, worker=scene.worker)
        key = world.store.keys.shard_of_queue(scene.queue).job(scene.job_id)
        state, alone = world.db.hmget(key, f.STATE, f.ALONE)
        assert state == b"active"
        flags: list[Any] = [
            world.db.zscore(shard.quiet_workers, isolation_of(scene.worker))
            for shard in world.store.keys
        ]
        assert flags == [float(alone)] * len(flags)
        return True

    async def finish(self, world: World, scene: Fetched) -> None:
        """Let the worker fetch again after the end of the suspect, which ends its isolation."""
        await ack(world.store, scene.job_id)
        _age_flags(world, scene)
        assert await take(world.store, scene.queue, worker=scene.worker) == []


def _age_flags(world: World, scene: Fetched) -> None:
    isolation = isolation_of(scene.worker)
    for shard in world.store.keys:
        if world.db.zscore(shard.quiet_workers, isolation):
            world.db.zincrby(shard.quiet_workers, -MINUTE, isolation)
