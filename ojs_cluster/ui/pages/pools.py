"""The worker pools: their strategies and queues, and what their fetches got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.pools.pool import WEIGHTED, Pool
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.context import Store
from ojs_cluster.store.pools import pools as store_pools
from ojs_cluster.store.pools.pool_table import read_counts
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 10
"""Number of pools of a page. A pool has up to 64 queues, each in a row."""
STRATEGIES: Final = {
    "round-robin": "each queue in turn",
    "weighted": "in proportion to the weights",
    "least-loaded": "the longest queue first",
    "strict": "in this order",
}
"""What each strategy does, in words."""


async def show_all(visit: Visit) -> Answer:
    """List the worker pools by name, with the queues of each.

    Viewers of the whole cluster share what is read. A key for some queues sees the pools of which
    it may access all queues.
    """
    visit.app.access.count_request(visit.principal)
    store, page, queues = visit.app.store, visit.page, visit.principal.queues
    if queues is None:
        raw = await visit.snapshots.get(f"pools {page}", lambda: _read(store, page, None))
    else:
        raw = await _read(store, page, queues)
    found = orjson.loads(raw)
    return Page("queues/pools.html", {**found, "page": page, "words": STRATEGIES})


async def _read(store: Store, page: int, queues: QueuePatterns | None) -> bytes:
    """Return one page of the pools, without the counts of pools on other pages."""
    pools = (await store_pools.read_all(store)).pools().values()
    seen = [pool for pool in pools if queues is None or all(map(queues.admits, pool.queues))]
    first = (page - 1) * _PER_PAGE
    shown = seen[first : first + _PER_PAGE]
    await store.pools.flush(store)
    counts = await read_counts(store, [pool.name for pool in shown])
    return orjson.dumps(
        {
            "pools": [_pool(pool, counts[pool.name]) for pool in shown],
            "total": len(seen),
            "has_more": len(seen) > first + _PER_PAGE,
        }
    )


def _pool(pool: Pool, counted: Mapping[str, int]) -> dict[str, Any]:
    shares, jobs = pool.shares, sum(counted.get(queue, 0) for queue in pool.queues)
    all_shares = sum(shares.values())
    return {
        "name": pool.name,
        "strategy": pool.strategy,
        "since": format_ms(pool.updated_ms).decode(),
        "fetches": counted.get("#", 0),
        "jobs": jobs,
        "queues": [
            {
                "name": queue,
                "weight": shares[queue] if pool.strategy == WEIGHTED else None,
                "jobs": counted.get(queue, 0),
                "part": counted.get(queue, 0) / jobs if jobs else None,
                "planned": shares[queue] / all_shares if all_shares else None,
            }
            for queue in pool.queues
        ],
    }
