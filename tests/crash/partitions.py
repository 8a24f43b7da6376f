"""Operations that change the number of partitions of a queue."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, replace

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS, PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses, queues
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.queues.default_growth import advance_growth
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    get_partitions,
    maintain_queue,
    set_partitions,
)
from ojs_cluster.store.features.queue_drains.unfinished import end_unfinished_deletion
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground.process_state.partitions import DEFAULT, PartitionTable
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults, get_defaults
from tests.crash.harness import World
from tests.store.hot_queues import pass_time, put_into, sum_of_quotas
from tests.store.shortcuts import DAY, HOUR, ack, put, take
from tests.support.timeshift import age_drain

QUEUE = "hot"
_serial = itertools.count(1)


def of_another_process(store: Store) -> Store:
    """Return the store of a process that has not read the partition table yet."""
    return replace(store, partitions=PartitionTable())


async def end_partitions(world: World) -> None:
    """Run the queue's jobs, and close all partitions but one."""
    for job in await take(world.store, QUEUE, count=9):
        await ack(world.store, job)
    await set_partitions(world.store, QUEUE, 1)
    await pass_time(world.store, world.db, DRAIN_MS, QUEUE)
    await advance_changes(world.store)
    assert (await get_partitions(world.store, QUEUE)).open_count == 1


@dataclass(frozen=True, slots=True)
class Growth:
    """A queue gets partitions. If it is paused, so are they."""

    paused: bool
    least = 3

    async def prepare(self, world: World) -> None:
        await put(world.store, QUEUE)
        await pauses.pause_or_resume(world.store, QUEUE, "pause" if self.paused else "resume")

    async def act(self, store: Store, scene: None) -> None:
        await set_partitions(of_another_process(store), QUEUE, 3)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the janitor mirrors the pause flag before producers use the new partitions."""
        await advance_changes(world.store)
        if (await get_partitions(world.store, QUEUE)).count == 1:
            return False
        for shard in world.store.keys.partitions(QUEUE, 3):
            assert world.db.hexists(shard.queue_counters(QUEUE), "paused") == self.paused
        return True

    async def finish(self, world: World, scene: None) -> None:
        await pauses.pause_or_resume(world.store, QUEUE, "resume")
        if (await get_partitions(world.store, QUEUE)).occupied_count == 1:
            return  # it never got any
        await set_partitions(world.store, QUEUE, 1)
        await pass_time(world.store, world.db, DRAIN_MS, QUEUE)
        await advance_changes(world.store)
        assert (await get_partitions(world.store, QUEUE)).open_count == 1


class Drained:
    """A queue with three partitions begins to drain."""

    least = 4

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await put(world.store, QUEUE)

    async def act(self, store: Store, scene: None) -> None:
        await pauses.pause_or_resume(of_another_process(store), QUEUE, "drain")

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the janitor makes the other partitions agree with the first one."""
        await maintain_queue(world.store, QUEUE)
        shards = world.store.keys.partitions(QUEUE, 3)
        flags = {world.db.hexists(s.queue_counters(QUEUE), "draining") for s in shards}
        assert len(flags) == 1
        return bool(flags.pop())

    async def finish(self, world: World, scene: None) -> None:
        await pauses.pause_or_resume(world.store, QUEUE, "resume")
        await end_partitions(world)


class Deleted:
    """An empty queue with three partitions, a bound and a default timeout is deleted."""

    least = 6

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await lifecycle.create_queue(world.store, QUEUE, accept_existing=True)
        await depth_bounds.set_bound(world.store, QUEUE, 9)
        await change_defaults(world.store, QUEUE, {"default_timeout": 7})

    async def act(self, store: Store, scene: None) -> None:
        await lifecycle.delete_queue(of_another_process(store), QUEUE)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the queue is deleted, or has its settings and takes jobs after the janitor."""
        await maintain_queue(world.store, QUEUE)
        age_drain(world.db, world.store.keys.shard_of_queue(QUEUE), QUEUE, HOUR)
        await end_unfinished_deletion(world.store, QUEUE)
        if (await queues.get_stats(world.store, QUEUE)).deleted:
            assert await depth_bounds.get_bound(world.store, QUEUE) is None
            assert (await get_defaults(world.store, QUEUE)).empty
            with suppress(NotFound):
                await lifecycle.delete_queue(world.store, QUEUE)
            assert (await get_partitions(world.store, QUEUE)).count == 1
            return True
        assert await depth_bounds.get_bound(world.store, QUEUE) == DepthBound(9)
        assert (await queues.get_stats(world.store, QUEUE)).status == "active"
        assert (await get_defaults(world.store, QUEUE)).default_timeout == 7
        return False

    async def finish(self, world: World, scene: None) -> None:
        """Delete the queue if it is not deleted yet."""
        if not (await queues.get_stats(world.store, QUEUE)).deleted:
            await lifecycle.delete_queue(world.store, QUEUE)
        await end_partitions(world)


@dataclass(frozen=True, slots=True)
class Limited:
    """Limits of a queue with three partitions are set, changed or removed."""

    before: RateLimits
    after: RateLimits
    least = 4

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await put(world.store, QUEUE)
        await rate_limits.set_queue_limits(world.store, QUEUE, self.before)

    async def act(self, store: Store, scene: None) -> None:
        await rate_limits.set_queue_limits(of_another_process(store), QUEUE, self.after)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that old and new quotas are mixed at most until the janitor's next round."""
        added = sum_of_quotas(world.store, world.db, QUEUE)
        if self.before != RateLimits() != self.after:
            assert 4 <= added <= 8, added
        await maintain_queue(world.store, QUEUE)
        limits = (await rate_limits.get_queue_limits(world.store, QUEUE)).usage.limits
        assert limits in (self.before, self.after)
        assert sum_of_quotas(world.store, world.db, QUEUE) == (limits.concurrency or 0)
        return limits == self.after

    async def finish(self, world: World, scene: None) -> None:
        await rate_limits.set_queue_limits(world.store, QUEUE, RateLimits())
        await end_partitions(world)


class Bounded:
    """The bound on the depth of a queue with three partitions is set."""

    least = 4
    bound = DepthBound(7, "block", 0.5)

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await put(world.store, QUEUE)

    async def act(self, store: Store, scene: None) -> None:
        await depth_bounds.set_bound(of_another_process(store), QUEUE, self.bound)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the janitor mirrors the bound into the other partitions."""
        await maintain_queue(world.store, QUEUE)
        bound = await depth_bounds.get_bound(world.store, QUEUE)
        for shard in world.store.keys.partitions(QUEUE, 3):
            there = world.db.hmget(shard.queue_counters(QUEUE), "bound", "overflow")
            assert there == ([None, None] if bound is None else [b"7", b"block:0.5"])
        return bound == self.bound

    async def finish(self, world: World, scene: None) -> None:
        await depth_bounds.set_bound(world.store, QUEUE, None)
        await end_partitions(world)


class Exhausted:
    """What becomes of exhausted jobs is set for a queue with three partitions."""

    least = 4

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await put(world.store, QUEUE)

    async def act(self, store: Store, scene: None) -> None:
        await exhaustion.set_on_exhaustion(of_another_process(store), QUEUE, "dead_letter")

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the janitor mirrors the decision into the other partitions."""
        await maintain_queue(world.store, QUEUE)
        decision = await exhaustion.get_on_exhaustion(world.store, QUEUE)
        for shard in world.store.keys.partitions(QUEUE, 3):
            there = world.db.hget(shard.queue_counters(QUEUE), "on_exhaustion")
            assert there == (None if decision is None else decision.encode())
        return decision == "dead_letter"

    async def finish(self, world: World, scene: None) -> None:
        await exhaustion.set_on_exhaustion(world.store, QUEUE, None)
        await end_partitions(world)


class Fair:
    """Tenants take turns in a queue with three partitions."""

    least = 4

    async def prepare(self, world: World) -> None:
        await set_partitions(world.store, QUEUE, 3)
        await pass_time(world.store, world.db, PROPAGATION_MS, QUEUE)
        await put(world.store, QUEUE)

    async def act(self, store: Store, scene: None) -> None:
        await fair_share.set_fair_share(of_another_process(store), QUEUE, on=True)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the janitor mirrors the option into the other partitions."""
        await maintain_queue(world.store, QUEUE)
        on = await fair_share.has_fair_share(world.store, QUEUE)
        for shard in world.store.keys.partitions(QUEUE, 3):
            assert world.db.hexists(shard.queue_counters(QUEUE), "fair") is on
        return on

    async def finish(self, world: World, scene: None) -> None:
        await fair_share.set_fair_share(world.store, QUEUE, on=False)
        await end_partitions(world)


class DefaultGrowth:
    """The janitor copies the settings of queues, and then uses an announced default."""

    least = 6

    async def prepare(self, world: World) -> None:
        store = world.store
        await put(store, QUEUE)
        await put(store, "limited")
        await pauses.pause_or_resume(store, QUEUE, "pause")
        await rate_limits.set_queue_limits(store, "limited", RateLimits(concurrency=2))
        await store.partitions.update(store, DEFAULT, lambda old, now_ms: old.announced(3, now_ms))
        await pass_time(store, world.db, PROPAGATION_MS, DEFAULT)

    async def act(self, store: Store, scene: None) -> None:
        await advance_growth(of_another_process(store), 1000)

    async def happened(self, world: World, scene: None) -> bool:
        """Check that no queue uses a partition that lacks a copy."""
        store = world.store
        await store.partitions.read(store)
        grown = store.partitions.default.count == 3
        if grown:
            for shard in store.keys.partitions(QUEUE, 3):
                assert world.db.hexists(shard.queue_counters(QUEUE), "paused")
        assert store.partitions.layout("limited").count == 1
        return grown

    async def finish(self, world: World, scene: None) -> None:
        store = world.store
        await pauses.pause_or_resume(store, QUEUE, "resume")
        await rate_limits.set_queue_limits(store, "limited", RateLimits())
        await store.partitions.update(store, DEFAULT, lambda *_: PartitionLayout.of_count(1))
        for queue in (QUEUE, "limited"):
            await store.partitions.update(store, queue, lambda *_: PartitionLayout.of_count(1))


class LateOpening:
    """A partition opens for a job whose shard was fixed when the queue had more partitions."""

    least = 3

    async def prepare(self, world: World) -> None:
        await put(world.store, QUEUE)
        await pauses.pause_or_resume(world.store, QUEUE, "pause")

    async def act(self, store: Store, scene: None) -> None:
        shard = store.keys.partitions(QUEUE, 3)[2]
        await ensure_open(of_another_process(store), shard, [QUEUE])

    async def happened(self, world: World, scene: None) -> bool:
        """Check that the partition is paused before it is open."""
        is_open = (await get_partitions(world.store, QUEUE)).open_count == 3
        for shard in world.store.keys.partitions(QUEUE, 3) if is_open else ():
            assert world.db.hexists(shard.queue_counters(QUEUE), "paused")
        return is_open

    async def finish(self, world: World, scene: None) -> None:
        await pauses.pause_or_resume(world.store, QUEUE, "resume")
        if (await get_partitions(world.store, QUEUE)).occupied_count == 1:
            return  # it never got any
        await pass_time(world.store, world.db, DRAIN_MS, QUEUE)
        await advance_changes(world.store)
        assert (await get_partitions(world.store, QUEUE)).open_count == 1


class Unused:
    """The janitor begins to remove the entry of a queue that was not used for a day."""

    least = 3

    async def prepare(self, world: World) -> str:
        queue = f"unused{next(_serial)}"
        await set_partitions(world.store, queue, 3)
        await pass_time(world.store, world.db, DAY, queue)
        return queue

    async def act(self, store: Store, scene: str) -> None:
        await advance_changes(of_another_process(store))

    async def happened(self, world: World, scene: str) -> bool:
        layout = await get_partitions(world.store, scene)
        assert (layout.count, layout.open_count) in ((3, 3), (1, 3)), layout
        return layout.count == 1

    async def finish(self, world: World, scene: str) -> None:
        """Let the janitor continue, a day later each time, until the entry is gone."""
        for _ in range(4):
            if world.db.hexists(world.store.keys.meta.partitions, scene):
                await pass_time(world.store, world.db, DAY, scene)
            await advance_changes(world.store)
        assert not world.db.hexists(world.store.keys.meta.partitions, scene)


class Closing:
    """The janitor closes empty partitions and keeps the one with a job open."""

    least = 4

    async def prepare(self, world: World) -> None:
        store = world.store
        await set_partitions(store, QUEUE, 4)
        await pass_time(store, world.db, PROPAGATION_MS, QUEUE)
        shards = store.keys.partitions(QUEUE, 4)
        for shard in shards:
            await put_into(store, shard, QUEUE)
        for job in await take(store, QUEUE, count=4):
            await ack(store, job)
        await put_into(store, shards[1], QUEUE)
        await set_partitions(store, QUEUE, 1)
        await pass_time(store, world.db, DRAIN_MS, QUEUE)

    async def act(self, store: Store, scene: None) -> None:
        await advance_changes(of_another_process(store))

    async def happened(self, world: World, scene: None) -> bool:
        layout = await get_partitions(world.store, QUEUE)
        assert layout.open_count in (2, 4), layout
        return layout.open_count == 2

    async def finish(self, world: World, scene: None) -> None:
        for job in await take(world.store, QUEUE, count=9):
            await ack(world.store, job)
        await pass_time(world.store, world.db, DRAIN_MS, QUEUE)
        await advance_changes(world.store)
        assert (await get_partitions(world.store, QUEUE)).open_count == 1
