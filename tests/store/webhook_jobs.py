"""Webhook subscriptions for tests of the store."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.counts import remove_old_counts
from ojs_cluster.store.ground.process_state import subscriptions
from tests.store.shortcuts import ack, active, shard_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def subscribe(store: Store, *events: str, **members: Any) -> Subscription:
    """Store a subscription, by default to every event."""

    def make(subscription_id: str, now_ms: int) -> Subscription:
        chosen = {"url": "http://127.0.0.1:1/hook", "secrets": (Secret(SECRET),), **members}
        return Subscription(
            id=subscription_id,
            events=events or ("*",),
            created_ms=now_ms,
            updated_ms=now_ms,
            **chosen,
        )

    return await subscriptions.create(store, make)


async def one_life_of_a_webhook(store: Store) -> None:
    """Run every script of webhooks at least once."""
    made = await subscribe(store)
    await store.webhooks.read(store)
    job = await active(store, "hooks")
    await ack(store, job)
    shard = shard_of(store, "hooks")
    _, _, due = await deliveries.read_due(store, shard)
    assert due == [made.id]
    batch = await deliveries.next_due(store, shard, made.id, 10)
    first, second, third = (each.number for each in batch.deliveries)
    await deliveries.record(store, shard, made.id, first, "delivered", status=200)
    await deliveries.record(store, shard, made.id, second, "dead", status=400)
    await deliveries.record(store, shard, made.id, third, "failed", wait_ms=60_000)
    assert (await deliveries.next_due(store, shard, made.id, 10)).deliveries == []
    await deliveries.retry(store, f"del_{second}-{shard.index}")
    assert len(await deliveries.list_newest(store, limit=10)) == 3
    await subscriptions.rotate(store, made.id, SECRET)
    await subscriptions.delete(store, made.id)
    await remove_old_counts(store, shard)
    await deliveries.purge(store, shard, made.id)
    await store.webhooks.read(store)
