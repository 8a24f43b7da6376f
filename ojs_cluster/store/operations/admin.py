"""Test hook: forget everything."""

from __future__ import annotations

from typing import Any

from ojs_cluster.store.context import Store

_CHUNK = 1000


async def reset(store: Store) -> int:
    """Delete every key of this server but the schema and leadership; returns how many.

    The only place that scans, which is why it exists only behind the test hooks. Leaders stay:
    taking a running scheduler's lock away would test something else.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed = 0
    keep = tuple(
        key
        for tag in (*store.keys, store.keys.meta)
        for key in (tag.schema, tag.leader(""), tag.fencing_counter(""), tag.candidates(""))
    )
    for address in await store.redis.on_masters("PING"):
        cursor = b"0"
        while True:
            reply: Any = await store.redis.call_at(
                address, "SCAN", cursor, "MATCH", "ojs:*", "COUNT", _CHUNK
            )
            cursor, names = reply
            for name in names:
                if not name.startswith(keep):
                    await store.redis.call_at(address, "UNLINK", name)
                    removed += 1
            if cursor == b"0":
                break
    return removed
