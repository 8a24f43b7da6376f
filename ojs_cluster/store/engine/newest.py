"""Read the newest members of sorted sets that each shard has for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position, scored_names


async def newest_members(
    store: Store,
    key_of: Callable[[Shard], bytes],
    *,
    limit: int,
    offset: int = 0,
    after: Position | None = None,
) -> Listed[str]:
    """Return a page of members of all shards, highest score first, with the number of all members.

    The work is bounded by ``limit`` plus ``offset``, times the number of shards.

    Args:
        store: the store.
        key_of: returns the key of a shard's sorted set.
        limit: maximum number of members of the page.
        offset: how many members are skipped, unless ``after`` is given.
        after: score and name of the last member before the page, which may be missing.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    newest: list[tuple[int, str]] = []
    total = 0
    skip = offset if after is None else 0

    async def read(shard: Shard) -> None:
        nonlocal total
        # One more member than requested tells whether others follow.
        found, size = await read_newest(
            store, shard, key_of(shard), limit=skip + limit + 1, after=after
        )
        total += size
        newest.extend(found)

    await run_concurrently(store.keys, read)
    newest.sort(reverse=True)
    last = newest[skip + limit - 1] if len(newest) > skip + limit else None
    return Listed([member for _, member in newest[skip : skip + limit]], total, last)


async def read_newest(
    store: Store,
    shard: Shard,
    key: bytes,
    *,
    limit: int,
    offset: int = 0,
    after: Position | None = None,
) -> tuple[list[tuple[int, str]], int]:
    """Return scores and names of members of one sorted set, highest score first, and its size.

    Args:
        store: the store.
        shard: the shard of the set.
        key: the key of the set.
        limit: maximum number of members that are returned.
        offset: how many members are skipped, unless ``after`` is given.
        after: score and name of the last member before, which may be missing.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    flat: Any
    if after is not None:
        size, *flat = await store.run(
            shard, "sorted_set_after", [key], [*after, 1, limit], idempotent=True
        )
    else:
        size = await store.redis.call(shard.slot, "ZCARD", key, idempotent=True)
        if not size:
            return [], 0
        flat = await store.redis.call(
            shard.slot,
            *("ZREVRANGE", key, offset, offset + limit - 1, "WITHSCORES"),
            idempotent=True,
        )
    return scored_names(flat), int(size)
