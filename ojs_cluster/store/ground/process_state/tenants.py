"""Read the settings of tenants, which are under the meta tag, and list the known tenants.

At most ``MAX_TENANTS`` tenants have settings, so one hash has all of them. Each process keeps a
copy (``tenant_table``). A tenant is known if it has settings, or if a process has registered it
because of a new job in the last ``REMEMBER_MS``.
"""

from __future__ import annotations

from typing import Any, Final

from ojs_cluster.core.tenants.settings import decode
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.listed import Listed, Position, scored_names
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import VersionedHash

MAX_TENANTS: Final = 1000
"""Maximum number of tenants with settings."""
MAX_KNOWN: Final = 100_000
"""Maximum number of tenants in the list."""
REMEMBER_MS: Final = 30 * 86_400_000
"""Time in ms after which a tenant without new jobs and without settings leaves the list."""
TENANTS: Final = VersionedHash("tenant", Meta().tenants, decode)
read_all: Final = TENANTS.read_all


async def last_seen_ms(store: Runtime, tenant: str) -> int | None:
    """Return when a tenant was last registered, as Unix time in ms; None if it is not listed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    found: Any = await store.redis.call(
        meta.slot, "ZSCORE", meta.known_tenants, tenant, idempotent=True
    )
    return None if found is None else int(float(found))


async def list_known(
    store: Runtime, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[tuple[str, int]]:
    """Return a page of the known tenants, the most recently registered first.

    A tenant that is registered between two requests goes to the front. The list shows none twice,
    but a tenant that no page has shown may then be missing.

    Args:
        store: the store.
        limit: the maximum number of tenants of the page.
        offset: the number of tenants before the page, unless ``after`` is given.
        after: when the last tenant before the page was registered, and its name.

    Returns:
        Each tenant of the page, with the Unix time in ms at which it was last registered; and the
        number of known tenants.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    total: Any
    rows: Any
    if after is not None:
        arguments = [*after, 1, limit + 1]
        total, *rows = await store.run_meta("sorted_set_after", [meta.known_tenants], arguments)
    else:
        total = await store.redis.call(meta.slot, "ZCARD", meta.known_tenants, idempotent=True)
        rows = await store.redis.call(
            meta.slot,
            *("ZREVRANGE", meta.known_tenants, offset, offset + limit, "WITHSCORES"),
            idempotent=True,
        )
    found = [(name, at) for at, name in scored_names(rows)]
    last = found[limit - 1][::-1] if len(found) > limit else None
    return Listed(found[:limit], int(total), last)
