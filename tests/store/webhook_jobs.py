"""Webhook subscriptions for tests of the store."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.store.context import Store
from ojs_cluster.store.webhooks import subscriptions

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
    await subscriptions.rotate(store, made.id, SECRET)
    await subscriptions.delete(store, made.id)
