"""Is Redis there, and all of it?"""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store

PATIENCE_S = 0.5
"""Longest wait in seconds for one master: a probe has a second."""


@dataclass(frozen=True, slots=True)
class Health:
    """What Redis can do now.

    Args:
        latency_ms: round trip to the slowest master that answers.
        covered: whether every slot has a master, and every master answers.
    """

    latency_ms: float
    covered: bool


async def check(store: Store) -> Health:
    """Ask every master for a sign of life.

    Raises:
        BackendUnavailable: no master answers, so no request can be served.
    """
    took = await store.redis.ping(PATIENCE_S)
    if not took:
        raise BackendUnavailable("no Redis master answers", outcome="not_applied")
    all_answer = len(took) == len(store.redis.topology.masters)
    return Health(round(max(took.values()) * 1000, 3), all_answer and store.redis.healthy)
