"""Store worker pools under the meta tag (spec: ojs-fair-scheduling 10.1).

There are at most ``MAX_POOLS``, so one hash has all of them. A process that gets a fetch for a pool
keeps a copy (``pool_table``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.pools.pool import Pool, decode, encode
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import VersionedHash

MAX_POOLS: Final = 100
"""Maximum number of pools of a cluster."""
POOLS: Final = VersionedHash("worker pool", Meta().pools, decode)
read_all: Final = POOLS.read_all


async def get_pool(store: Runtime, name: str) -> Pool:
    """Return one pool.

    Raises:
        NotFound: there is no such pool.
        BackendUnavailable: Redis did not answer in time.
    """
    pool = (await read_all(store)).records.get(name)
    if pool is None:
        raise NotFound("pool", name)
    return pool


async def set_pool(
    store: Runtime, wanted: Pool, check: Callable[[Pool | None], None]
) -> tuple[Pool, bool]:
    """Create a pool, or replace the one of the same name.

    Args:
        store: the store.
        wanted: the pool. Its times are set by Redis's clock.
        check: raises ``OJSError`` if the client may not replace the present pool. It is called
            again after a change by another client.

    Returns:
        The stored pool, and whether it is new.

    Raises:
        InvalidRequest: there are too many pools.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        snapshot = await read_all(store)
        old, record = snapshot.records.get(wanted.name), snapshot.stored.get(wanted.name, b"")
        check(old)
        now_ms = snapshot.now_ms if old is None else max(snapshot.now_ms, old.updated_ms + 1)
        created_ms = now_ms if old is None else old.created_ms
        new = msgspec.structs.replace(wanted, created_ms=created_ms, updated_ms=now_ms)
        reply = await _write(store, wanted.name, record, encode(new), now_ms)
        if reply == b"full":
            raise _too_many()
        if reply == b"ok":
            return new, old is None


async def restore(store: Runtime, pool: Pool) -> bool:
    """Store a pool of an export, with its times; return False if there is one of this name.

    Raises:
        InvalidRequest: there are too many pools.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    if await store.redis.call(meta.slot, "HGET", meta.pools, pool.name, idempotent=True):
        return False
    reply = await _write(store, pool.name, b"", encode(pool), pool.updated_ms)
    if reply == b"full":
        raise _too_many()
    return reply == b"ok"


async def delete_pool(store: Runtime, name: str, check: Callable[[Pool | None], None]) -> None:
    """Delete a pool. Fetches that name it are refused from then on.

    Args:
        store: the store.
        name: the pool.
        check: as for ``set_pool``.

    Raises:
        NotFound: there is no such pool.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        snapshot = await read_all(store)
        record = snapshot.stored.get(name)
        if record is None:
            raise NotFound("pool", name)
        check(snapshot.records.get(name))
        if await _write(store, name, record, b"", 0) == b"ok":
            return


def _too_many() -> InvalidRequest:
    return InvalidRequest(f"at most {MAX_POOLS} worker pools may exist", field="name")


async def _write(
    store: Runtime, name: str, expected: bytes, wanted: bytes, updated_ms: int
) -> bytes:
    meta = store.keys.meta
    reply: bytes = await store.run_meta(
        "pool_write",
        [meta.pools, meta.pool_counts(name)],
        [name, expected, wanted, MAX_POOLS, updated_ms],
    )
    return reply
