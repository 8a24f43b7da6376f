"""List workers by when they were last seen, or by their ids."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.newest import newest_members
from ojs_cluster.store.features.workers.workers import WorkerInfo, get
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position

_MAX_NAMED_PER_SHARD = 500
"""Maximum number of workers of a shard that a list by name reads. With 64 shards, the smallest of
32 000 names are found in about 5 ms."""


async def list_workers(
    store: Store, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[WorkerInfo]:
    """Return a page of workers, the last seen first, with the number of all workers.

    A worker that is seen between two requests goes to the front. The list shows none twice, but a
    worker that no page has shown may then be missing.

    Args:
        store: the store.
        limit: maximum number of workers of the page.
        offset: how many workers are skipped, unless ``after`` is given.
        after: Unix time in ms at which the last worker before the page was seen, and its id.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    ids, total, last = await newest_members(
        store, lambda shard: shard.workers, limit=limit, offset=offset, after=after
    )
    return Listed(await read_workers(store, ids), total, last)


async def list_by_name(
    store: Store, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[WorkerInfo]:
    """Return a page of workers in the order of their ids, with the number of all workers.

    If a shard has more than ``_MAX_NAMED_PER_SHARD`` workers, only those that were seen last are
    listed.

    Args:
        store: the store.
        limit: maximum number of workers of the page.
        offset: how many workers are skipped, unless ``after`` is given.
        after: id of the last worker before the page.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    known: list[bytes] = []
    total = 0

    async def read(shard: Shard) -> None:
        nonlocal total
        names: Any = await store.redis.call(
            shard.slot, "ZREVRANGE", shard.workers, 0, _MAX_NAMED_PER_SHARD - 1, idempotent=True
        )
        known.extend(names)
        total += len(names)
        if len(names) == _MAX_NAMED_PER_SHARD:
            count: Any = await store.redis.call(shard.slot, "ZCARD", shard.workers, idempotent=True)
            total += count - len(names)

    await run_concurrently(store.keys, read)
    skip = offset
    if after is not None:
        skip, last_before = 0, str(after[0]).encode()
        known = [name for name in known if name > last_before]
    names = heapq.nsmallest(skip + limit + 1, known)[skip:]
    ids = [name.decode() for name in names[:limit]]
    last = (ids[-1],) if len(names) > limit else None
    return Listed(await read_workers(store, ids), total, last)


async def read_workers(store: Store, ids: Sequence[str]) -> list[WorkerInfo]:
    """Return the records of workers in the given order, without those that were removed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, WorkerInfo] = {}

    async def read(worker_id: str) -> None:
        with suppress(NotFound):
            found[worker_id] = await get(store, worker_id)

    await run_concurrently(ids, read)
    return [found[worker_id] for worker_id in ids if worker_id in found]
