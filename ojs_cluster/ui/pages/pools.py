"""The worker pools: their strategies and queues, and what their fetches got."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 20
"""Number of pools of a page. A pool has up to 64 queues, each in a row."""
STRATEGIES: Final = {
    "round-robin": "each queue in turn",
    "weighted": "in proportion to the weights",
    "least-loaded": "the longest queue first",
    "strict": "in this order",
}
"""What each strategy does, in words."""


async def show_all(visit: Visit) -> Answer:
    """List the worker pools by name, with the queues of each."""
    configured, counted = orjson.loads(await _shared(visit))
    counts = {pool["name"]: pool for pool in counted}
    first = (visit.page - 1) * _PER_PAGE
    return Page(
        "queues/pools.html",
        {
            "pools": [_pool(each, counts) for each in configured[first : first + _PER_PAGE]],
            "total": len(configured),
            "page": visit.page,
            "has_more": len(configured) > first + _PER_PAGE,
        },
    )


async def _shared(visit: Visit) -> bytes:
    """Return the pools and their counts, which viewers of the whole cluster share.

    The page counts as one request of each of them.
    """
    if not visit.sees_cluster:
        return await _read(visit)
    visit.app.access.count_request(visit.principal)
    neutral = visit.as_any_viewer()
    return await visit.snapshots.get("pools", lambda: _read(neutral))


async def _read(visit: Visit) -> bytes:
    configured = orjson.loads(await visit.get("admin", "pools"))["items"]
    counted = orjson.loads(await visit.get("admin", "scheduling", "stats"))["pools"]
    return orjson.dumps([configured, counted])


def _pool(pool: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """Return a pool with its counts; none if it was created after they were read."""
    found = counts.get(pool["name"], {})
    got = {queue["name"]: queue for queue in found.get("queues", ())}
    weights = pool.get("weights", {})
    queues = []
    for name in pool["queues"]:
        numbers = got.get(name, {})
        queues.append(
            {
                "name": name,
                "weight": weights.get(name, 1) if pool["strategy"] == "weighted" else None,
                "jobs": numbers.get("dispatch_count", 0),
                "part": numbers.get("dispatch_ratio"),
                "planned": numbers.get("configured_ratio"),
            }
        )
    return {
        "name": pool["name"],
        "strategy": pool["strategy"],
        "words": STRATEGIES.get(pool["strategy"], ""),
        "since": pool["updated_at"],
        "fetches": found.get("fetches", 0),
        "jobs": found.get("dispatch_count", 0),
        "queues": queues,
    }
