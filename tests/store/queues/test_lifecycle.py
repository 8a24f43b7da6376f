"""Queues that operators create and delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, QueueDraining
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis import Client
from ojs_cluster.redis.deadline import current_deadline, start_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.queues import exhaustion, pauses, queues
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions
from ojs_cluster.store.features.queue_drains import drains
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.features.retention.retention import purge_due, retire_queues
from ojs_cluster.store.ground.process_state.queue_defaults import (
    change_defaults,
    get_defaults,
    remove_record,
)
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import HOUR, QUEUE, ack, active, new_job, put, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.lossy import AbsentClient, LossyClient, lossy, without
from tests.support.timeshift import age_queue

Check = Callable[[], InvariantReport]


async def test_two_processes_create_a_queue_once(store: Store, other_store: Store) -> None:
    created = 0

    async def create(process: Store) -> None:
        nonlocal created
        try:
            created += await lifecycle.create_queue(process, "new")
        except Conflict:
            return

    async with trio.open_nursery() as nursery:
        for process in (store, other_store) * 4:
            nursery.start_soon(create, process)
    assert created == 1
    assert await queues.exists(store, "new")


async def test_only_a_created_queue_is_kept_without_jobs(store: Store, db: Any) -> None:
    await lifecycle.create_queue(store, "created")
    await ack(store, await active(store))
    await put(store, "idle")
    [job] = await take(store, "idle")
    await ack(store, job)
    for name in ("created", QUEUE, "idle"):
        age_queue(db, shard_of(store, name), name, 2 * HOUR)
    db.hset(shard_of(store, "idle").queue_counters("idle"), "completed", 0)
    await retire_queues(store)
    assert await queues.exists(store, "created")
    assert not await queues.exists(store, "idle")


async def settings_of(store: Store, queue: str) -> tuple[Any, ...]:
    limits = (await rate_limits.get_queue_limits(store, queue)).usage.limits
    return (
        await depth_bounds.get_bound(store, queue),
        await exhaustion.get_on_exhaustion(store, queue),
        limits.concurrency,
    )


async def test_a_deleted_queue_leaves_its_finished_jobs_and_no_setting(
    store: Store, db: Any, consistent: Check
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await depth_bounds.set_bound(store, QUEUE, 9)
    await exhaustion.set_on_exhaustion(store, QUEUE, "dead_letter")
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=4))
    await ack(store, await active(store))
    await lifecycle.delete_queue(store, QUEUE)

    assert await settings_of(store, QUEUE) == (None, None, None)
    assert await queues.list_queues(store, limit=10) == ([], 1, None)
    with pytest.raises(NotFound):
        await lifecycle.delete_queue(store, QUEUE)
    consistent()

    shard = shard_of(store)
    for member in db.zrange(shard.finished, 0, -1):
        db.zadd(shard.finished, {member: 1})
    await purge_due(store, shard, 10)
    await retire_queues(store)
    assert await queues.list_queues(store, limit=10) == ([], 0, None)
    assert not db.exists(shard.queue_counters(QUEUE))


async def test_a_job_that_ends_a_deletion_leaves_the_defaults(store: Store) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await change_defaults(store, QUEUE, {"default_timeout": 7})

    async def return_a_job() -> None:
        await enqueue(store, new_job(), ignore_depth_bound=True)

    with pytest.raises(Conflict):
        await lifecycle.delete_queue(before(store, "write_record", 0, return_a_job), QUEUE)
    assert not (await get_defaults(store, QUEUE)).empty


async def test_a_queue_over_partitions_is_deleted_when_all_are_empty(
    store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 3)
    await put_into(store, shards[2])
    with pytest.raises(Conflict):
        await lifecycle.delete_queue(store, QUEUE)
    assert (await queues.get_stats(store, QUEUE)).status == "active"
    [job] = await take(store)
    with pytest.raises(Conflict):
        await lifecycle.delete_queue(store, QUEUE)
    await ack(store, job)
    await lifecycle.delete_queue(store, QUEUE)
    assert (await queues.get_stats(store, QUEUE)).deleted
    assert (await get_partitions(store, QUEUE)).count == 1
    events = [entry for shard in shards for _, entry in db.xrange(shard.events)]
    assert [event[b"q"] for event in events if event[b"t"] == b"queue.deleted"] == [b"mail"]
    await put(store)
    assert not (await queues.get_stats(store, QUEUE)).deleted
    consistent()


async def test_no_job_is_lost_when_producers_meet_a_deletion(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    stored: list[str] = []

    async def produce(process: Store) -> None:
        for _ in range(10):
            try:
                stored.append((await put(process)).id)
            except QueueDraining:
                continue

    async def delete() -> None:
        for _ in range(10):
            try:
                await lifecycle.delete_queue(store, QUEUE)
            except (Conflict, NotFound):
                for job in await take(store, count=5):
                    await ack(store, job)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, store)
        nursery.start_soon(produce, other_store)
        nursery.start_soon(delete)
    consistent()
    counts = (await queues.get_stats(store, QUEUE)).counts
    assert sum(counts.values()) == len(stored)


async def test_a_paused_queue_that_is_not_empty_stays_as_it_is(store: Store) -> None:
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await put(store, delay_until="+PT1H")
    with pytest.raises(Conflict):
        await lifecycle.delete_queue(store, QUEUE)
    stats = await queues.get_stats(store, QUEUE)
    assert (stats.paused, stats.draining_ms) == (True, None)


def before(store: Store, name: str, number: int, act: Callable[[], Awaitable[object]]) -> Store:
    """Return a store that calls ``act`` before the script's call with this number, from 0."""

    class Interrupting(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if script.name == name and self.calls.get(name, 0) == number:
                self.calls[name] = number + 1
                await act()
            return await super().script(slot, script, keys, args, **kind)

    return replace(store, redis=cast(Client, Interrupting(store.redis, lambda *_: False)))


async def test_a_refused_deletion_does_not_end_the_drain_of_an_operator(
    store: Store, other_store: Store
) -> None:
    await lifecycle.create_queue(store, QUEUE)

    async def drain() -> None:
        await put(other_store)
        await pauses.pause_or_resume(other_store, QUEUE, "drain")

    with pytest.raises(Conflict):
        await lifecycle.delete_queue(before(store, "pause_queue", 0, drain), QUEUE)
    assert (await queues.get_stats(store, QUEUE)).status == "draining"


async def test_a_drain_that_begins_during_a_refused_deletion_stays(
    store: Store, other_store: Store
) -> None:
    await lifecycle.create_queue(store, QUEUE)

    async def drain() -> None:
        await pauses.pause_or_resume(other_store, QUEUE, "drain")

    refused = before(before(store, "pause_queue", 1, drain), "pause_queue", 0, partial(put, store))
    with pytest.raises(Conflict):
        await lifecycle.delete_queue(refused, QUEUE)
    assert (await queues.get_stats(store, QUEUE)).status == "draining"


@pytest.mark.parametrize("how", ["resume", "drain"])
async def test_a_queue_that_is_changed_during_its_deletion_stays(
    store: Store, other_store: Store, how: pauses.QueueAction
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await depth_bounds.set_bound(store, QUEUE, 9)
    await change_defaults(store, QUEUE, {"default_timeout": 7})

    async def change() -> None:
        await pauses.pause_or_resume(other_store, QUEUE, how)

    with pytest.raises(Conflict, match="changed"):
        await lifecycle.delete_queue(before(store, "delete_queue", 0, change), QUEUE)
    assert await depth_bounds.get_bound(store, QUEUE) is not None
    assert not (await get_defaults(store, QUEUE)).empty
    status = (await queues.get_stats(store, QUEUE)).status
    assert status == ("active" if how == "resume" else "draining")


async def test_a_partition_that_was_resumed_keeps_its_settings(
    store: Store, other_store: Store, db: Any
) -> None:
    shards = await spread(store, db, 2)
    await lifecycle.create_queue(store, QUEUE, accept_existing=True)
    await depth_bounds.set_bound(store, QUEUE, 9)

    async def resume() -> None:
        await pauses.pause_or_resume(other_store, QUEUE, "resume")

    with pytest.raises(Conflict, match="changed"):
        await lifecycle.delete_queue(before(store, "delete_queue", 0, resume), QUEUE)
    assert all(db.hexists(shard.queue_counters(QUEUE), "bound") for shard in shards)


async def test_a_drain_that_could_not_begin_everywhere_is_ended(store: Store, db: Any) -> None:
    first, second = await spread(store, db, 2)
    await lifecycle.create_queue(store, QUEUE, accept_existing=True)
    with pytest.raises(BackendUnavailable):
        await drains.begin_drain(without(store, second), QUEUE, "token")
    assert not db.hexists(first.queue_counters(QUEUE), "draining")


@pytest.mark.parametrize("failing", ["mirror_flags", "_delete_in"])
async def test_a_deletion_whose_time_is_used_up_leaves_no_drain(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    module: Any = pauses if failing == "mirror_flags" else lifecycle

    async def hang(*_args: object) -> None:
        monkeypatch.undo()
        current_deadline().at = trio.current_time()
        raise BackendUnavailable("too slow", outcome="unknown")

    monkeypatch.setattr(module, failing, hang)
    start_deadline().at = trio.current_time() + 10
    with pytest.raises(BackendUnavailable):
        await lifecycle.delete_queue(store, QUEUE)
    start_deadline()
    assert (await queues.get_stats(store, QUEUE)).status == "active"
    assert not db.hexists(shard_of(store).queue_counters(QUEUE), "deleting")


@pytest.mark.parametrize("lost", ["queue", "meta"])
async def test_a_deletion_that_loses_redis_leaves_the_defaults(
    store: Store, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await change_defaults(store, QUEUE, {"default_timeout": 7})
    client = AbsentClient(store.redis, set())

    async def remove_and_lose(*args: Any) -> bool:
        removed = await remove_record(*args)
        client.slots.add(shard_of(store).slot if lost == "queue" else store.keys.meta.slot)
        if lost == "meta":
            raise BackendUnavailable("the reply was lost", outcome="unknown")
        return removed

    monkeypatch.setattr(lifecycle, "remove_record", remove_and_lose)
    with pytest.raises(BackendUnavailable):
        await lifecycle.delete_queue(replace(store, redis=cast(Client, client)), QUEUE)
    assert (await queues.get_stats(store, QUEUE)).status == "draining"
    await pauses.pause_or_resume(store, QUEUE, "resume")
    assert (await get_defaults(store, QUEUE)).default_timeout == 7


async def test_a_resume_during_a_deletion_neither_loses_nor_brings_back_defaults(
    store: Store, other_store: Store
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await change_defaults(store, QUEUE, {"default_timeout": 7})
    await drains.begin_drain(store, QUEUE, "first")

    async def resume() -> None:
        await pauses.pause_or_resume(other_store, QUEUE, "resume")

    async def die() -> None:
        raise BackendUnavailable("no answer", outcome="unknown")

    dying = before(before(store, "write_record", 0, resume), "delete_queue", 1, die)
    with pytest.raises(BackendUnavailable):
        await lifecycle.delete_drained(dying, QUEUE, "first")
    assert (await get_defaults(store, QUEUE)).default_timeout == 7

    await drains.begin_drain(store, QUEUE, "second")

    async def delete() -> None:
        await lifecycle._delete_in(other_store, shard_of(store), QUEUE, "second")

    async def resume_late() -> None:
        late = before(other_store, "pause_queue", 0, delete)
        await pauses.pause_or_resume(late, QUEUE, "resume")

    await lifecycle.delete_drained(before(store, "delete_queue", 1, resume_late), QUEUE, "second")
    assert (await get_defaults(store, QUEUE)).empty


async def test_the_slower_of_two_deletions_brings_no_defaults_back(
    store: Store, other_store: Store
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await change_defaults(store, QUEUE, {"default_timeout": 7})

    async def delete() -> None:
        await lifecycle.delete_queue(other_store, QUEUE)
        await put(other_store)

    with pytest.raises(Conflict):
        await lifecycle.delete_queue(before(store, "delete_queue", 1, delete), QUEUE)
    assert (await get_defaults(store, QUEUE)).empty


async def test_defaults_that_an_operator_removes_stay_removed(store: Store, db: Any) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await change_defaults(store, QUEUE, {"default_timeout": 7})
    await drains.begin_drain(store, QUEUE, "token")

    async def return_a_job() -> None:
        await enqueue(store, new_job(), ignore_depth_bound=True)

    returning = before(store, "write_record", 0, return_a_job)
    assert not await lifecycle.delete_drained(returning, QUEUE, "token")
    assert (await get_defaults(store, QUEUE)).default_timeout == 7
    await change_defaults(store, QUEUE, {"default_timeout": None})
    await drains.end_drain(store, QUEUE, "token")
    assert (await get_defaults(store, QUEUE)).empty


@pytest.mark.parametrize("deleted", [False, True])
async def test_defaults_of_an_earlier_deletion_are_not_restored(
    store: Store, db: Any, deleted: bool
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    key = shard_of(store).queue_counters(QUEUE)  # as an earlier version leaves it
    db.hset(key, "removed_defaults", b'token|{"default_timeout":7}')
    if deleted:
        db.hdel(key, "created")
    await pauses.pause_or_resume(store, QUEUE, "resume")
    assert (await get_defaults(store, QUEUE)).empty
    assert not db.hexists(key, "removed_defaults")


async def test_a_refused_deletion_ends_its_drain_after_lost_replies_and_a_crash(
    store: Store, db: Any
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await drains.begin_drain(store, QUEUE, "of a process that has died")
    deaf, _ = lossy(store, "pause_queue")

    async def put_anyway() -> None:
        await enqueue(store, new_job(), ignore_depth_bound=True)

    with pytest.raises(Conflict):
        await lifecycle.delete_queue(before(deaf, "pause_queue", 0, put_anyway), QUEUE)
    assert (await queues.get_stats(store, QUEUE)).status == "active"
    assert not db.hexists(shard_of(store).queue_counters(QUEUE), "deleting")


async def test_a_copied_field_does_not_bring_a_deleted_queue_back(
    store: Store, other_store: Store, db: Any
) -> None:
    shards = await spread(store, db, 3)
    await lifecycle.create_queue(store, QUEUE, accept_existing=True)
    await depth_bounds.set_bound(store, QUEUE, 9)

    async def mirror() -> None:  # as the janitor does, when only partition 0 is left
        await other_store.partitions.read(other_store)
        await depth_bounds.BOUND.mirror(other_store, QUEUE)

    await lifecycle.delete_queue(before(store, "delete_queue", 2, mirror), QUEUE)
    assert not any(db.hexists(shard.queue_counters(QUEUE), "created") for shard in shards)
    assert (await queues.get_stats(store, QUEUE)).deleted
