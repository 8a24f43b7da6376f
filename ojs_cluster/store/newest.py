"""Read the newest members of sorted sets that each shard has for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently


async def newest_members(
    store: Store, key_of: Callable[[Shard], bytes], *, limit: int, offset: int
) -> tuple[list[str], int]:
    """Return a page of members of all shards, highest score first, and how many there are.

    The work is bounded by ``limit`` plus ``offset``, times the number of shards.

    Args:
        store: the store.
        key_of: returns the key of a shard's sorted set.
        limit: maximum number of members of the page.
        offset: how many members are skipped.
    """
    newest: list[tuple[float, str]] = []
    total = 0

    async def read(shard: Shard) -> None:
        nonlocal total
        key = key_of(shard)
        count: Any = await store.redis.call(shard.slot, "ZCARD", key, idempotent=True)
        if not count:
            return
        total += count
        flat: Any = await store.redis.call(
            shard.slot, *("ZREVRANGE", key, 0, offset + limit - 1, "WITHSCORES"), idempotent=True
        )
        items = iter(flat)
        newest.extend(
            (float(score), member.decode()) for member, score in zip(items, items, strict=True)
        )

    await run_concurrently(store.keys, read)
    newest.sort(reverse=True)
    return [member for _, member in newest[offset : offset + limit]], total
