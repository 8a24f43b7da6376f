"""What the sender of webhooks remembers of receivers, and which deliveries it gives up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
import trio

from ojs_cluster.core.webhooks import Subscription
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.webhooks.client import AttemptResult, WebhookClient
from ojs_scheduler.loops.webhooks import WebhookSender
from tests.scheduler.running import put, redis_ms, store_at
from tests.scheduler.test_webhooks import HOOKS, Answering, step, subscribed, using
from tests.support.servers import observer

URL = "https://hooks.example/"
NO_REPETITION = replace(HOOKS, retry_delays_s=(3600.0,) * 7)
DAY_MS = 86_400_000


def answer(status: int, retry_after_s: float | None = None) -> AttemptResult:
    return AttemptResult(status, "", b"", 1, retry_after_s)


def in_turn(*statuses: int) -> Answering:
    left = list(statuses)

    async def act() -> AttemptResult:
        await trio.lowlevel.checkpoint()
        return answer(left.pop(0))

    return Answering(act)


def sender_of(store: Store, client: Answering) -> WebhookSender:
    return WebhookSender(store, store.settings.webhooks, cast(WebhookClient, client))


async def deliver_one_by_one(store: Store, sender: WebhookSender, times: int) -> None:
    for _ in range(times):
        await put(store, 1)
        await step(sender, store)


@pytest.mark.parametrize(
    ("statuses", "sent"),
    [((500,) * 5 + (200,), 5), ((500,) * 4 + (200, 500, 200), 7), ((400,) * 7, 7)],
)
async def test_only_failures_in_a_row_make_a_receiver_wait(
    standalone: Embedded, statuses: Iterable[int], sent: int
) -> None:
    async with store_at(standalone.url, using(NO_REPETITION)) as store:
        await subscribed(store, "job.enqueued", url=URL)
        client = in_turn(*statuses)
        await deliver_one_by_one(store, sender_of(store, client), len(list(statuses)))
        assert client.calls == sent


async def test_a_receiver_that_answers_again_gets_deliveries_at_once(standalone: Embedded) -> None:
    both_began = trio.Event()
    async with store_at(standalone.url, using(NO_REPETITION)) as store:
        made = await subscribed(store, "job.enqueued", url=URL)

        async def act() -> AttemptResult:
            if client.calls == 1:
                await both_began.wait()
                return answer(429, 3600.0)
            both_began.set()
            if client.calls == 2:
                with trio.fail_after(60):
                    while not any(  # noqa: ASYNC110
                        each.attempts for each in await deliveries.list_newest(store, limit=9)
                    ):
                        await trio.sleep(0.01)
            return answer(200)

        client = Answering(act)
        await put(store, 2)
        sender = sender_of(store, client)
        await step(sender, store)
        await deliver_one_by_one(store, sender, 1)
        found = await deliveries.list_newest(store, limit=9, subscription_id=made)
        assert sorted(each.state for each in found) == ["delivered", "delivered", "pending"]


async def test_the_receivers_of_deleted_subscriptions_are_forgotten(standalone: Embedded) -> None:
    async with store_at(standalone.url, using(NO_REPETITION)) as store:
        sender = sender_of(store, in_turn(500, 500, 200, 200, 200))
        for number in range(3):  # deliveries of the first one fail
            made = await subscribed(store, "job.enqueued", url=URL)
            await deliver_one_by_one(store, sender, 2 if number == 0 else 1)
            assert set(sender._receivers) == {made}
            await subscriptions.delete(store, made)
            await store.webhooks.read(store)


async def test_a_shard_is_checked_again_when_its_first_receiver_may_get_deliveries(
    standalone: Embedded,
) -> None:
    async with store_at(standalone.url, using(HOOKS)) as store:
        await subscribed(store, "job.enqueued", url=URL)
        later = await subscribed(store, "job.enqueued", url=URL, job_types=("later",))
        await put(store, 1)
        [shard] = [shard for shard in store.keys if (await deliveries.read_due(store, shard))[2]]

        async def busy() -> AttemptResult:
            await trio.lowlevel.checkpoint()
            return answer(429, 3600.0)

        sender = sender_of(store, Answering(busy))
        await step(sender, store)
        await put(store, 1)
        with observer(standalone) as db:
            db.zadd(shard.webhook_due, {later: await redis_ms(store) + 2 * 3_600_000})
        results = await step(sender, store)
        [waits] = [each.next_ms - each.now_ms for each in results if each.next_ms is not None]
        assert 3_000_000 < waits <= 3_600_000


async def test_a_subscription_in_work_is_not_started_again(standalone: Embedded) -> None:
    release = trio.Event()

    async def act() -> AttemptResult:
        await release.wait()
        return answer(200)

    client = Answering(act)
    async with store_at(standalone.url, using(HOOKS)) as store:
        await subscribed(store, "job.enqueued", url=URL)
        await put(store, 1)
        sender = sender_of(store, client)
        async with trio.open_nursery() as nursery:
            for wanted in (1, 0):
                results = [
                    await sender.start_due(shard.index, nursery, lambda _: None)
                    for shard in store.keys
                ]
                assert sum(each.done for each in results) == wanted
            release.set()
        assert client.calls == 1


async def test_a_sender_reads_a_subscription_that_it_does_not_know(standalone: Embedded) -> None:
    async with (
        store_at(standalone.url, using(HOOKS)) as store,
        store_at(standalone.url, using(HOOKS)) as other,
    ):
        await subscribed(store, "job.enqueued", url=URL)
        await put(store, 1)
        client = in_turn(200)
        await step(sender_of(other, client), other)
        assert client.calls == 1


async def test_a_410_of_an_earlier_address_leaves_the_subscription_active(
    standalone: Embedded,
) -> None:
    async with store_at(standalone.url, using(HOOKS)) as store:
        made = await subscribed(store, "job.enqueued", url=URL)

        def moved(old: Subscription) -> Subscription:
            return msgspec.structs.replace(old, url="https://new.example/")

        async def act() -> AttemptResult:
            await subscriptions.change(store, made, moved)
            return answer(410)

        await put(store, 1)
        await step(sender_of(store, Answering(act)), store)
        assert (await subscriptions.get(store, made)).active


async def test_an_inactive_subscription_loses_what_is_older_than_three_days(
    standalone: Embedded,
) -> None:
    async with store_at(standalone.url, using(HOOKS)) as store:
        made = await subscribed(store, "job.enqueued", url=URL, active=False)
        now_ms = await redis_ms(store)
        shard = next(iter(store.keys))
        with observer(standalone) as db:
            numbers = [add_delivery(db, shard, made, now_ms - days * DAY_MS) for days in (4, 2)]
        await step(sender_of(store, in_turn()), store)
        old, newer = [
            await deliveries.get(store, f"del_{number}-{shard.index}") for number in numbers
        ]
        assert (old.state, newer.state) == ("dead", "pending")
        assert old.error == "the subscription is not active"


def add_delivery(db: Any, shard: Shard, subscription_id: str, at_ms: int) -> str:
    """Store the delivery of an event, as if it had happened at this time."""
    number = str(at_ms * 1000)
    stored = b"%d:%b0:1:t12:job.enqueued1:j1:x1:y1:x1:q1:x"
    db.hset(
        shard.webhook_deliveries, number, stored % (len(subscription_id), subscription_id.encode())
    )
    db.zadd(shard.webhook_pending(subscription_id), {number: at_ms})
    db.zadd(shard.webhook_due, {subscription_id: at_ms})
    return number
