"""Check whether Redis answers, and whether all slots are served."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store

PATIENCE_S = 0.5
"""Longest time in seconds to wait for one master. By default, a Kubernetes probe fails after one
second without a response."""


@dataclass(frozen=True, slots=True)
class Health:
    """The health of Redis, as this process sees it.

    Args:
        latency_ms: round-trip time in ms of the slowest master that answers.
        covered: whether every slot has a master, and every master answers.
    """

    latency_ms: float
    covered: bool


async def check(store: Store) -> Health:
    """Ping every master.

    Raises:
        BackendUnavailable: no master answers, so no request can be served.
    """
    latencies_s = await store.redis.ping(PATIENCE_S)
    if not latencies_s:
        raise BackendUnavailable("no Redis master answers", outcome="not_applied")
    all_answer = len(latencies_s) == len(store.redis.topology.masters)
    return Health(round(max(latencies_s.values()) * 1000, 3), all_answer and store.redis.healthy)
