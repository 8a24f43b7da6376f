"""Read which tenants keep the jobs of others waiting in a queue."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import msgspec

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.fair_share import has_fair_share
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics

_WAITED_MS: Final = 60_000
"""Age in ms of the oldest available job of a queue from which its tenants are read."""
_MAX_QUEUES: Final = 3
_SAMPLE: Final = 50
"""Number of jobs at each end of a partition whose tenants are read."""
_SHARE: Final = 0.8
"""Share of the first jobs from which a tenant keeps others waiting."""


class GreedyTenant(msgspec.Struct, frozen=True):
    """A tenant whose jobs are first in a queue, while others wait behind them.

    Args:
        tenant: the tenant.
        queue: the queue.
        percent: its share of the first jobs.
        behind: a tenant that waits behind it; empty for jobs without a tenant.
    """

    tenant: str
    queue: str
    percent: int
    behind: str


async def find_greedy(
    store: Store, metrics: ClusterMetrics, unserved: Collection[str]
) -> list[GreedyTenant]:
    """Return tenants that keep others waiting, of the queues that have waited longest.

    In a queue with fair share the tenants take turns, so none does.

    Args:
        store: the store.
        metrics: the brief metrics.
        unserved: queues from which no worker fetches, so that all tenants wait.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    ages = {
        name: queue.oldest_ms
        for name, queue in metrics.queues.items()
        if queue.oldest_ms >= _WAITED_MS and not queue.paused and name not in unserved
    }
    found = []
    for name in heapq.nlargest(_MAX_QUEUES, ages, key=lambda each: ages[each]):
        if await has_fair_share(store, name):
            continue
        first: Counter[str] = Counter()
        last: Counter[str] = Counter()
        for shard in await store.partitions.occupied_shards(store, name):
            first += await _tenants(store, shard, "ZRANGE", name)
            last += await _tenants(store, shard, "ZREVRANGE", name)
        [(tenant, jobs)] = first.most_common(1) or [("", 0)]
        behind = [each for each, _ in last.most_common() if each != tenant]
        if tenant and behind and jobs >= max(_SAMPLE * _SHARE, first.total() * _SHARE):
            percent = round(100 * jobs / first.total())
            found.append(GreedyTenant(tenant, name, percent, behind[0]))
    return found


async def _tenants(store: Store, shard: Shard, command: str, queue: str) -> Counter[str]:
    """Count the tenants of the first jobs of a queue, or of the last ones."""
    key = shard.queue_available(queue)
    ids: Any = await store.redis.call(shard.slot, command, key, 0, _SAMPLE - 1, idempotent=True)
    tenants: Counter[str] = Counter()
    for job_id in ids:
        tenant: Any = await store.redis.call(
            shard.slot, "HGET", shard.job(job_id.decode()), f.TENANT, idempotent=True
        )
        tenants[(tenant or b"").decode(errors="replace")] += 1
    return tenants
