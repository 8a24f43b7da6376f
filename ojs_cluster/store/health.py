"""Is Redis there, and all of it?"""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.store.context import Store


@dataclass(frozen=True, slots=True)
class Health:
    """``latency_ms`` of one round trip; ``covered`` when every slot has a master we know."""

    latency_ms: float
    covered: bool


async def check(store: Store) -> Health:
    """Ask Redis.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    latency_s = await store.redis.ping()
    return Health(round(latency_s * 1000, 3), store.redis.healthy)
