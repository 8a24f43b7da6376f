"""Find the records of one tag, a page at a time; another leader can go on."""

from __future__ import annotations

import re
from typing import Any, Final

from ojs_cluster.store.ground.runtime import Runtime

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_PAGE: Final = 500
"""Number of keys that one SCAN call visits. Current servers visit only the keys of the pattern's
slot; a standalone server and earlier ones visit all keys of the node."""


async def scan_keys(
    store: Runtime, slot: int, pattern: bytes, cursor: bytes
) -> tuple[list[bytes], bytes | None]:
    """Return a page of keys, and the position of the next page; None after the last one.

    A position of SCAN is valid on the server that made it. After a failover, or after the slot has
    moved, the scan starts again, so that it misses no key, unless that happens between the two
    calls of the last page. It returns every key that exists all the time, and may return a key
    several times, or a page without keys before the last one.

    Args:
        store: the store.
        slot: the slot of the tag.
        pattern: glob pattern of the keys, with the hash tag of ``slot``.
        cursor: the position, ``<run id> <cursor of SCAN>``, ``b""`` for the first page.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    info: Any = await store.redis.call(slot, "INFO", "server", idempotent=True)
    found = _RUN_ID.search(info)
    server = found[1] if found else b"-"
    scanned, _, position = cursor.partition(b" ")
    if scanned != server:
        position = b"0"
    reply: Any = await store.redis.call(
        slot, "SCAN", position, "MATCH", pattern, "COUNT", _PAGE, idempotent=True
    )
    following, keys = reply
    return keys, None if following == b"0" else b"%b %b" % (server, following)
