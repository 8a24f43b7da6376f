"""How the data is laid out: written when the cluster is first used, checked by every process.

The record lies under the meta tag. Each shard keeps a copy, so that a process can start while the
master of the meta tag is away.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import over_shards

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

SCHEMA_VERSION = 1
_PATIENCE_S = 2.0
"""Time in seconds after which copies are looked for, and the longest wait for them."""


class UnusableBackend(Exception):
    """Redis answers, but must not be used as it is; the message says why and what to change."""


async def check_schema(store: Runtime, shards: int) -> None:
    """Compare the layout of the data with this server's; write it when there is none.

    Raises:
        UnusableBackend: another shard count or schema version.
        BackendUnavailable: neither the record nor a copy of it could be read.
    """
    record: list[int] = []
    copies: list[tuple[int, int]] = []
    failure: BackendUnavailable | None = None

    async with trio.open_nursery() as nursery:

        async def look_for_copies() -> None:
            if store.redis.answers(store.keys.meta.slot):
                await trio.sleep(_PATIENCE_S)
            copies.extend(await _copies(store))
            if copies:
                nursery.cancel_scope.cancel()

        nursery.start_soon(look_for_copies)
        keys, args = [store.keys.meta.schema], [SCHEMA_VERSION, shards]
        try:
            record.extend(map(int, await store.run_meta("schema", keys, args)))
            nursery.cancel_scope.cancel()
        except BackendUnavailable as error:
            failure = error
    if record:
        _compare(record[0], record[1], shards)
        await store.background.once("schema", partial(_copy, store), 0)
        return
    if not copies:
        raise BackendUnavailable(
            "the layout of the data cannot be read", outcome="not_applied"
        ) from failure
    log.warning("the meta tag's master is away; %d shards tell the layout", len(copies))
    for version, found in copies:
        _compare(version, found, shards)


def _compare(version: int, found: int, shards: int) -> None:
    if version != SCHEMA_VERSION:
        raise UnusableBackend(
            f"the data in Redis has schema version {version}, this server needs "
            f"{SCHEMA_VERSION}: run the server version that wrote it, or use an empty Redis"
        )
    if found != shards:
        raise UnusableBackend(
            f"the data in Redis is laid out over {found} shards, but OJS_SHARDS is {shards}: "
            f"set OJS_SHARDS={found} (the count is fixed when the cluster is first used)"
        )


async def _copy(store: Runtime) -> None:
    """Write the copies that are missing. A shard that is away gets its copy from a later start."""

    async def copy(shard: Shard) -> None:
        if store.redis.answers(shard.slot):
            args = [SCHEMA_VERSION, len(store.keys)]
            await store.run(shard, "schema", [shard.schema], args, idempotent=True)

    await over_shards(store.keys, copy)


async def _copies(store: Runtime) -> list[tuple[int, int]]:
    """Schema version and number of shards, from every shard that tells them in time."""
    found: list[tuple[int, int]] = []

    async def look(shard: Shard) -> None:
        with suppress(BackendUnavailable):
            copy: Any = await store.redis.call(
                shard.slot, "HMGET", shard.schema, "version", "shards", idempotent=True
            )
            if None not in copy:
                found.append((int(copy[0]), int(copy[1])))

    with trio.move_on_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for shard in store.keys:
                nursery.start_soon(look, shard)
    return found
