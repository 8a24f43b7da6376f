"""Operations of the scheduler and of operators over shards, other than cron."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.progress import checkpoints
from ojs_cluster.store.features.retention.retention import purge_due
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.records import MINUTES, parse_record
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from tests.crash.harness import YEAR, World
from tests.store.shortcuts import HOUR, ack, foreign_id, nack, put, queues_in_other_shards, take
from tests.support.timeshift import age_job, age_worker

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Removal:
    """A job whose id names another shard than its queue's is removed: its alias goes with it."""

    how: Literal["retention", "dead letter", "purge"]
    least = 2

    async def prepare(self, world: World) -> str:
        store = world.store
        [queue] = queues_in_other_shards(store, 1)
        job_id = foreign_id(store, queue)
        retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
        await put(store, queue, id=job_id, retry=retry)
        await checkpoints.save(store, job_id, b"1", worker_id=None, lease_id=None)
        await world.recover(HOUR)  # a claim of late would be left alone for a while
        if self.how == "purge":
            return job_id
        [job] = await take(store, queue)
        if self.how == "dead letter":
            await nack(store, job)
        else:
            await ack(store, job)
            age_job(world.db, store.keys.shard_of_queue(queue), job_id, YEAR)
        return job_id

    async def act(self, store: Store, scene: str) -> None:
        [queue] = queues_in_other_shards(store, 1)
        if self.how == "retention":
            await purge_due(store, store.keys.shard_of_queue(queue), 10)
        elif self.how == "purge":
            await purges.purge(store, queue)
        else:
            with suppress(NotFound):
                await dead_letters.delete(store, scene)

    async def happened(self, world: World, scene: str) -> bool:
        """The next run of retention removes what the dead one had begun to remove."""
        for shard in world.store.keys:
            await purge_due(world.store, shard, 10)
        try:
            job = await jobs.get(world.store, scene)
        except NotFound:
            left = list(world.db.scan_iter(match=f"ojs:*:j:{scene}", count=10_000))
            assert not left, (left, [world.db.hgetall(key) for key in left])
            return True
        # A purge first cancels such a job, so no worker fetches it. Retention removes it.
        return self.how == "purge" and job.state is State.CANCELLED

    async def finish(self, world: World, scene: str) -> None:
        """All ends with the job, and with the retention of dead letters."""
        for shard in world.store.keys:
            for job_id in world.db.zrange(shard.dead, 0, -1):
                await dead_letters.delete(world.store, job_id.decode())


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker that fell silent, and the jobs that it holds."""

    worker: str
    jobs: tuple[str, ...]


class DeadWorker:
    """A worker was found dead: its jobs, in two shards, are available again."""

    least = 4

    async def prepare(self, world: World) -> Lost:
        store, worker = world.store, f"mortal{next(_serial)}"
        names = queues_in_other_shards(store, 2)
        made = [await put(store, name) for name in names]
        await take(store, *names, count=2, worker=worker)
        for _ in range(3):
            await heartbeat(store, Heartbeat(worker, [job.id for job in made]))
        age_worker(world.db, store.keys.shard_of_worker(worker), worker, HOUR)
        for job, name in zip(made, names, strict=True):
            age_job(world.db, store.keys.shard_of_queue(name), job.id, HOUR)
        return Lost(worker, tuple(job.id for job in made))

    async def act(self, store: Store, scene: Lost) -> None:
        home = store.keys.shard_of_worker(scene.worker)
        dead, _, _ = await workers.find_dead(store, home, 10)
        for worker in dead:
            for shard in store.keys:
                await workers.recover(store, shard, [worker])
            await workers.finish_recovery(store, home, worker)

    async def happened(self, world: World, scene: Lost) -> bool:
        """The next leader finds the dead again until all is recovered."""
        await self.act(world.store, scene)
        states = [(await jobs.get(world.store, job_id)).state for job_id in scene.jobs]
        assert states == [State.AVAILABLE] * 2, states
        assert not world.db.exists(world.store.keys.shard_of_worker(scene.worker).lost_workers)
        return True

    async def finish(self, world: World, scene: Lost) -> None:
        """All ends with the jobs."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A minute to record, and the number of jobs ever enqueued that its record must have."""

    minute: int
    enqueued: int


class History:
    """The leader samples all queues: a job is counted once, and once only."""

    least = 4

    async def prepare(self, world: World) -> Sampled:
        store, minute = world.store, 2 * next(_serial)
        await MinuteRecorder(store).record(minute)
        names = queues_in_other_shards(store, 3)
        for name in names:
            await put(store, name)
        return Sampled(minute + 1, _enqueued(world, minute) + len(names))

    async def act(self, store: Store, scene: Sampled) -> None:
        assert await MinuteRecorder(store).record(scene.minute)

    async def happened(self, world: World, scene: Sampled) -> bool:
        """The record has all jobs, whatever a process that died has sampled."""
        return _enqueued(world, scene.minute) == scene.enqueued

    async def finish(self, world: World, scene: Sampled) -> None:
        """A later leader adds nothing."""
        await self.act(world.store, scene)
        assert await self.happened(world, scene)


def _enqueued(world: World, minute: int) -> int:
    key, slot = world.store.keys.meta.history_minutes, minute % MINUTES
    record = parse_record(world.db.hget(key, slot))
    return record.totals[0] if record is not None and record.minute == minute else -1
