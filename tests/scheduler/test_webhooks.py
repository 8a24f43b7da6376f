"""Deliveries of webhooks by a leading scheduler, to real receivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, cast

import msgspec
import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.webhooks.client import AttemptResult, WebhookClient
from ojs_cluster.webhooks.settings import WebhookSettings
from ojs_scheduler.loops import webhooks
from ojs_scheduler.loops.webhooks import decide
from tests.scheduler.running import eventually, put, store_at
from tests.scheduler.test_background import served
from tests.store.cron.test_cron import definition
from tests.store.webhook_jobs import SECRET, subscribe
from tests.support.receiver import (
    OK,
    Received,
    Receiver,
    receiving,
    status,
    verify_ojs,
    verify_standard,
)
from tests.support.servers import observer

HOOKS = WebhookSettings(
    allow_cidrs=(ip_network("127.0.0.1/32"),), allow_http=True, retry_delays_s=(0.05,) * 7
)
PATIENT = replace(HOOKS, retry_delays_s=(0.2,) * 1000)


def using(hooks: WebhookSettings) -> StoreSettings:
    return StoreSettings(webhooks=hooks)


def answering(*replies: bytes) -> Callable[[Received], Awaitable[bytes]]:
    """Answer with each of these in turn, and then with 200."""
    left = list(replies)

    async def answer(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return left.pop(0) if left else OK

    return answer


@asynccontextmanager
async def sending(backend: Embedded, hooks: WebhookSettings = HOOKS) -> AsyncIterator[Store]:
    """Open a store with a leading scheduler beside it, which delivers webhooks."""
    async with served(backend, using(hooks)) as (store, _):
        yield store


async def subscribed(store: Store, *args: str, **members: Any) -> str:
    made = await subscribe(store, *args, **members)
    await store.webhooks.read(store)
    return made.id


def subjects(received: Collection[Received]) -> set[str]:
    return {each.event["subject"] for each in received}


async def state_of(store: Store, delivery_id: str) -> str:
    return (await deliveries.get(store, delivery_id)).state


async def test_an_event_is_delivered_signed_and_recorded(backend: Embedded) -> None:
    async with receiving() as receiver, sending(backend) as store:
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        [job_id] = await put(store, 1)
        [got] = await receiver.wait_for(1)
        assert got.event["type"] == got.headers["x-ojs-event-type"] == "job.enqueued"
        assert got.event["subject"] == got.event["data"]["job_id"] == job_id
        assert got.headers["x-ojs-subscription-id"] == made
        assert verify_ojs(got, SECRET)
        assert verify_standard(got, SECRET)
        delivery_id = got.headers["webhook-id"]
        assert got.headers["x-ojs-delivery-id"] == delivery_id

        async def recorded() -> bool:
            return await state_of(store, delivery_id) == "delivered"

        await eventually(recorded, what="recorded")
        found = await deliveries.get(store, delivery_id)
        assert (found.attempts, found.status) == (1, 200)
        assert len(receiver.received) == 1


async def test_the_leader_of_the_meta_tag_delivers_events_of_cron_jobs(backend: Embedded) -> None:
    replies = status(500), status(503)
    async with (
        receiving(Receiver(answer=answering(*replies))) as receiver,
        sending(backend) as store,
    ):
        await subscribed(store, "cron.*", url=receiver.url())
        await cron.register(store, definition())
        _, job = await cron.trigger(store, "daily")
        received = await receiver.wait_for(3)
        assert {each.event["data"]["job_id"] for each in received} == {job.id}
        assert {each.event["type"] for each in received} == {"cron.triggered"}
        [delivery_id] = {each.headers["webhook-id"] for each in received}

        async def recorded() -> bool:
            return await state_of(store, delivery_id) == "delivered"

        await eventually(recorded, what="recorded")


async def test_failed_attempts_are_repeated_under_the_same_id(backend: Embedded) -> None:
    replies = status(500), status(302, "Location: /other"), b"nonsense\r\n\r\n", status(503)
    async with (
        receiving(Receiver(answer=answering(*replies))) as receiver,
        sending(backend) as store,
    ):
        await subscribed(store, "job.enqueued", url=receiver.url())
        await put(store, 1)
        received = await receiver.wait_for(5)
        assert len({each.headers["webhook-id"] for each in received}) == 1
        assert {each.target for each in received} == {"/hook"}
        assert len({each.body for each in received}) == 1
        delivery_id = received[0].headers["webhook-id"]

        async def ended() -> bool:
            return await state_of(store, delivery_id) == "delivered"

        await eventually(ended, what="delivered")
        assert (await deliveries.get(store, delivery_id)).attempts == 5


async def test_a_delivery_dies_after_its_last_attempt_and_can_be_retried(
    backend: Embedded,
) -> None:
    hooks = replace(HOOKS, retry_delays_s=(0.01, 0.01))
    replies = [status(500)] * 3
    async with (
        receiving(Receiver(answer=answering(*replies))) as receiver,
        sending(backend, hooks) as store,
    ):
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        await put(store, 1)
        received = await receiver.wait_for(3)
        delivery_id = received[0].headers["webhook-id"]

        async def dead() -> bool:
            return await state_of(store, delivery_id) == "dead"

        await eventually(dead, what="dead")
        [listed] = await deliveries.list_newest(store, limit=9, states=("dead",))
        assert (listed.id, listed.attempts, listed.status) == (delivery_id, 3, 500)
        assert listed.subscription_id == made
        await deliveries.retry(store, delivery_id)
        received = await receiver.wait_for(4)
        assert received[3].headers["webhook-id"] == delivery_id


async def test_a_client_error_is_not_repeated_and_410_ends_the_subscription(
    backend: Embedded,
) -> None:
    replies = status(400), status(410)
    async with (
        receiving(Receiver(answer=answering(*replies))) as receiver,
        sending(backend) as store,
    ):
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        for number in (1, 2):
            await put(store, 1)
            received = await receiver.wait_for(number)

        async def inactive() -> bool:
            return not (await subscriptions.get(store, made)).active

        await eventually(inactive, what="inactive")
        assert (await subscriptions.get(store, made)).disabled_reason
        for each in received:
            assert await state_of(store, each.headers["webhook-id"]) == "dead"
        await store.webhooks.read(store)
        await put(store, 1)  # is not even noted
        assert len(await deliveries.list_newest(store, limit=9)) == 2


async def test_a_receiver_that_was_down_gets_everything(cluster: Embedded) -> None:
    receiver = Receiver()
    async with receiving(receiver):
        pass  # it has a port now, where nothing listens
    async with sending(cluster, PATIENT) as store:
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        ids = set(await put(store, 120))

        async def has_failed() -> bool:
            found = await deliveries.list_newest(store, limit=200, subscription_id=made)
            return sum(each.attempts for each in found) > 10

        await eventually(has_failed, what="attempts failed")
        async with receiving(receiver):
            await receiver.until(lambda: subjects(receiver.received) == ids)


async def test_a_slow_receiver_delays_no_other(backend: Embedded) -> None:
    release = trio.Event()

    async def slowly(_: Received) -> bytes:
        await release.wait()
        return OK

    async with (
        receiving(Receiver(answer=slowly)) as slow,
        receiving() as quick,
        sending(backend) as store,
    ):
        await subscribed(store, "job.enqueued", url=slow.url())
        await subscribed(store, "job.enqueued", url=quick.url())
        ids = set(await put(store, 100))
        await quick.until(lambda: subjects(quick.received) == ids)
        # The first requests of the slow receiver are still open, and they are few.
        assert 1 <= len(slow.received) <= 8
        release.set()
        await slow.until(lambda: subjects(slow.received) == ids)


async def test_retry_after_holds_back_all_deliveries_to_the_receiver(backend: Embedded) -> None:
    later = status(429, "Retry-After: 3600")
    async with (
        receiving() as other,
        sending(backend) as store,
        receiving(Receiver(answer=answering(later))) as receiver,
    ):
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        await put(store, 1)
        await receiver.wait_for(1)
        delivery_id = receiver.received[0].headers["webhook-id"]

        async def recorded() -> bool:
            return (await deliveries.get(store, delivery_id)).attempts == 1

        await eventually(recorded, what="recorded")
        await subscribed(store, "job.enqueued", url=other.url())
        await put(store, 5)
        await other.wait_for(5)
        found = await deliveries.list_newest(store, limit=9, subscription_id=made)
        assert [each.state for each in found] == ["pending"] * 6
        assert len(receiver.received) == 1


async def test_what_is_pending_for_a_deleted_subscription_is_dropped(backend: Embedded) -> None:
    receiver = Receiver()
    async with receiving(receiver):
        pass
    async with sending(backend, PATIENT) as store, receiving() as other:
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        await put(store, 20)
        await subscriptions.delete(store, made)
        await subscribed(store, "job.enqueued", url=other.url())
        with observer(backend) as db:

            async def purged() -> bool:
                await trio.lowlevel.checkpoint()
                keys = [shard.webhook_pending(made) for shard in store.keys]
                return not any(db.exists(key) for key in keys)

            await eventually(purged, what="purged")
        await put(store, 1)
        await other.wait_for(1)
    assert receiver.received == []


async def test_an_inactive_subscription_keeps_what_is_pending(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_INACTIVE_CHECK_S", 0.1)
    receiver = Receiver()
    async with receiving(receiver):
        pass
    async with sending(backend, PATIENT) as store:
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        ids = set(await put(store, 3))

        def active(value: bool) -> Callable[[Any], Any]:
            return lambda old: msgspec.structs.replace(old, active=value)

        await subscriptions.change(store, made, active(False))
        await store.webhooks.read(store)
        async with receiving(receiver):
            await subscriptions.change(store, made, active(True))
            await store.webhooks.read(store)
            await receiver.until(lambda: subjects(receiver.received) == ids)


@pytest.mark.parametrize("days", [-4, 4])
async def test_a_wrong_clock_of_the_scheduler_loses_no_delivery(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    real_s, next_due = time.time, deliveries.next_due
    waits: list[int] = []

    async def observed(*args: Any, wait_ms: int = 0) -> Any:
        waits.append(wait_ms)
        return await next_due(*args, wait_ms=wait_ms)

    monkeypatch.setattr("time.time", lambda: real_s() + days * 86_400)
    monkeypatch.setattr(webhooks, "_INACTIVE_CHECK_S", 0.25)
    monkeypatch.setattr(deliveries, "next_due", observed)
    receiver = Receiver()
    async with receiving(receiver):
        pass
    async with sending(standalone, PATIENT) as store:
        made = await subscribed(store, "job.enqueued", url=receiver.url())
        await put(store, 1)

        def active(value: bool) -> Callable[[Any], Any]:
            return lambda old: msgspec.structs.replace(old, active=value)

        await subscriptions.change(store, made, active(False))
        await store.webhooks.read(store)

        async def is_checked() -> bool:
            [found] = await deliveries.list_newest(store, limit=9)
            return 250 in waits or found.state == "dead"

        await eventually(is_checked, what="the delivery to the inactive subscription is checked")
        async with receiving(receiver):
            await subscriptions.change(store, made, active(True))
            await store.webhooks.read(store)
            [got] = await receiver.wait_for(1)
        assert abs(int(got.headers["x-ojs-timestamp"]) - real_s()) < 600


async def test_a_scheduler_killed_during_a_delivery_loses_none(
    standalone: Embedded, tmp_path: Any
) -> None:
    """SIGKILL while requests are open. The next leader sends them again, under the same ids."""
    stuck = trio.Event()
    first = True

    async def answer(_: Received) -> bytes:
        if first:
            await stuck.wait()
        await trio.lowlevel.checkpoint()
        return OK

    env = {
        **os.environ,
        "REDIS_URL": standalone.url,
        "OJS_WEBHOOK_ALLOW_CIDRS": "127.0.0.1",
        "OJS_WEBHOOK_ALLOW_HTTP": "true",
        "OJS_SCHEDULER_LEASE": "1s",
        "OJS_SCHEDULER_PORT": "0",
        "OJS_ALLOW_INSECURE_NO_AUTH": "true",
    }
    command = [sys.executable, "-m", "ojs_cluster.cli", "scheduler"]

    async def start() -> trio.Process:
        with (tmp_path / "log").open("ab") as log:
            return await trio.lowlevel.open_process(
                command, env=env, stdout=log, stderr=subprocess.STDOUT
            )

    async with (
        store_at(standalone.url, using(HOOKS)) as store,
        receiving(Receiver(answer=answer)) as receiver,
    ):
        await subscribed(store, "job.enqueued", url=receiver.url())
        ids = set(await put(store, 30))
        process = await start()
        try:
            await receiver.wait_for(1)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            cut = {each.headers["webhook-id"] for each in receiver.received}
            receiver.received.clear()
            first = False
            process = await start()
            await receiver.until(lambda: subjects(receiver.received) == ids)
        finally:
            process.kill()
            await process.wait()
            stuck.set()
    assert cut <= {each.headers["webhook-id"] for each in receiver.received}


@dataclass
class Answering:
    """Stands for the HTTP client; ``act`` makes each answer."""

    act: Callable[[], Awaitable[AttemptResult]]
    calls: int = 0

    async def post(self, *_: Any, **__: Any) -> AttemptResult:
        self.calls += 1
        return await self.act()


async def step(sender: webhooks.WebhookSender, store: Store) -> list[SweepResult]:
    """Send what is due in all shards; return what the loop knows of each shard."""
    async with trio.open_nursery() as nursery:
        return [
            await sender.start_due(shard.index, nursery, lambda _: None) for shard in store.keys
        ]


async def test_a_receiver_that_is_away_for_days_is_asked_every_half_minute() -> None:
    receiver = webhooks._Receiver()
    for _ in range(3000):
        receiver.note(AttemptResult(0, "away", b"", 1))
    assert 29 < receiver.wait_until_s - trio.current_time() <= 30


async def test_new_events_for_a_receiver_that_must_wait_start_nothing(backend: Embedded) -> None:
    async def busy() -> AttemptResult:
        await trio.lowlevel.checkpoint()
        return AttemptResult(429, "", b"", 1, 3600.0)

    async with store_at(backend.url, using(HOOKS)) as store:
        await subscribed(store, "job.enqueued", url="https://hooks.example/")
        client = Answering(busy)
        sender = webhooks.WebhookSender(store, HOOKS, cast(WebhookClient, client))
        await put(store, 1)
        await step(sender, store)
        calls = client.calls
        for _ in range(3):
            await put(store, 1)
            results = await step(sender, store)
            assert sum(each.done for each in results) == 0
        waits = [each.next_ms - each.now_ms for each in results if each.next_ms is not None]
        assert waits
        assert all(3_000_000 < wait_ms <= 3_600_000 for wait_ms in waits)
        assert client.calls == calls == 1


async def test_an_attempt_that_cannot_be_recorded_cancels_no_other(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_FAILURE_PAUSE_S", 0.0)
    record, failed = deliveries.record, False
    all_sent = trio.Event()

    async def failing(*args: Any, **members: Any) -> bool:
        nonlocal failed
        if not failed:
            failed = True
            all_sent.set()
            raise BackendUnavailable("away", outcome="unknown")
        return await record(*args, **members)

    async with store_at(backend.url, using(HOOKS)) as store:
        made = await subscribed(store, "job.enqueued", url="https://hooks.example/")
        client = Answering(lambda: wait_unless_first())

        async def wait_unless_first() -> AttemptResult:
            if client.calls > 1:
                with trio.fail_after(60):
                    await all_sent.wait()
            await trio.lowlevel.checkpoint()
            return AttemptResult(200, "", b"", 1)

        await put(store, 5, "one")
        monkeypatch.setattr(deliveries, "record", failing)
        sender = webhooks.WebhookSender(store, HOOKS, cast(WebhookClient, client))
        await step(sender, store)
        found = await deliveries.list_newest(store, limit=9, subscription_id=made)
        states = sorted(each.state for each in found)
        assert states == ["delivered"] * 4 + ["pending"]
        assert client.calls == 5


async def test_a_damaged_subscription_keeps_what_is_pending(backend: Embedded) -> None:
    async with store_at(backend.url, using(HOOKS)) as store:
        made = await subscribed(store, "job.enqueued", url="https://hooks.example/")
        await put(store, 3)
        key = store.keys.meta.webhooks
        with observer(backend) as db:
            record = cast(bytes, db.hget(key, made))
            db.hset(key, mapping={made: b"damaged", "#": b"1"})
            await store.webhooks.read(store)
            sender = webhooks.WebhookSender(store, HOOKS)
            await step(sender, store)
            db.hset(key, mapping={made: record, "#": b"2"})
        await store.webhooks.read(store)
        assert len(await deliveries.list_newest(store, limit=9, subscription_id=made)) == 3


@pytest.mark.parametrize(
    ("result", "attempts", "outcome", "delay_s"),
    [
        (AttemptResult(204, "", b"", 1), 0, "delivered", 0),
        (AttemptResult(0, "down", b"", 1), 0, "failed", 30),
        (AttemptResult(500, "", b"", 1), 6, "failed", 86_400),
        (AttemptResult(500, "", b"", 1), 7, "dead", 0),
        (AttemptResult(302, "", b"", 1), 1, "failed", 120),
        *(
            (AttemptResult(code, "", b"", 1), 0, "dead", 0)
            for code in (400, 401, 404, 408, 410, 422)
        ),
        (AttemptResult(429, "", b"", 1), 0, "failed", 30),
        (AttemptResult(429, "", b"", 1, 100.0), 0, "failed", 100),
        (AttemptResult(503, "", b"", 1, 5.0), 0, "failed", 30),
        (AttemptResult(503, "", b"", 1, 1e9), 0, "failed", 86_400),
    ],
)
def test_the_schedule_is_that_of_the_specification(
    result: AttemptResult, attempts: int, outcome: str, delay_s: float
) -> None:
    assert decide(result, attempts, WebhookSettings().retry_delays_s) == (outcome, delay_s)
