"""Test hook that deletes all data."""

from __future__ import annotations

from typing import Any

from ojs_cluster.store.context import Store

_CHUNK = 1000
"""Number of keys that one SCAN call visits."""


async def reset(store: Store) -> int:
    """Delete the keys of this server, except schema and leader locks; return how many it deleted.

    Only test hooks may call this function, because SCAN visits all keys. Without the leader locks,
    schedulers would elect new leaders in the middle of a test.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed = 0
    kept_prefixes = tuple(
        key
        for tag in (*store.keys, store.keys.meta)
        for key in (tag.schema, tag.leader(""), tag.fencing_counter(""), tag.candidates(""))
    )
    for address in await store.redis.call_masters("PING"):
        cursor = b"0"
        while True:
            reply: Any = await store.redis.call_node(
                address, "SCAN", cursor, "MATCH", "ojs:*", "COUNT", _CHUNK
            )
            cursor, names = reply
            for name in names:
                if not name.startswith(kept_prefixes):
                    await store.redis.call_node(address, "UNLINK", name)
                    removed += 1
            if cursor == b"0":
                break
    await store.queue_defaults.try_read(store)
    return removed
