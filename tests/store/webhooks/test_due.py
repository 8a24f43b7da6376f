"""When the deliveries of a subscription are due, and how many one reply has."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.counts import read_counts
from tests.store.shortcuts import put, shard_of, until
from tests.store.webhook_jobs import subscribe


async def subscribed(store: Store) -> str:
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    return made.id


async def test_postponed_deliveries_are_due_after_their_pause(store: Store) -> None:
    made, shard = await subscribed(store), shard_of(store)
    await put(store)
    await deliveries.next_due(store, shard, made, 10, wait_ms=60_000)
    now_ms, next_ms, due = await deliveries.read_due(store, shard)
    assert due == []
    assert next_ms is not None
    assert 50_000 < next_ms - now_ms <= 60_000


async def test_a_subscription_is_due_with_the_earliest_of_its_attempts(store: Store) -> None:
    made, shard = await subscribed(store), shard_of(store)
    for _ in range(2):
        await put(store)
    taken = (await deliveries.next_due(store, shard, made, 10)).deliveries
    for each, wait_ms in zip(taken, (60_000, 600_000), strict=True):
        await deliveries.record(store, shard, made, each.number, "failed", wait_ms=wait_ms)
    assert (await deliveries.next_due(store, shard, made, 10)).deliveries == []
    now_ms, next_ms, _ = await deliveries.read_due(store, shard)
    assert next_ms is not None
    assert next_ms - now_ms <= 60_000


async def test_a_subscription_without_pending_deliveries_is_not_due(store: Store) -> None:
    made, shard = await subscribed(store), shard_of(store)
    await put(store)
    [taken] = (await deliveries.next_due(store, shard, made, 10)).deliveries
    await deliveries.record(store, shard, made, taken.number, "delivered", status=200)
    assert (await deliveries.next_due(store, shard, made, 10)).deliveries == []
    _, next_ms, due = await deliveries.read_due(store, shard)
    assert (next_ms, due) == (None, [])


async def test_one_reply_has_few_large_deliveries(store: Store, db: Any) -> None:
    made, shard = await subscribed(store), shard_of(store)
    event = b"%d:%b0:1:t12:job.enqueued1:j1:x1:y1:x1:q1:x1:z600000:%b"
    for number in range(1, 4):
        stored = event % (len(made), made.encode(), b"z" * 600_000)
        db.hset(shard.webhook_deliveries, str(number), stored)
        db.zadd(shard.webhook_pending(made), {str(number): number})
    first = await deliveries.next_due(store, shard, made, 10)
    assert [each.number for each in first.deliveries] == ["1", "2"]
    for each in first.deliveries:
        await deliveries.record(store, shard, made, each.number, "delivered", status=200)
    rest = await deliveries.next_due(store, shard, made, 10)
    assert [each.number for each in rest.deliveries] == ["3"]


async def test_the_scheduler_hears_of_a_retried_delivery(store: Store) -> None:
    made, shard = await subscribed(store), shard_of(store)
    await put(store)
    [taken] = (await deliveries.next_due(store, shard, made, 10)).deliveries
    await deliveries.record(store, shard, made, taken.number, "dead", status=400)
    await deliveries.next_due(store, shard, made, 10)
    heard: list[bytes] = []
    await store.redis.subscribe(shard.schedule_channel, shard.slot, heard.append, lambda: None)
    await deliveries.retry(store, taken.id)
    await store.redis.call(shard.slot, "SPUBLISH", shard.schedule_channel, "the end")

    async def messages() -> list[bytes]:
        return heard

    await until(messages, lambda payloads: b"the end" in payloads)
    assert len(heard) == 2


async def test_the_reason_of_a_failed_attempt_is_bounded(store: Store) -> None:
    made, shard = await subscribed(store), shard_of(store)
    await put(store)
    [taken] = (await deliveries.next_due(store, shard, made, 10)).deliveries
    await deliveries.record(store, shard, made, taken.number, "failed", error="x" * 5000)
    assert len((await deliveries.get(store, taken.id)).error) == 200


async def test_a_list_has_the_wanted_states_and_the_last_response_is_the_latest(
    store: Store, db: Any
) -> None:
    made, shard = await subscribed(store), shard_of(store)
    for _ in range(2):
        await put(store)
    record = partial(deliveries.record, store, shard, made)
    first, second = (await deliveries.next_due(store, shard, made, 10)).deliveries
    await record(first.number, "delivered", status=200)
    await record(second.number, "dead", status=404)
    listed = await deliveries.list_newest(store, limit=10, states=("dead",))
    assert [each.id for each in listed] == [second.id]
    for index, other in enumerate(store.keys):
        if other is not shard:
            db.hset(other.webhook_counts, f"last:{made}", f"{index + 1} 500")
    assert (await read_counts(store))[made].last_status == 404


async def test_the_newest_ended_deliveries_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_DELIVERED", 2)
    made, shard = await subscribed(store), shard_of(store)
    for _ in range(4):
        await put(store)
    taken = (await deliveries.next_due(store, shard, made, 10)).deliveries
    for each in taken:
        await deliveries.record(store, shard, made, each.number, "delivered", status=200)
    kept = await deliveries.list_newest(store, limit=10)
    assert [each.id for each in kept] == [taken[3].id, taken[2].id]
