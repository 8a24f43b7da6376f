"""Operations of the outbox: entries that wait for a shard, and names of queues."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.outbox.outbox import drain
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    get_partitions,
    set_partitions,
)
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention.retention import retire_queues
from tests.crash.harness import World
from tests.store.hot_queues import pass_time
from tests.store.shortcuts import HOUR, ack, new_job, put, shard_of, take
from tests.store.unique_jobs import drain_waiting_now, once, without_unlock
from tests.support.lossy import AbsentClient, without
from tests.support.timeshift import age_queue

IDLE = "idle"
_serial = itertools.count(1)


def make_due(world: World, shard: Shard) -> None:
    """Let the entries of a shard's outbox be carried out now."""
    for number in world.db.zrange(shard.outbox_due, 0, -1):
        world.db.zadd(shard.outbox_due, {number: 1})


def listed(world: World, queue: str) -> bool:
    return world.db.zscore(world.store.keys.meta.queues, queue) is not None


@dataclass(frozen=True, slots=True)
class Held:
    """Locks in one shard that another shard has to release."""

    shard: Shard
    blocker: Shard
    locks: tuple[bytes, ...]
    db: Any


class Waiting:
    """Entries wait for a shard that is away; it is tried in vain, then with success."""

    least = 10

    async def prepare(self, world: World) -> Held:
        store, shard = world.store, shard_of(world.store)
        blocker = next(one for one in store.keys if one is not shard)
        locks = []
        for number in itertools.count():
            job_type = f"type.n{number}"
            fingerprint = new_job(type=job_type, unique={"keys": ["type"]}).fingerprint
            if store.keys.shard_of_fingerprint(fingerprint) is blocker:
                await once(store, keys=["type"], type=job_type)
                locks.append(blocker.lock(fingerprint))
            if len(locks) == 2:
                break
        for job in await take(store, count=2):
            await ack(without_unlock(store), job)
        make_due(world, shard)
        return Held(shard, blocker, tuple(locks), world.db)

    async def act(self, store: Store, scene: Held) -> None:
        half = without(store, scene.blocker)
        await drain(half, scene.shard, 100)
        await drain_waiting_now(half, scene.db, scene.shard)
        await drain_waiting_now(store, scene.db, scene.shard)

    async def happened(self, world: World, scene: Held) -> bool:
        """The next scheduler goes on wherever the entries are."""
        assert not world.has_pending_work()
        assert world.db.zcard(scene.shard.finished) == 2
        assert [lock for lock in scene.locks if world.db.exists(lock)] == []
        return True

    async def finish(self, world: World, scene: Held) -> None:
        """All ends with the jobs."""


@dataclass(frozen=True, slots=True)
class NewQueue:
    """A new queue: its shard has to deliver the name to the registry.

    ``registry_away``: the registry does not answer the acting process.
    """

    by: Literal["job", "pause", "limit"]
    registry_away: bool = False
    least = 2

    async def prepare(self, world: World) -> str:
        return f"fresh{next(_serial)}"

    async def act(self, store: Store, scene: str) -> None:
        if self.registry_away:
            client = AbsentClient(store.redis, {store.keys.meta.slot})
            store = replace(store, redis=cast(Client, client))
        if self.by == "job":
            await enqueue(store, new_job(scene))
        elif self.by == "pause":
            await pauses.pause_or_resume(store, scene, "pause")
        else:
            await rate_limits.set_queue_limits(store, scene, RateLimits(concurrency=8))

    async def happened(self, world: World, scene: str) -> bool:
        there = bool(world.db.exists(shard_of(world.store, scene).queue_counters(scene)))
        if there:
            assert listed(world, scene), "a queue is in use that no list shows"
        assert len(world.live()) == (there and self.by == "job")
        return there

    async def finish(self, world: World, scene: str) -> None:
        if self.by == "pause":
            await pauses.pause_or_resume(world.store, scene, "resume")
        elif self.by == "limit":
            await rate_limits.set_queue_limits(world.store, scene, RateLimits())


class _Idle:
    """A queue that is not in use any more."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions

    async def prepare(self, world: World) -> None:
        store = world.store
        await set_partitions(store, IDLE, self.partitions)
        if self.partitions > 1:
            await pass_time(store, world.db, PROPAGATION_MS, IDLE)
        await pauses.pause_or_resume(store, IDLE, "pause")
        await pauses.pause_or_resume(store, IDLE, "resume")
        await world.recover()
        for shard in self.there(world):
            age_queue(world.db, shard, IDLE, 2 * HOUR)
        assert listed(world, IDLE)

    def there(self, world: World) -> list[Shard]:
        """The shards in which something of the queue is left."""
        shards = world.store.keys.partitions(IDLE, self.partitions)
        return [shard for shard in shards if world.db.exists(shard.queue_counters(IDLE))]

    async def finish(self, world: World, scene: None) -> None:
        if self.partitions == 1:
            return
        await set_partitions(world.store, IDLE, 1)
        await pass_time(world.store, world.db, DRAIN_MS, IDLE)
        await advance_changes(world.store)
        assert (await get_partitions(world.store, IDLE)).open_count == 1


class Retirement(_Idle):
    """An idle queue is forgotten, and its name is removed from the registry."""

    least = 5

    async def act(self, store: Store, scene: None) -> None:
        await retire_queues(store)

    async def happened(self, world: World, scene: None) -> bool:
        left = bool(self.there(world))
        assert listed(world, IDLE) == left
        return not left


class Comeback(_Idle):
    """A queue gets a job while the removal of its name is still in an outbox."""

    least = 5

    async def prepare(self, world: World) -> None:
        await super().prepare(world)

        async def away(_store: Store, _shard: Shard, _payload: bytes) -> None:
            raise BackendUnavailable("no answer", outcome="not_applied")

        store = world.store
        await retire_queues(replace(store, effects={**store.effects, "unregister_queue": away}))
        assert self.there(world) == []
        await put(store, IDLE)
        make_due(world, shard_of(store, IDLE))

    async def act(self, store: Store, scene: None) -> None:
        await drain(store, shard_of(store, IDLE), 100)

    async def happened(self, world: World, scene: None) -> bool:
        """The name is there, however often the removal is repeated."""
        assert len(world.live()) == 1
        assert listed(world, IDLE)
        return True
