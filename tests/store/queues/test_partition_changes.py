"""A queue gets more or fewer partitions: no job is lost, even if a process dies or reads late."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core import partitions as stages
from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS, PartitionLayout
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis import Client, Reply
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    get_partitions,
    set_partitions,
)
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.ground.process_state import partitions
from ojs_cluster.store.ground.process_state.partitions import DEFAULT
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations import admin
from tests.store.hot_queues import close_empty, pass_time, put_into, spread
from tests.store.shortcuts import DAY, HOUR, QUEUE, ack, nack, new_job, put, take, until
from tests.store.workflow_jobs import chain, run_one, state_of, step
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_job, age_queue

Check = Callable[[], InvariantReport]


def sizes(store: Store, db: Any, count: int, queue: str = QUEUE) -> list[int]:
    """Available jobs in each partition."""
    shards = store.keys.partitions(queue, count)
    return [db.zcard(shard.queue_available(queue)) for shard in shards]


async def test_processes_drop_a_change_that_a_failover_has_lost(
    store: Store, other_store: Store, db: Any
) -> None:
    table = store.keys.meta.partitions
    await spread(store, db, 2, "other")
    before = db.hgetall(table)
    await set_partitions(store, QUEUE, 4)
    db.delete(table)
    db.hset(table, mapping=before)

    for process in (store, other_store):
        assert (await get_partitions(process, QUEUE)).count == 1
    with trio.fail_after(60):
        assert (await set_partitions(store, QUEUE, 3)).count == 3
    assert (await get_partitions(other_store, QUEUE)).count == 3


async def test_a_late_reply_does_not_undo_a_newer_one(store: Store, other_store: Store) -> None:
    answered, release = trio.Event(), trio.Event()

    class Late(LossyClient):
        async def script(self, *args: Any, **kind: Any) -> Reply:
            reply = await super().script(*args, **kind)
            answered.set()
            await release.wait()
            return reply

    slow = replace(store, redis=cast(Client, Late(store.redis, lambda *_: False)))
    await set_partitions(other_store, QUEUE, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.partitions.read, slow)
        await answered.wait()
        await set_partitions(other_store, QUEUE, 4)
        await store.partitions.read(store)
        release.set()

    assert store.partitions.layout(QUEUE).count == 4


async def test_new_partitions_are_used_when_every_process_has_read_the_change(
    store: Store, other_store: Store, db: Any
) -> None:
    await set_partitions(store, QUEUE, 4)
    await enqueue_many(store, [new_job() for _ in range(400)])
    assert sizes(store, db, 4) == [400, 0, 0, 0]

    await pass_time(store, db, PROPAGATION_MS)
    await other_store.partitions.read(other_store)
    await enqueue_many(other_store, [new_job() for _ in range(400)])

    assert sorted(sizes(store, db, 4)) == [100, 100, 100, 500]
    assert len(await take(store, count=800)) == 800


async def test_old_partitions_get_no_new_jobs_and_are_closed_when_empty(
    store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 8)
    for shard in shards:
        await put_into(store, shard)
    await set_partitions(store, QUEUE, 1)
    for _ in range(20):
        await put(store)

    await close_empty(store, db)
    assert (await get_partitions(store, QUEUE)).open_count == 8, "there are jobs in all of them"
    got = await take(store, count=28)
    assert len(got) == 28
    await close_empty(store, db)
    assert (await get_partitions(store, QUEUE)).open_count == 8, "workers may give them back"
    for job in got:
        await ack(store, job)
    await close_empty(store, db)

    layout = await get_partitions(store, QUEUE)
    assert (layout.count, layout.open_count, layout.occupied_count) == (1, 1, 8)
    assert consistent().count() == {"completed": 28}


@pytest.mark.parametrize("state", ["scheduled", "pending", "retryable", "active"])
async def test_a_partition_stays_open_while_a_job_may_return_to_it(
    store: Store, db: Any, consistent: Check, state: str
) -> None:
    shard = (await spread(store, db, 8))[5]
    options: dict[str, Any] = {
        "scheduled": {"scheduled_at": "+PT1H"},
        "pending": {"pending": True},
    }
    await put_into(store, shard, **options.get(state, {}))
    if state in ("retryable", "active"):
        [job] = await take(store)
        if state == "retryable":
            await nack(store, job)
    await set_partitions(store, QUEUE, 2)
    await close_empty(store, db)

    assert (await get_partitions(store, QUEUE)).open_count == 6
    assert consistent().count() == {state: 1}


async def test_a_partition_is_not_closed_before_the_last_producer_has_read_the_change(
    store: Store, db: Any
) -> None:
    await spread(store, db, 8)
    await set_partitions(store, QUEUE, 1)
    await advance_changes(store)
    assert (await get_partitions(store, QUEUE)).open_count == 8
    await pass_time(store, db, DRAIN_MS)
    await advance_changes(store)
    assert (await get_partitions(store, QUEUE)).open_count == 1


async def test_a_late_job_in_a_closed_partition_is_found(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    """Its producer was suspended between reading the table and writing the job."""
    shard = (await spread(store, db, 8))[6]
    await other_store.partitions.read(other_store)
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    job = await put_into(other_store, shard)
    assert await take(store) == []

    await advance_changes(store)

    assert [found.id for found in await take(store)] == [job.id]
    await ack(store, job)
    await close_empty(store, db)
    assert (await get_partitions(store, QUEUE)).open_count == 1
    consistent()


async def test_a_late_job_is_found_by_the_rounds_over_all_queues_too(
    store: Store, other_store: Store, db: Any
) -> None:
    shard = (await spread(store, db, 8))[6]
    await other_store.partitions.read(other_store)
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    await pass_time(store, db, DAY - HOUR)
    job = await put_into(other_store, shard)
    assert await advance_changes(store) == 0

    await retention.retire_queues(store)

    assert [found.id for found in await take(store)] == [job.id]


async def test_a_dead_letter_of_a_closed_partition_can_be_retried(
    store: Store, db: Any, consistent: Check
) -> None:
    shard = (await spread(store, db, 8))[7]
    retry: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    for _ in range(2):
        await put_into(store, shard, **retry)
    for job in await take(store, count=2):
        await nack(store, job)
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    assert (await get_partitions(store, QUEUE)).open_count == 1
    [first, second], total, _ = await dead_letters.list_dead_letters(store, queue=QUEUE, limit=5)
    assert total == 2

    await dead_letters.retry(store, first.id)
    await dead_letters.delete(store, second.id)

    assert [job.id for job in await take(store)] == [first.id]
    assert consistent().count() == {"active": 1}


async def test_a_step_whose_id_names_a_closed_partition_is_run(
    store: Store, db: Any, consistent: Check
) -> None:
    await spread(store, db, 16)
    made = await chain(store, *(step(f"s{number}") for number in range(8)))
    await run_one(store)
    await set_partitions(store, QUEUE, 1)
    for number in range(1, 8):
        if number % 2:  # the step after it is found before the janitor looks again
            await close_empty(store, db)
        assert await run_one(store) == f"s{number}"

    assert await state_of(store, made) == "completed"
    await close_empty(store, db)
    assert (await get_partitions(store, QUEUE)).open_count == 1
    consistent()


async def test_growing_and_shrinking_under_traffic_loses_nothing(
    store: Store,
    other_store: Store,
    db: Any,
    consistent: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The same stages, faster; each is still much longer than the one it must outlast.
    monkeypatch.setattr(stages, "PROPAGATION_MS", 1500)
    monkeypatch.setattr(stages, "DRAIN_MS", 2500)
    monkeypatch.setattr(partitions, "REFRESH_S", 0.1)
    monkeypatch.setattr(partitions, "MAX_AGE_S", 0.3)
    both = (store, other_store)
    wanted: list[str] = []
    got: list[str] = []
    used: set[int] = set()
    producing = True

    async def produce(of: Store, number: int) -> None:
        while producing:
            if number % 2:
                made = await enqueue_many(of, [new_job() for _ in range(3)])
            else:
                made = [await put(of)]
            wanted.extend(job.id for job in made)
            shards = {of.keys.shard_of_id(job.id) for job in made}
            used.update(of.keys.partition_of(QUEUE, shard) for shard in shards)
            await trio.sleep(0.005)

    async def work(of: Store) -> None:
        while producing or len(got) < len(wanted):
            found = await take(of, count=5)
            for job in found:
                await ack(of, job)
                got.append(job.id)
            if not found:
                await trio.sleep(0.01)

    async def janitor() -> None:
        while True:
            await advance_changes(other_store)
            await trio.sleep(0.05)

    async def partitions_used() -> int:
        return len(used)

    async def partitions_open() -> int:
        return (await get_partitions(store, QUEUE)).open_count

    with trio.fail_after(300):
        async with trio.open_nursery() as maintenance:
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(produce, both[number % 2], number)
                    nursery.start_soon(work, both[number % 2])
                await set_partitions(store, QUEUE, 8)
                maintenance.start_soon(janitor)
                await until(partitions_used, lambda used: used == 8, timeout_s=120)
                await set_partitions(other_store, QUEUE, 1)
                await until(partitions_open, lambda count: count == 1, timeout_s=120)
                producing = False
            # A late job may have opened a partition again.
            await until(partitions_open, lambda count: count == 1)
            maintenance.cancel_scope.cancel()

    assert Counter(got) == Counter(wanted)
    assert consistent().count() == {"completed": len(wanted)}
    layout = await get_partitions(store, QUEUE)
    assert (layout.count, layout.open_count) == (1, 1)
    assert await take(store) == []


@pytest.mark.parametrize("paused", [False, True])
async def test_a_process_may_die_at_any_command_of_a_change(
    store: Store, db: Any, consistent: Check, paused: bool
) -> None:
    at, died = 0, True
    while died:
        at += 1
        for applied in (False, True):
            queue = f"q{at}.{applied:d}"
            await pauses.pause_or_resume(store, queue, "pause" if paused else "resume")
            change = partial(set_partitions, queue=queue, count=4)
            died = await dies_at(store, at, applied, change)
            await advance_changes(store)  # the janitor, before producers use them
            consistent()
            assert (await get_partitions(store, queue)).count in ((1, 4) if died else (4,))
            assert (await queues.get_stats(store, queue)).paused is paused
    assert at > 3


async def test_a_janitor_may_die_at_any_command(store: Store, db: Any, consistent: Check) -> None:
    at, died = 0, True
    while died:
        at += 1
        for applied in (False, True):
            await spread(store, db, 4)
            for _ in range(6):
                await put(store)
            await set_partitions(store, QUEUE, 2)
            for job in await take(store, count=6):
                await ack(store, job)
            await pass_time(store, db, DRAIN_MS)
            died = await dies_at(store, at, applied, advance_changes)
            assert (await get_partitions(store, QUEUE)).open_count in (2, 4)
            await close_empty(store, db)
            assert (await get_partitions(store, QUEUE)).open_count == 2
    consistent()
    assert at > 3


async def test_two_leaders_and_many_changes_at_once_leave_one_layout(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    chance = random.Random(5)
    both = (store, other_store)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for of in both:
                nursery.start_soon(set_partitions, of, QUEUE, chance.randint(1, 8))
                nursery.start_soon(advance_changes, of)
                switch = pauses.pause_or_resume
                nursery.start_soon(
                    switch, of, QUEUE, "pause" if chance.random() < 0.5 else "resume"
                )
        consistent()
        layouts = [await get_partitions(of, QUEUE) for of in both]
        assert layouts[0] == layouts[1]
        layout = layouts[0]
        assert layout.occupied_count == layout.open_count >= layout.count


async def test_a_paused_queue_stays_paused_in_new_partitions(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    await pauses.pause_or_resume(store, QUEUE, "pause")
    shards = await spread(store, db, 8)
    for shard in shards:
        await put_into(store, shard)
    assert await take(store, count=8) == []
    assert await take(other_store, count=8) == []
    consistent()

    await pauses.pause_or_resume(other_store, QUEUE, "resume")  # it has not read of the change
    assert len(await take(store, count=8)) == 8
    consistent()


async def test_the_default_holds_for_all_queues_and_can_be_changed(
    backend: Embedded, db: Any, consistent: Check
) -> None:
    settings = patient_client(backend)
    four, two = StoreSettings(queue_partitions=4), StoreSettings(queue_partitions=2)
    async with open_store(settings, four, prelude=PRELUDE) as store:
        await store.partitions.publish_default(store)
        await enqueue_many(store, [new_job() for _ in range(400)])
        assert sizes(store, db, 4) == [100] * 4, "no process has to be waited for"
        await set_partitions(store, "own", 1)
        async with open_store(settings, two, prelude=PRELUDE) as other:
            assert other.partitions.layout(QUEUE).count == 4, "it did not announce it"
            await other.partitions.publish_default(other)
            await store.partitions.read(store)
            for of in (store, other):
                assert of.partitions.layout(QUEUE).count == 2
                assert of.partitions.layout("own").count == 1
            await enqueue_many(other, [new_job() for _ in range(200)])
            assert sorted(sizes(store, db, 4)) == [100, 100, 200, 200]
            assert len(await take(other, count=600)) == 600
    async with open_store(settings, prelude=PRELUDE) as store:
        await store.partitions.publish_default(store)
        assert store.partitions.layout(QUEUE).count == 1
        assert store.partitions.layout(QUEUE).open_count == 4, "jobs may be left there"
    consistent()


async def lowered(store: Store, db: Any) -> None:
    """``OJS_QUEUE_PARTITIONS`` was 4, and became 2 a while ago."""
    await store.partitions.update(store, DEFAULT, lambda old, now_ms: PartitionLayout.of_count(4))
    for queue in ("busy", "idle"):
        for shard in store.keys.partitions(queue, 4):
            await put_into(store, shard, queue)
        for job in await take(store, queue, count=4):
            await ack(store, job)
    await put_into(store, store.keys.partitions("busy", 4)[3], "busy")
    await store.partitions.update(store, DEFAULT, lambda old, now_ms: old.resized(2, now_ms))
    await pass_time(store, db, DRAIN_MS, DEFAULT)


async def test_a_lowered_default_is_drained_by_a_round_over_all_queues(
    store: Store, db: Any, consistent: Check
) -> None:
    await lowered(store, db)

    _, cursor = await retention.retire_queues(store, limit=1)
    assert store.partitions.layout("idle").open_count == 4, "not all queues have been checked"
    while cursor:
        _, cursor = await retention.retire_queues(store, cursor, limit=1)

    await store.partitions.read(store)
    assert store.partitions.layout("busy").open_count == 4
    assert store.partitions.layout("idle").open_count == 2
    assert store.partitions.layout("new").open_count == 2
    await rate_limits.set_queue_limits(store, "idle", RateLimits(concurrency=2))
    with pytest.raises(ValidationFailed, match="draining"):
        await rate_limits.set_queue_limits(store, "busy", RateLimits(concurrency=2))
    consistent()

    for job in await take(store, "busy", count=9):
        await ack(store, job)
    await close_empty(store, db, "busy")
    await rate_limits.set_queue_limits(store, "busy", RateLimits(concurrency=2))
    assert set(store.partitions.entries()) == {DEFAULT}, "what says no more is not kept"


async def test_a_late_job_in_a_partition_that_the_default_has_closed_is_found(
    store: Store, other_store: Store, db: Any
) -> None:
    await lowered(store, db)
    await other_store.partitions.read(other_store)
    await retention.retire_queues(store)
    assert (await get_partitions(store, "idle")).open_count == 2
    late = await put_into(other_store, store.keys.partitions("idle", 4)[3], "idle")

    await retention.retire_queues(store)

    assert [job.id for job in await take(store, "idle")] == [late.id]


async def test_a_round_that_began_too_early_or_before_another_change_drains_no_default(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lowered(store, db)
    late = store.partitions.now_ms()
    with monkeypatch.context() as clock:
        clock.setattr(store.partitions, "now_ms", lambda: late - DRAIN_MS)
        _, cursor = await retention.retire_queues(store, limit=1)
    await retention.retire_queues(store, cursor)
    assert (await get_partitions(store, "idle")).open_count == 4

    _, cursor = await retention.retire_queues(store, limit=1)
    await store.partitions.update(store, DEFAULT, lambda old, now_ms: old.resized(1, now_ms))
    await pass_time(store, db, DRAIN_MS, DEFAULT)
    await retention.retire_queues(store, cursor)
    assert (await get_partitions(store, "idle")).open_count == 4


async def test_the_default_is_published_again_after_a_reset(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "REFRESH_S", 0.0)
    settings = patient_client(backend)
    async with open_store(settings, StoreSettings(queue_partitions=4), prelude=PRELUDE) as store:
        await store.partitions.publish_default(store)
        await admin.reset(store)
        await store.partitions.refresh_if_stale(store)
        assert store.partitions.layout(QUEUE) == PartitionLayout.of_count(4)


async def test_an_idle_queue_is_retired_and_its_number_of_partitions_kept(
    store: Store, db: Any
) -> None:
    for queue, after in (("kept", 8), ("gone", 1)):
        shards = await spread(store, db, 8, queue)
        for shard in shards:
            job = await put_into(store, shard, queue)
            await ack(store, (await take(store, queue))[0])
            age_job(db, shard, job.id, 8 * DAY)
        await set_partitions(store, queue, after)
        await close_empty(store, db, queue)
        for shard in shards:
            age_queue(db, shard, queue, 2 * HOUR)
    assert await retention.retire_queues(store) == (0, ""), "their jobs are still kept"
    for shard in store.keys:
        await retention.purge_due(store, shard, 100)

    assert (await retention.retire_queues(store))[0] == 2
    await store.partitions.read(store)
    [(queue, layout)] = store.partitions.entries().items()
    assert (queue, layout.count, layout.open_count, layout.occupied_count) == ("kept", 8, 8, 8)
    assert (await queues.list_queues(store, limit=9))[1] == 0


async def test_invalid_numbers_of_partitions_are_refused(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (0, -1, 65):
        with pytest.raises(InvalidRequest, match="from 1 to 64"):
            await set_partitions(store, QUEUE, count)
    await set_partitions(store, QUEUE, 1)
    assert not db.exists(store.keys.meta.partitions)
    monkeypatch.setattr(partitions, "MAX_ENTRIES", 2)
    await set_partitions(store, "a", 2)
    await set_partitions(store, "b", 64)
    await set_partitions(store, "a", 3)
