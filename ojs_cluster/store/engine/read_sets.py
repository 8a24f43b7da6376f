"""Read the sizes and the members of many sorted sets, by one script for hundreds of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.portions import PORTION_KEYS, portion_ranges

_MEMBERS: Final = 2000
"""Maximum number of members that a script reads. It takes about 1 ms. A command reads a set with
more members: without the conversion of its reply in Lua it takes a fraction of the time."""

ShardKey = tuple[Shard, bytes]
"""A shard, and one of its keys."""


async def read_sizes(store: Store, sets: Iterable[ShardKey]) -> dict[ShardKey, int]:
    """Return the number of members of each sorted set, without the empty sets.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    sizes: dict[ShardKey, int] = {}

    async def read(portion: tuple[Shard, list[bytes]]) -> None:
        shard, keys = portion
        found: Any = await store.run(shard, "sorted_set_sizes", keys, idempotent=True)
        sizes.update(((shard, key), size) for key, size in zip(keys, found, strict=True) if size)

    await run_concurrently(_portions(dict.fromkeys(sets, 1)), read)
    return sizes


async def read_lowest_scores(store: Store, sets: Iterable[ShardKey]) -> dict[ShardKey, float]:
    """Return the lowest score of each sorted set, without the empty sets.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    scores: dict[ShardKey, float] = {}

    async def read(item: ShardKey) -> None:
        shard, key = item
        first: Any = await store.redis.call(
            shard.slot, "ZRANGE", key, 0, 0, "WITHSCORES", idempotent=True
        )
        if first:
            scores[item] = float(first[1])

    await run_concurrently(sets, read)
    return scores


async def read_members(store: Store, sizes: Mapping[ShardKey, int]) -> dict[ShardKey, list[bytes]]:
    """Return the members of sorted sets in the order of their scores.

    Args:
        store: the store.
        sizes: the sets, with the maximum number of members to read of each.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    members: dict[ShardKey, list[bytes]] = {}

    async def read(portion: tuple[Shard, list[bytes]]) -> None:
        shard, keys = portion
        counts = [sizes[shard, key] for key in keys]
        if counts[0] > _MEMBERS:  # the only set of this portion
            some: Any = await store.redis.call(
                shard.slot, "ZRANGE", keys[0], 0, counts[0] - 1, idempotent=True
            )
            members[shard, keys[0]] = some
            return
        found: Any = await store.run(shard, "sorted_set_members", keys, counts, idempotent=True)
        members.update(((shard, key), each) for key, each in zip(keys, found, strict=True))

    await run_concurrently(_portions(sizes), read)
    return members


def _portions(sizes: Mapping[ShardKey, int]) -> Iterator[tuple[Shard, list[bytes]]]:
    """Yield the sets of each shard in portions that are small enough for one script."""
    keys_of: dict[Shard, list[bytes]] = {}
    for shard, key in sizes:
        keys_of.setdefault(shard, []).append(key)
    for shard, keys in keys_of.items():
        counts = [sizes[shard, key] for key in keys]
        for start, end in portion_ranges(counts, PORTION_KEYS, _MEMBERS):
            yield shard, keys[start:end]
