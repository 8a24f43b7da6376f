"""The default number of partitions grows: none is used without the settings of its queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable, QueueDraining, QueueFull, ValidationFailed
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS, PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis import Client, Reply
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.queues.default_growth import advance_growth
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    forget_closed_partitions,
    maintain_queue,
    set_partitions,
)
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground.process_state.partitions import DEFAULT, PartitionTable
from tests.store.hot_queues import close_empty, pass_time, put_into, spread
from tests.store.shortcuts import QUEUE, nack, new_job, put, take
from tests.support.failing_process import dies_at
from tests.support.lossy import LossyClient

LIMITS = RateLimits(concurrency=2)


def starting(store: Store, count: int) -> Store:
    """Return the store of a process that starts with ``OJS_QUEUE_PARTITIONS=count``."""
    settings = replace(store.settings, queue_partitions=count)
    return replace(store, settings=settings, partitions=PartitionTable())


async def start(store: Store, count: int) -> Store:
    """Let a process start; return its store."""
    process = starting(store, count)
    await process.partitions.publish_default(process)
    await store.partitions.read(store)
    return process


async def propagate(store: Store, db: Any) -> None:
    """Let all processes read the last change of the default."""
    await pass_time(store, db, PROPAGATION_MS, DEFAULT)


async def grow(store: Store, db: Any, count: int = 4) -> None:
    """Raise the default, and let the janitor finish."""
    await start(store, count)
    await propagate(store, db)
    while await advance_growth(store, 100):
        pass
    await propagate(store, db)


def sizes(store: Store, db: Any, count: int = 4, queue: str = QUEUE) -> list[int]:
    """Return the number of available jobs in each partition."""
    shards = store.keys.partitions(queue, count)
    return [db.zcard(shard.queue_available(queue)) for shard in shards]


def field(store: Store, db: Any, name: str, count: int = 4) -> list[bytes | None]:
    """Return a field of the queue's hash in each partition."""
    shards = store.keys.partitions(QUEUE, count)
    return [db.hget(shard.queue_counters(QUEUE), name) for shard in shards]


async def put_many(store: Store) -> None:
    """Enqueue jobs that go to all partitions which producers use."""
    await enqueue_many(store, [new_job() for _ in range(400)])


async def test_a_paused_queue_is_paused_in_the_partitions_of_a_new_default(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)
    await pauses.pause_or_resume(store, QUEUE, "pause")

    process = await start(store, 4)
    await propagate(store, db)
    await process.partitions.read(process)
    for of in (process, store, other_store):
        await put_many(of)
    assert sizes(store, db) == [1201, 0, 0, 0], "no partition is used before the janitor's round"
    assert await take(process, count=9) == []

    await grow(store, db)
    await process.partitions.read(process)
    await put_many(process)
    assert sizes(store, db) == [1301, 100, 100, 100]
    assert await take(process, count=9) == []


async def test_a_draining_queue_takes_no_jobs_in_the_partitions_of_a_new_default(
    store: Store, db: Any
) -> None:
    await put(store)
    await pauses.pause_or_resume(store, QUEUE, "drain")
    await grow(store, db)
    for _ in range(20):
        with pytest.raises(QueueDraining):
            await put(store)


async def test_a_bound_holds_in_the_partitions_of_a_new_default(store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, 8)
    await put(store)
    await grow(store, db)
    for _ in range(200):
        with suppress(QueueFull):
            await put(store)
    assert sizes(store, db) == [2] * 4


async def test_jobs_in_the_partitions_of_a_new_default_become_dead_letters(
    store: Store, db: Any
) -> None:
    await exhaustion.set_on_exhaustion(store, QUEUE, "dead_letter")
    await put(store)
    await grow(store, db)
    for shard in store.keys.partitions(QUEUE, 4):
        await put_into(store, shard, max_attempts=1)
    jobs = await take(store, count=9)
    assert len(jobs) == 5
    for job in jobs[1:]:
        await nack(store, job)
    dead = [db.zcard(s.queue_dead(QUEUE)) for s in store.keys.partitions(QUEUE, 4)]
    assert sum(dead) >= 3


async def test_a_fair_share_holds_in_the_partitions_of_a_new_default(store: Store, db: Any) -> None:
    await fair_share.set_fair_share(store, QUEUE, on=True)
    await grow(store, db)
    assert field(store, db, "fair") == [b"1"] * 4


async def test_a_queue_with_limits_keeps_its_number_when_the_default_grows(
    store: Store, db: Any
) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, LIMITS)
    await put(store)
    await grow(store, db)
    await put_many(store)

    assert store.partitions.layout("another").count == 4
    assert sizes(store, db) == [401, 0, 0, 0]
    assert len(await take(store, count=9)) == 2


async def test_a_queue_without_limits_gets_the_default_again(store: Store, db: Any) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, LIMITS)
    await grow(store, db)
    await maintain_queue(store, QUEUE)
    assert store.partitions.layout(QUEUE).count == 1

    await rate_limits.clear_queue_limits(store, QUEUE)
    await maintain_queue(store, QUEUE)
    await pass_time(store, db, PROPAGATION_MS)
    await maintain_queue(store, QUEUE)
    assert store.partitions.layout(QUEUE) == PartitionLayout.of_count(4) or (
        store.partitions.layout(QUEUE).count == 4
    )
    assert set(store.partitions.entries()) == {DEFAULT}


async def test_a_number_that_an_operator_sets_for_a_queue_with_limits_stays(
    store: Store, db: Any
) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, LIMITS)
    await grow(store, db)
    await set_partitions(store, QUEUE, 1)
    await rate_limits.clear_queue_limits(store, QUEUE)
    await maintain_queue(store, QUEUE)
    assert store.partitions.layout(QUEUE).count == 1


Change = Callable[[Store, str], Awaitable[object]]


@pytest.mark.parametrize("known", [False, True], ids=["stale", "fresh"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (partial(pauses.pause_or_resume, action="pause"), "paused"),
        (partial(depth_bounds.set_bound, bound=8), "bound"),
        (partial(exhaustion.set_on_exhaustion, decision="dead_letter"), "on_exhaustion"),
        (partial(fair_share.set_fair_share, on=True), "fair"),
    ],
    ids=["pause", "bound", "on_exhaustion", "fair"],
)
async def test_a_setting_that_changes_while_more_partitions_are_announced_reaches_them(
    store: Store, other_store: Store, db: Any, change: Change, name: str, known: bool
) -> None:
    await put(store)
    await start(store, 4)
    if known:
        await other_store.partitions.read(other_store)
    await change(other_store, QUEUE)
    found = field(store, db, name)
    assert None not in found
    assert len(set(found)) == 1 or name == "paused"
    await store.partitions.read(store)
    assert not store.partitions.has_entry(QUEUE), "its copies open no partition"


async def test_limits_that_are_set_while_more_partitions_are_announced_hold(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)
    await put(store, "zz")
    await start(store, 4)
    await propagate(store, db)
    assert await advance_growth(store, 1), "the round has already passed the queue"
    await rate_limits.set_queue_limits(other_store, QUEUE, LIMITS)
    while await advance_growth(store, 1):
        pass
    await propagate(store, db)
    assert store.partitions.layout("zz").count == 4
    await put_many(store)
    assert sizes(store, db) == [401, 0, 0, 0]
    assert len(await take(store, count=9)) == 2


async def test_limits_that_are_written_while_a_higher_default_is_announced_hold(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)
    await put(store, "zz")
    await other_store.partitions.read(other_store)

    class Slow(LossyClient):
        is_announced = False

        async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Reply:
            if script.name == "limit_queue" and not self.is_announced:
                self.is_announced = True
                await start(store, 4)
                await propagate(store, db)
                assert await advance_growth(store, 1), "the round has passed the queue"
            return await super().script(slot, script, *args, **kind)

    slow = cast(Client, Slow(other_store.redis, lambda *_: False))
    await rate_limits.set_queue_limits(replace(other_store, redis=slow), QUEUE, LIMITS)
    while await advance_growth(store, 1):
        pass
    assert store.partitions.default.count == 4
    assert store.partitions.layout(QUEUE).count == 1


async def test_a_growth_that_waits_for_a_master_is_logged_once(
    store: Store, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await put(store)
    await start(store, 4)
    await propagate(store, db)

    class Away(LossyClient):
        async def call(self, slot: int, command: Any, *args: Any, **kind: Any) -> Reply:
            if command == "HMGET":
                raise BackendUnavailable("no connection", outcome="not_applied")
            return await self._client.call(slot, command, *args, **kind)

    waiting = replace(store, redis=cast(Client, Away(store.redis, lambda *_: False)))
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await advance_growth(waiting, 100)
    assert caplog.text.count("no connection") == 1
    assert not await advance_growth(store, 100)
    assert store.partitions.default.count == 4


async def test_limits_that_are_set_before_the_growth_is_read_do_not_last(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)
    await other_store.partitions.read(other_store)
    await grow(store, db)
    with pytest.raises(ValidationFailed):
        await rate_limits.set_queue_limits(other_store, QUEUE, LIMITS)


async def test_processes_with_both_numbers_side_by_side_use_no_partition_too_early(
    store: Store, db: Any
) -> None:
    await put(store)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    old, new = await start(store, 1), await start(store, 4)
    await propagate(store, db)
    restarted = await start(store, 1)
    assert not await advance_growth(store, 100)
    assert store.partitions.default.count == 1, "the process that started last decides"
    again = await start(store, 4)
    assert not await advance_growth(store, 100)
    for process in (old, new, restarted, again):
        await process.partitions.read(process)
        await put_many(process)
        assert await take(process, count=9) == []
    assert sizes(store, db) == [1601, 0, 0, 0]

    await grow(store, db)
    for process in (old, new, restarted, again):
        await process.partitions.read(process)
        await put_many(process)
        assert await take(process, count=9) == []
    assert sizes(store, db) == [2001, 400, 400, 400]


async def test_an_earlier_version_uses_no_announced_partition(store: Store, db: Any) -> None:
    await put(store)
    await start(store, 4)
    entry = db.hget(store.keys.meta.partitions, DEFAULT)
    count, previous, opened, occupied, at_ms = map(int, entry.split())
    assert (count, opened, occupied) == (1, 1, 4)
    assert min(count, previous) == 1, "what its producers use in the first ten seconds"
    assert at_ms > 0


async def test_a_default_that_was_lowered_and_raised_again_uses_the_open_partitions(
    store: Store, db: Any
) -> None:
    await grow(store, db)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await start(store, 1)
    assert store.partitions.layout(QUEUE).count == 1
    await start(store, 4)
    layout = store.partitions.layout(QUEUE)
    assert (layout.count, layout.open_count, layout.is_announced) == (4, 4, False)
    assert None not in field(store, db, "paused")


async def test_a_queue_that_gets_the_default_number_during_the_growth_uses_no_partition_too_early(
    store: Store, db: Any
) -> None:
    await put(store)
    await spread(store, db, 2)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await start(store, 4)
    await propagate(store, db)
    assert await advance_growth(store, 1), "the round has passed the queue with its entry"
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    if store.partitions.has_entry(QUEUE):
        await pass_time(store, db, DRAIN_MS)
    await maintain_queue(store, QUEUE)
    await grow(store, db)

    await put_many(store)
    assert await take(store, count=9) == []
    assert sizes(store, db) == [401, 0, 0, 0]
    assert store.partitions.layout("another").count == 4


async def test_a_queue_follows_a_lowered_default_only_after_old_partitions_have_closed(
    store: Store, db: Any
) -> None:
    await put(store)
    await spread(store, db, 2)
    await set_partitions(store, QUEUE, 1)
    await store.partitions.update(store, DEFAULT, lambda *_: PartitionLayout.of_count(4))
    await close_empty(store, db)
    await forget_closed_partitions(store, QUEUE)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await start(store, 1)
    await maintain_queue(store, QUEUE)

    await start(store, 4)  # uses its open partitions at once
    await propagate(store, db)
    await put_many(store)
    assert await take(store, count=9) == []


async def test_a_retired_queue_gets_no_entry_while_more_partitions_are_announced(
    store: Store, db: Any
) -> None:
    await put(store)
    await start(store, 4)
    await propagate(store, db)
    await forget_closed_partitions(store, QUEUE)
    await maintain_queue(store, QUEUE)
    assert set(store.partitions.entries()) == {DEFAULT}


async def test_a_scheduler_may_die_at_any_command_of_the_growth(store: Store, db: Any) -> None:
    at, died = 0, True
    while died:
        at += 1
        for applied in (False, True):
            await store.partitions.update(
                store, DEFAULT, lambda *_: replace(PartitionLayout.of_count(1), occupied_count=4)
            )
            db.delete(store.keys.meta.queues)  # the round has the queues of this try only
            paused, limited = f"paused{at}.{applied:d}", f"limited{at}.{applied:d}"
            await put(store, paused)
            await pauses.pause_or_resume(store, paused, "pause")
            await put(store, limited)
            await rate_limits.set_queue_limits(store, limited, LIMITS)
            await start(store, 4)
            await propagate(store, db)
            died = await dies_at(store, at, applied, partial(advance_growth, limit=1000))
            await store.partitions.read(store)
            if store.partitions.default.count == 1:
                await advance_growth(store, 1000)
            assert store.partitions.default.count == 4
            assert store.partitions.layout(limited).count == 1
            for shard in store.keys.partitions(paused, 4):
                assert db.hexists(shard.queue_counters(paused), "paused")
    assert at > 10


async def test_a_partition_that_opens_for_a_late_job_has_the_settings_of_its_queue(
    store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4)
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    await forget_closed_partitions(store, QUEUE)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    assert store.partitions.layout(QUEUE).occupied_count == 1

    at, died = 0, True
    while died:
        at += 1
        died = await dies_at(store, at, False, lambda dead: ensure_open(dead, shards[3], [QUEUE]))
        await store.partitions.read(store)
        is_open = store.partitions.layout(QUEUE).open_count == 4
        assert not is_open or None not in field(store, db, "paused")
    assert store.partitions.layout(QUEUE).open_count == 4
    await advance_changes(store)
