"""The layout of the data: its schema version and its number of shards.

The first process that uses a Redis records the layout. Every later process compares its own layout
with the record at its start.

The record is stored under the meta tag. Each shard keeps a copy, so that a process can start while
the master of the meta tag is unreachable.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import run_concurrently

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

SCHEMA_VERSION = 1
_PATIENCE_S = 2.0
"""Time in seconds to wait for the record before the copies are read, and then for the copies."""


class UnusableBackend(Exception):
    """Redis answers, but is not usable in its current state; the message says what to change."""


async def check_schema(store: Runtime, shards: int) -> None:
    """Compare the layout of the data with that of this server; record it when there is none.

    Args:
        store: the store.
        shards: the number of shards that this server is configured for.

    Raises:
        UnusableBackend: the data has another number of shards or schema version.
        BackendUnavailable: the record and all its copies are unreadable.
    """
    record: list[int] = []
    copies: list[tuple[int, int]] = []
    failure: BackendUnavailable | None = None

    async with trio.open_nursery() as nursery:

        async def read_copies_late() -> None:
            if store.redis.is_responsive(store.keys.meta.slot):
                await trio.sleep(_PATIENCE_S)
            copies.extend(await _read_copies(store))
            if copies:
                nursery.cancel_scope.cancel()

        nursery.start_soon(read_copies_late)
        keys, args = [store.keys.meta.schema], [SCHEMA_VERSION, shards]
        try:
            record.extend(map(int, await store.run_meta("schema", keys, args)))
            nursery.cancel_scope.cancel()
        except BackendUnavailable as error:
            failure = error
    if record:
        _compare(record[0], record[1], shards)
        await store.background.once("schema", partial(_write_copies, store), 0)
        return
    if not copies:
        raise BackendUnavailable(
            "the layout of the data cannot be read", outcome="not_applied"
        ) from failure
    log.warning(
        "the master of the meta tag is unreachable; the layout comes from copies in %d shards",
        len(copies),
    )
    for version, stored_shards in copies:
        _compare(version, stored_shards, shards)


def _compare(version: int, stored_shards: int, shards: int) -> None:
    if version != SCHEMA_VERSION:
        raise UnusableBackend(
            f"the data in Redis has schema version {version}, this server needs "
            f"{SCHEMA_VERSION}: run the server version that wrote it, or use an empty Redis"
        )
    if stored_shards != shards:
        raise UnusableBackend(
            f"the data in Redis is laid out over {stored_shards} shards, but OJS_SHARDS is "
            f"{shards}: set OJS_SHARDS={stored_shards} (the first start fixes the number of shards)"
        )


async def _write_copies(store: Runtime) -> None:
    """Write missing copies. An unreachable shard gets its copy when a later process starts."""

    async def copy(shard: Shard) -> None:
        if store.redis.is_responsive(shard.slot):
            args = [SCHEMA_VERSION, len(store.keys)]
            await store.run(shard, "schema", [shard.schema], args, idempotent=True)

    await run_concurrently(store.keys, copy)


async def _read_copies(store: Runtime) -> list[tuple[int, int]]:
    """Return schema version and number of shards as stored in every shard that answers in time."""
    found: list[tuple[int, int]] = []

    async def read_copy(shard: Shard) -> None:
        with suppress(BackendUnavailable):
            copy: Any = await store.redis.call(
                shard.slot, "HMGET", shard.schema, "version", "shards", idempotent=True
            )
            if None not in copy:
                found.append((int(copy[0]), int(copy[1])))

    with trio.move_on_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for shard in store.keys:
                nursery.start_soon(read_copy, shard)
    return found
