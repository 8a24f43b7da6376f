"""Which events become deliveries, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.retention import lifecycle, retention
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.counts import read_counts
from ojs_cluster.store.features.webhooks.deliveries import Delivery, DeliveryState, Outcome
from ojs_cluster.store.ground.process_state import rejections, subscriptions
from ojs_cluster.store.operators.operations.metrics import collect
from ojs_cluster.store.operators.pressure.pressure import check_pressure
from tests.store.cron.test_cron import definition, fire
from tests.store.shortcuts import (
    DAY,
    QUEUE,
    ack,
    active,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.store.tenants.shortcuts import limit
from tests.store.webhook_jobs import subscribe
from tests.store.workflow_jobs import chain, drain_all, run_one, step
from tests.support.timeshift import age_job


async def pending(store: Store, subscription_id: str) -> list[Delivery]:
    """Return the pending deliveries of a subscription, oldest first."""
    found = await deliveries.list_newest(
        store, limit=1000, states=("pending",), subscription_id=subscription_id
    )
    return found[::-1]


async def kinds(store: Store, subscription_id: str) -> list[str]:
    return [each.kind for each in await pending(store, subscription_id)]


async def test_every_event_of_a_life_becomes_a_delivery(store: Store) -> None:
    made = await subscribe(store)
    await store.webhooks.read(store)
    await nack(store, await active(store, retry={"max_attempts": 2}))
    scheduled = await put(store, scheduled_at="+PT1H")
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await pauses.pause_or_resume(store, QUEUE, "resume")
    jobs = await enqueue_many(store, [new_job("many") for _ in range(40)])
    taken = await take(store, "many", count=40)
    await ack_many(store, [Ack(job.id, None, None) for job in taken], worker_id="w1")

    events = await read_events(store, EventFilter(), limit=1000)
    wanted = {json.loads(each)["id"]: json.loads(each) for each in events.events}
    found = await pending(store, made.id)
    bodies = {each.body(): each for each in found}
    got = {json.loads(body)["id"]: json.loads(body) for body in bodies}
    assert got == wanted
    assert len(got) == len(found) >= 120
    assert {each.id for each in found if each.attempts} == set()
    assert len({each.id for each in found}) == len(found)
    assert scheduled.id in {event["subject"] for event in got.values()}
    assert {job.id for job in jobs} <= {event["subject"] for event in got.values()}


async def test_events_without_a_job_become_deliveries(store: Store) -> None:
    """A script that failed after its first write would leave half of a change."""
    made = await subscribe(store)
    await store.webhooks.read(store)
    await lifecycle.create_queue(store, "made")
    await lifecycle.delete_queue(store, "made")
    await limit(store, "acme", max_queue_depth=5)
    await depth_bounds.set_bound(store, "full", DepthBound(1, threshold=0.5))
    await put(store, "full")
    await check_pressure(store, "full")
    assert await rejections.append(store, store.events_arg, "full", "a.b", 1, 1)
    await pauses.pause_or_resume(store, "full", "pause")
    await pauses.pause_or_resume(store, "full", "resume")

    events = await read_events(store, EventFilter(), limit=1000)
    wanted = sorted((json.loads(each) for each in events.events), key=lambda each: each["id"])
    found = [json.loads(each.body()) for each in await pending(store, made.id)]
    assert sorted(found, key=lambda each: each["id"]) == wanted
    assert {each["type"] for each in found} == {
        *("queue.created", "queue.deleted", "queue.paused", "queue.resumed", "tenant.created"),
        *("backpressure.warning", "backpressure.rejected", "job.enqueued"),
    }


async def test_only_selected_events_become_deliveries(store: Store) -> None:
    by_type = await subscribe(store, "job.completed", "job.started")
    by_queue = await subscribe(store, "job.*", queues=("payments",))
    by_job_type = await subscribe(store, "*", job_types=("other.type",))
    paused = await subscribe(store, "*", active=False)
    await store.webhooks.read(store)
    for queue in ("payments", "mail"):
        await ack(store, await active(store, queue))
    assert await kinds(store, by_type.id) == ["job.started", "job.completed"] * 2
    assert await kinds(store, by_queue.id) == ["job.enqueued", "job.started", "job.completed"]
    assert await kinds(store, by_job_type.id) == []
    assert await kinds(store, paused.id) == []


@pytest.mark.parametrize("event", ["job.enqueued", "job.started", "job.completed"])
async def test_the_event_of_a_fast_path_becomes_a_delivery(store: Store, event: str) -> None:
    await ack(store, await active(store))  # the queue exists, so that fast paths can be taken
    made = await subscribe(store, event)
    await store.webhooks.read(store)
    await ack(store, await active(store))
    [found] = await pending(store, made.id)
    assert found.kind == event


async def test_failures_in_a_row_are_counted_over_all_shards(store: Store) -> None:
    """A shard knows its own deliveries only: a success in another one ends the row as well."""
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    here, there = queues_in_other_shards(store, 2)

    async def attempt(queue: str, status: int) -> tuple[int, int, int]:
        await put(store, queue)
        shard = store.keys.shard_of_queue(queue)
        [due] = (await deliveries.next_due(store, shard, made.id, 1)).deliveries
        outcome: Outcome = "delivered" if status == 200 else "dead"
        await deliveries.record(store, shard, made.id, due.number, outcome, status=status)
        await trio.sleep(0.002)  # another millisecond: the order of attempts is by time
        counts = (await read_counts(store))[made.id]
        return counts.failed, counts.failures_in_row, counts.failing_since_ms

    assert (await attempt(here, 200))[:2] == (0, 0)
    assert (await attempt(here, 500))[:2] == (1, 1)
    *counted, since_ms = await attempt(there, 500)
    assert counted == [2, 2]
    assert await attempt(here, 500) == (3, 3, since_ms), "since the first of them"
    assert await attempt(there, 200) == (3, 0, 0)
    assert (await attempt(there, 500))[:2] == (4, 1)


async def test_failures_after_a_success_in_another_shard_are_counted(store: Store) -> None:
    """The row of a shard ends by its own success only, so the count may be too high."""
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    here, there = queues_in_other_shards(store, 2)
    for queue, status in ((here, 500), (there, 200), (here, 500), (here, 500), (here, 500)):
        await put(store, queue)
        shard = store.keys.shard_of_queue(queue)
        [due] = (await deliveries.next_due(store, shard, made.id, 1)).deliveries
        outcome: Outcome = "delivered" if status == 200 else "dead"
        await deliveries.record(store, shard, made.id, due.number, outcome, status=status)
        await trio.sleep(0.002)  # another millisecond: the order of attempts is by time
        if status == 200:
            success_ms = (await read_counts(store))[made.id].last_ms
    counts = (await read_counts(store))[made.id]
    assert 3 <= counts.failures_in_row <= 4
    assert counts.failing_since_ms == success_ms, "not before the success"


async def test_without_subscriptions_nothing_is_written(store: Store, db: Any) -> None:
    await store.webhooks.read(store)
    await ack(store, await active(store))
    shard = shard_of(store)
    assert not db.exists(shard.webhook_deliveries, shard.webhook_due, shard.webhook_counts)
    assert store.events_arg == store.settings.events_per_shard


async def test_events_that_time_causes_become_deliveries(store: Store, db: Any) -> None:
    made = await subscribe(store, "job.failed", "job.expired", "job.enqueued")
    lost = await active(store)
    late = await put(store, expires_at="+PT1S")
    later = await put(store, "later", scheduled_at="+PT1S")
    await store.webhooks.read(store)
    for queue, job in ((QUEUE, lost), (QUEUE, late), ("later", later)):
        age_job(db, shard_of(store, queue), job.id, DAY)
    await reap_all(store)
    await promote_all(store)
    assert set(await kinds(store, made.id)) >= {"job.expired", "job.enqueued"}


async def test_workflow_events_become_deliveries(store: Store, db: Any) -> None:
    made = await subscribe(store, "workflow.*")
    await store.webhooks.read(store)
    await chain(store, step("a"), step("b"))
    for _ in range(2):
        await run_one(store)
        await drain_all(store, db)
    assert set(await kinds(store, made.id)) == {
        *("workflow.started", "workflow.step_completed", "workflow.completed")
    }


async def test_events_of_cron_jobs_become_deliveries(store: Store, db: Any) -> None:
    made = await subscribe(store, "cron.*", queues=("reports",))
    other = await subscribe(store, "cron.*", job_types=("other.type",))
    await store.webhooks.read(store)
    await cron.register(store, definition())
    await cron.trigger(store, "daily")
    await fire(store, db)
    found = await pending(store, made.id)
    events = await read_events(store, EventFilter(types={"cron.*"}), limit=10)
    assert [each.kind for each in found] == ["cron.triggered", "cron.skipped"]
    assert [each.body() for each in found] == events.events
    assert await pending(store, other.id) == []
    assert (await collect(store, 10)).webhooks["pending"] == 2

    [first, second] = found
    assert first.id.endswith("-meta")
    record = partial(deliveries.record, store, first.shard, made.id)
    await record(first.number, "dead", status=400)
    assert (await deliveries.retry(store, first.id)).state == "pending"
    await record(second.number, "delivered", status=200)
    assert (await deliveries.get(store, second.id)).state == "delivered"
    assert (await read_counts(store))[made.id].numbers == {"dead": 1, "delivered": 1}

    await subscriptions.delete(store, made.id)
    await deliveries.purge(store, first.shard, made.id)
    db.hset(first.shard.webhook_counts, f"delivered:{made.id}", 1)  # of a late process
    await retention.retire_queues(store)
    assert set(db.hkeys(first.shard.webhook_counts)) == {b"dead:", b"delivered:"}
    assert not db.exists(first.shard.webhook_pending(made.id))


async def test_without_a_stream_events_are_delivered_all_the_same(store: Store) -> None:
    settings = replace(store.settings, events_per_shard=0)
    store = replace(store, settings=settings)
    made = await subscribe(store, "job.*")
    await store.webhooks.read(store)
    await ack(store, await active(store))
    found = await pending(store, made.id)
    assert [each.kind for each in found] == ["job.enqueued", "job.started", "job.completed"]
    await enqueue_many(store, [new_job() for _ in range(3)])  # at one time
    found = await pending(store, made.id)
    assert len({json.loads(each.body())["id"] for each in found}) == 6
    assert (await read_events(store, EventFilter(), limit=10)).events == []


async def test_the_backlog_of_a_subscription_is_bounded_and_told(store: Store, db: Any) -> None:
    hooks = replace(store.settings.webhooks, max_pending=5)
    store = replace(store, settings=replace(store.settings, webhooks=hooks))
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await enqueue_many(store, [new_job() for _ in range(20)])
    assert len(await pending(store, made.id)) == 5
    shard = shard_of(store)
    assert db.hget(shard.webhook_counts, f"full:{made.id}") == b"15"
    assert db.zcard(shard.queue_available(QUEUE)) == 20


async def test_the_backlog_of_a_shard_is_bounded_and_each_subscription_keeps_its_part(
    store: Store, db: Any
) -> None:
    hooks = replace(store.settings.webhooks, max_stored=20)
    store = replace(store, settings=replace(store.settings, webhooks=hooks))
    shard = shard_of(store)
    first = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await enqueue_many(store, [new_job() for _ in range(30)])
    assert len(await pending(store, first.id)) == 20
    second = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await enqueue_many(store, [new_job() for _ in range(30)])
    assert len(await pending(store, first.id)) == 20
    assert len(await pending(store, second.id)) == 10
    counts = [int(db.hget(shard.webhook_counts, f"full:{each.id}")) for each in (first, second)]
    assert counts == [40, 20]
    assert db.hget(shard.webhook_counts, "full:") == b"60"
    assert db.zcard(shard.queue_available(QUEUE)) == 60


async def test_ended_deliveries_are_kept_up_to_a_number(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_DELIVERED", 2)
    monkeypatch.setattr(deliveries, "MAX_DEAD", 3)
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await enqueue_many(store, [new_job() for _ in range(10)])
    shard = shard_of(store)
    for number, each in enumerate(
        (await deliveries.next_due(store, shard, made.id, 10)).deliveries
    ):
        outcome: Any = "dead" if number % 2 else "delivered"
        assert await deliveries.record(store, shard, made.id, each.number, outcome, status=200)
        assert not await deliveries.record(store, shard, made.id, each.number, "failed")
    assert (db.zcard(shard.webhook_delivered), db.zcard(shard.webhook_dead)) == (2, 3)
    assert db.hlen(shard.webhook_deliveries) == 2 * 5 + 1
    assert not db.exists(shard.webhook_pending(made.id))
    assert db.hget(shard.webhook_counts, f"delivered:{made.id}") == b"5"


async def test_a_failed_attempt_waits_and_is_counted(store: Store) -> None:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    [first] = (await deliveries.next_due(store, shard, made.id, 10)).deliveries
    await deliveries.record(
        store, shard, made.id, first.number, "failed", wait_ms=60_000, error="down: é"
    )
    assert (await deliveries.next_due(store, shard, made.id, 10)).deliveries == []
    now_ms, next_ms, due = await deliveries.read_due(store, shard)
    assert due == []
    assert next_ms is not None
    assert 50_000 < next_ms - now_ms <= 60_000
    found = await deliveries.get(store, first.id)
    assert (found.attempts, found.status, found.error, found.state) == (1, 0, "down: é", "pending")
    assert found.body() == first.body()


async def test_a_receiver_fails_from_its_first_failure_after_a_success_on(
    store: Store, db: Any
) -> None:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    one, two = shard_of(store), shard_of(store, queues_in_other_shards(store, 1)[0])

    async def attempt(shard: Shard, outcome: deliveries.Outcome, error: str = "") -> None:
        names = (f"q{number}" for number in range(10_000))
        await put(store, next(name for name in names if shard_of(store, name) == shard))
        [taken] = (await deliveries.next_due(store, shard, made.id, 1)).deliveries
        status = 200 if outcome == "delivered" else 0
        await deliveries.record(
            store, shard, made.id, taken.number, outcome, status=status, error=error
        )
        await trio.sleep(0.002)  # another millisecond: the order of attempts is by time

    async def failing() -> tuple[bool, str]:
        counts = (await read_counts(store))[made.id]
        assert counts.failing_since_ms <= counts.last_ms
        return counts.failing_since_ms > 0, counts.last_error

    await attempt(one, "dead", "refused")
    first = (await read_counts(store))[made.id].failing_since_ms
    await attempt(two, "dead", "timed out")
    assert await failing() == (True, "timed out")
    assert (await read_counts(store))[made.id].failing_since_ms == first
    await attempt(two, "delivered")
    assert await failing() == (False, ""), "the other shard has had no delivery since"
    await attempt(one, "dead", "refused again")
    assert await failing() == (True, "refused again")


async def test_a_dead_delivery_can_be_retried(store: Store) -> None:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    [first] = (await deliveries.next_due(store, shard, made.id, 10)).deliveries
    with pytest.raises(Conflict):
        await deliveries.retry(store, first.id)
    await deliveries.record(store, shard, made.id, first.number, "dead", status=400)
    assert (await deliveries.next_due(store, shard, made.id, 10)).deliveries == []
    assert (await deliveries.get(store, first.id)).state == "dead"
    again = await deliveries.retry(store, first.id)
    assert (again.state, again.attempts) == ("pending", 0)
    [taken] = (await deliveries.next_due(store, shard, made.id, 10)).deliveries
    assert taken.body() == first.body()
    for unknown in ("x", "del_1-0", f"del_1-{len(store.keys)}", "del_1--1", "del_seq-0"):
        with pytest.raises(NotFound):
            await deliveries.retry(store, unknown)


async def test_the_list_shares_its_size_between_subscriptions_and_tells_where_it_ends(
    store: Store, db: Any
) -> None:
    loud, quiet = await subscribe(store, "job.enqueued"), await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    large = b"%d:%b0:1:t12:job.enqueued1:j1:x1:y1:x1:q1:x1:z40000:%b"
    for number in range(1, 101):
        stored = large % (len(loud.id), loud.id.encode(), b"z" * 40_000)
        db.hset(shard.webhook_deliveries, number, stored)
        db.zadd(shard.webhook_dead, {str(number): number})
    [taken] = (await deliveries.next_due(store, shard, quiet.id, 10)).deliveries
    await deliveries.record(store, shard, quiet.id, taken.number, "dead", status=400)
    db.zadd(shard.webhook_dead, {taken.number: 0})

    wanted: list[tuple[str, DeliveryState]] = [(quiet.id, "dead"), (loud.id, "pending")]
    for subscription_id, state in wanted:
        found = await deliveries.list_newest(
            store, limit=200, states=(state,), subscription_id=subscription_id
        )
        assert [each.subscription_id for each in found] == [subscription_id]
        assert not found.truncated
    found = await deliveries.list_newest(store, limit=200)
    assert 5 < len(found) < 20
    assert found[0].state == "pending"  # the newest one, whose set is read last
    assert found.truncated
    found = await deliveries.list_newest(store, limit=3)
    assert [each.number for each in found[1:]] == ["100", "99"]
    assert not found.truncated


async def test_damaged_deliveries_are_told_apart(store: Store, db: Any) -> None:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    damaged = (b"", b"x", b"9:x", b"3:sub0:1:t", b"3:sub1:x", b"\xff")
    for number, stored in enumerate(damaged, 1):
        db.hset(shard.webhook_deliveries, str(number), stored)
        db.zadd(shard.webhook_pending(made.id), {str(number): number})
    db.zadd(shard.webhook_pending(made.id), {"77": 77})  # without a delivery
    batch = await deliveries.next_due(store, shard, made.id, 10)
    assert (len(batch.deliveries), len(batch.damaged)) == (1, len(damaged))
    assert not db.zscore(shard.webhook_pending(made.id), "77")
    db.hset(shard.webhook_deliveries, "seq", "nonsense")
    db.hset(shard.webhook_counts, f"full:{made.id}", "nonsense")
    await put(store)
    assert len(await deliveries.list_newest(store, limit=10)) == 2


async def test_damaged_events_and_members_stop_no_other(store: Store, db: Any) -> None:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    subscription = b"%d:%b" % (len(made.id), made.id.encode())
    no_type = b"0:1:t12:job.enqueued1:j1:x1:q1:x"
    not_text = b"0:1:t12:job.enqueued1:j1:x1:y1:\xff1:q1:x"
    infinite = b"0:1:t13:job.scheduled1:j1:x1:y1:x1:q1:x1:n3:inf"
    damaged = {b"1": no_type, b"2": not_text, b"3": infinite, b"\xff": no_type}
    for number, stored in damaged.items():
        db.hset(shard.webhook_deliveries, number, subscription + stored)
        db.zadd(shard.webhook_pending(made.id), {number: 1})
    db.zadd(shard.webhook_due, {b"\xff": 1})

    _, _, due = await deliveries.read_due(store, shard)
    batch = await deliveries.next_due(store, shard, made.id, 10)

    assert due == [made.id]
    assert db.zscore(shard.webhook_due, b"\xff") is None
    assert len(batch.deliveries) == 1
    assert set(batch.damaged) == set(damaged)
    for each in batch.damaged:
        assert await deliveries.record(store, shard, made.id, each, "dropped")
    assert (await deliveries.next_due(store, shard, made.id, 10)).damaged == []
    db.hset(shard.webhook_deliveries, "1", subscription + no_type)
    with pytest.raises(NotFound):
        await deliveries.get(store, f"del_1-{shard.index}")


async def test_a_deleted_subscription_leaves_nothing_pending(
    store: Store, db: Any, consistent: Callable[[], Any]
) -> None:
    made = await subscribe(store)
    await store.webhooks.read(store)
    await enqueue_many(store, [new_job() for _ in range(1200)])
    await subscriptions.delete(store, made.id)
    shard = shard_of(store)
    await deliveries.purge(store, shard, made.id)
    assert not db.exists(shard.webhook_pending(made.id))
    assert db.hgetall(shard.webhook_deliveries).keys() == {b"seq"}
    assert made.id.encode() not in {name for name, _ in db.zscan_iter(shard.webhook_due)}


async def test_the_counts_of_a_deleted_subscription_end(store: Store, db: Any) -> None:
    kept, made = await subscribe(store, "job.enqueued"), await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    await put(store)
    shard = shard_of(store)
    for each in (kept, made):
        [taken] = (await deliveries.next_due(store, shard, each.id, 10)).deliveries
        await deliveries.record(store, shard, each.id, taken.number, "delivered", status=200)
    await subscriptions.delete(store, made.id)
    new = await subscribe(store, "job.enqueued")  # this process's copy does not have it yet
    names = [f"{name}:{made.id}" for name in ("failed", "dead", "full")]
    db.hset(shard.webhook_counts, mapping=dict.fromkeys([*names, f"full:{new.id}"], 1))

    await retention.remove_leftovers(store, shard)

    assert set(db.hkeys(shard.webhook_counts)) == {
        *(b"%b:%b" % (name, kept.id.encode()) for name in (b"delivered", b"last", b"success")),
        b"delivered:",
        b"full:%b" % new.id.encode(),
    }


async def test_another_process_learns_of_a_change_at_once(store: Store, other_store: Store) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other_store.webhooks.run, other_store)
        made = await subscribe(store, "job.enqueued")
        with trio.fail_after(60):
            while not other_store.webhooks.selects("job.enqueued"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        await subscriptions.delete(store, made.id)
        with trio.fail_after(60):
            while other_store.webhooks.get(made.id) is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert other_store.webhooks.packed == b""
        nursery.cancel_scope.cancel()
