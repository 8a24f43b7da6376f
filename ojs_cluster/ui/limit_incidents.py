"""Read which rate limit keys are full while jobs wait for them, and who holds their tokens."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.rate_limits.rate_limits import RateLimitKeyStatus, get_key
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics

_WAITED_MS: Final = 60_000
"""Age in ms of the oldest available job of a queue from which its rate limit keys are read."""
_MAX_QUEUES: Final = 10
_MAX_JOBS: Final = 10
"""Number of blocked jobs of a partition whose keys are read."""
_MAX_KEYS: Final = 10
_MAX_HOLDERS: Final = 3
_MAX_FULL: Final = 3
"""Number of full keys that are reported."""


class FullKey(msgspec.Struct, frozen=True):
    """A rate limit key that lets no further job start now.

    Args:
        key: the key.
        limit: how many jobs it lets run at the same time, or start in a period.
        is_rate: whether the limit is one of starts.
        holders: workers that run its jobs, or ids of those without a worker; the first ones.
        queues: queues all of whose waiting jobs are blocked.
    """

    key: str
    limit: int
    is_rate: bool
    holders: list[str]
    queues: list[str]


async def find_full(store: Store, metrics: ClusterMetrics) -> list[FullKey]:
    """Return the full keys that jobs have waited for, those of the longest waiting first.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    ages = {
        name: queue.oldest_ms
        for name, queue in metrics.queues.items()
        if queue.oldest_ms >= _WAITED_MS and not queue.paused
    }
    queues_of: dict[str, list[str]] = {}
    for name in heapq.nlargest(_MAX_QUEUES, ages, key=lambda each: ages[each]):
        keys, is_blocked = await _keys_of(store, name)
        for key in keys:
            queues_of.setdefault(key, [])
            if is_blocked:
                queues_of[key].append(name)
    found = [await _read(store, key, queues_of[key]) for key in list(queues_of)[:_MAX_KEYS]]
    return [each for each in found if each is not None][:_MAX_FULL]


async def _keys_of(store: Store, queue: str) -> tuple[Sequence[str], bool]:
    """Return the keys of the first blocked jobs, and whether no other job waits in the queue."""
    keys: dict[str, None] = {}
    others = 0
    for shard in await store.partitions.occupied_shards(store, queue):
        card: Any = await store.redis.call(
            shard.slot, "ZCARD", shard.queue_available(queue), idempotent=True
        )
        others += card
        ids: Any = await store.redis.call(
            *(shard.slot, "ZRANGE", shard.queue_blocked(queue), 0, _MAX_JOBS - 1), idempotent=True
        )
        for job_id in ids:
            limit: Any = await store.redis.call(
                shard.slot, "HGET", shard.job(job_id.decode()), f.LIMIT, idempotent=True
            )
            if limit:
                keys[limit.split(b" ")[0].decode(errors="replace")] = None
            else:
                others += 1  # it waits for a worker of its type
    return list(keys), not others


async def _read(store: Store, key: str, queues: list[str]) -> FullKey | None:
    """Return a key if it is full and jobs wait for it."""
    try:
        status = await get_key(store, key)
    except NotFound:
        return None
    reached = _reached(status)
    if reached is None or not status.waiting:
        return None
    limit, is_rate = reached
    shard = store.keys.shard_of_limit(key)
    tokens: Any = await store.redis.call(
        *(shard.slot, "ZRANGE", shard.token_holders(key), 0, _MAX_HOLDERS - 1), idempotent=True
    )
    holders = [await _holder(store, token.decode(errors="replace")) for token in tokens]
    return FullKey(key, limit, is_rate, list(dict.fromkeys(holders)), queues)


async def _holder(store: Store, token: str) -> str:
    """Return the worker of a token's job, or its id without a worker.

    A token is the number of the job's shard, its id, and the number of its request.
    """
    index, _, rest = token.partition("/")
    job_id = rest.rpartition("/")[0]
    if not index.isdigit() or int(index) >= len(store.keys):
        return job_id
    job_shard = store.keys.shard(int(index))
    worker: Any = await store.redis.call(
        job_shard.slot, "HGET", job_shard.job(job_id), f.WORKER, idempotent=True
    )
    return (worker or b"").decode(errors="replace") or job_id


def _reached(status: RateLimitKeyStatus) -> tuple[int, bool] | None:
    """Return the limit that is reached, and whether it is one of starts; None if none is."""
    limits = status.usage.limits
    if limits.concurrency is not None and status.usage.active >= limits.concurrency:
        return limits.concurrency, False
    if limits.rate is not None and status.usage.started >= limits.rate.limit:
        return limits.rate.limit, True
    return None
