"""Read how many jobs a tenant has (spec: ojs-multi-tenancy 10.2).

Each transition changes the counters in its own shard, in the same script. So the counters are exact
in each shard, and their sums are exact when no job changes its state during the read. A process of
an earlier version does not count (docs/upgrading.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.ground.fanout import run_concurrently

TOTALS: Final = ("enqueued", "acked", "failed", "retried_total", "discarded_total")
"""The counters that only grow. They begin again after a tenant has had no jobs for a week,
and those of a queue as soon as the tenant has no jobs in it."""
_NAMES: Final = (*(state.value for state in State), *TOTALS)
_CHUNK: Final = 100
"""Maximum number of tenants that one script reads."""


async def read_counts(store: Store, tenant: str) -> Mapping[str, int]:
    """Return the number of a tenant's jobs in each state, and the ``TOTALS``, of all queues.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await _sum(store, store.keys, tenant, "")


async def read_queue_counts(store: Store, tenant: str, queue: str) -> Mapping[str, int]:
    """Return the numbers of ``read_counts`` for the jobs of one queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    return await _sum(store, shards, tenant, f"{queue}/")


async def _sum(
    store: Store, shards: Iterable[Shard], tenant: str, prefix: str
) -> Mapping[str, int]:
    sums = dict.fromkeys(_NAMES, 0)
    names = [f"{prefix}{name}" for name in _NAMES]

    async def read(shard: Shard) -> None:
        values: Any = await store.redis.call(
            shard.slot, "HMGET", shard.tenant_counters(tenant), *names, idempotent=True
        )
        for name, value in zip(_NAMES, values, strict=True):
            # A process of version 0.1 may leave the number of one shard below zero.
            sums[name] += max(0, read_number(value))

    await run_concurrently(list(shards), read)
    return sums


async def read_states(store: Store, tenants: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of jobs in each state for some tenants, with one call for each shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await _sum_of_tenants(store, tenants, [state.value for state in State])


async def read_many(store: Store, tenants: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the numbers of ``read_counts`` for many tenants, with few calls for each shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, dict[str, int]] = {}
    for start in range(0, len(tenants), _CHUNK):
        chunk = tenants[start : start + _CHUNK]
        found |= await _sum_of_tenants(store, chunk, _NAMES)
    return found


async def count_queues(store: Store, tenants: Sequence[str]) -> dict[str, int]:
    """Return the number of queues in which each tenant has jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    queues: dict[str, set[bytes]] = {tenant: set() for tenant in tenants}

    async def read(pair: tuple[str, Shard]) -> None:
        tenant, shard = pair
        names: Any = await store.redis.call(
            shard.slot, "HKEYS", shard.tenant_counters(tenant), idempotent=True
        )
        queues[tenant].update(name.rpartition(b"/")[0] for name in names if b"/" in name)

    await run_concurrently([(each, shard) for each in tenants for shard in store.keys], read)
    return {tenant: len(found) for tenant, found in queues.items()}


async def _sum_of_tenants(
    store: Store, tenants: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    sums = {tenant: dict.fromkeys(names, 0) for tenant in tenants}
    if not tenants:
        return sums

    async def read(shard: Shard) -> None:
        keys = [shard.tenant_counters(tenant) for tenant in tenants]
        numbers = iter(await store.run(shard, "tenant_sums", keys, names, idempotent=True))
        for tenant in tenants:
            for name in names:
                sums[tenant][name] += next(numbers)

    await run_concurrently(list(store.keys), read)
    return sums
