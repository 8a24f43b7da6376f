"""Store the settings of tenants under the meta tag, and list the known tenants.

At most ``MAX_TENANTS`` tenants have settings, so one hash has all of them. Each process keeps a
copy (``tenant_table``). A tenant is known if it has settings, or if a process has registered it
because of a new job in the last ``REMEMBER_MS``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.tenants.settings import TenantSettings, decode, encode
from ojs_cluster.store.runtime import Arg, Runtime
from ojs_cluster.store.versioned_hash import VersionedHash, read_versioned_hash

log = logging.getLogger("ojs.store")

MAX_TENANTS: Final = 1000
"""Maximum number of tenants with settings."""
MAX_KNOWN: Final = 100_000
"""Maximum number of tenants in the list."""
REMEMBER_MS: Final = 30 * 86_400_000
"""Time in ms after which a tenant without new jobs and without settings leaves the list."""


@dataclass(frozen=True, slots=True)
class TenantSnapshot(VersionedHash):
    """The settings of all tenants at one time."""

    def get(self, tenant: str) -> TenantSettings | None:
        """Return the settings of a tenant, None if it has none or they are damaged."""
        record = self.records.get(tenant)
        if record is None:
            return None
        try:
            return decode(record)
        except ValueError as error:
            log.warning("the settings of tenant %s are damaged: %s", tenant, error)
            return None

    def settings(self) -> dict[str, TenantSettings]:
        """Return the settings by tenant. A damaged record is left out."""
        found = ((tenant, self.get(tenant)) for tenant in self.records)
        return {tenant: settings for tenant, settings in found if settings is not None}


async def read_changed(store: Runtime, known: bytes) -> TenantSnapshot | None:
    """Return all settings, or None if ``known`` is their version.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await read_versioned_hash(store, store.keys.meta.tenants, known, TenantSnapshot)


async def read_all(store: Runtime) -> TenantSnapshot:
    """Return the settings of all tenants.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found = await read_changed(store, b"")
    return found or TenantSnapshot(0, b"", {})


async def change(
    store: Runtime, tenant: str, changed: Callable[[TenantSettings | None], TenantSettings]
) -> tuple[TenantSettings, bool]:
    """Change the settings of a tenant.

    Args:
        store: the store.
        tenant: the tenant.
        changed: returns the new settings, without their times, from the present ones. It is called
            again after a change by another client.

    Returns:
        The stored settings, and whether the tenant had none before.

    Raises:
        InvalidRequest: too many tenants have settings.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        snapshot = await read_all(store)
        old, now_ms = snapshot.get(tenant), snapshot.now_ms
        wanted = changed(old)
        new = TenantSettings(
            tenant_id=tenant,
            limits=wanted.limits,
            reason=wanted.reason,
            created_ms=now_ms if old is None else old.created_ms,
            updated_ms=now_ms if old is None else max(now_ms, old.updated_ms + 1),
        )
        reply = await _write(store, tenant, snapshot.records.get(tenant, b""), encode(new))
        if reply == b"full":
            raise InvalidRequest(f"at most {MAX_TENANTS} tenants may have settings", field="id")
        if reply == b"ok":
            return new, old is None


async def delete(store: Runtime, tenant: str) -> None:
    """Delete the settings of a tenant, and remove it from the list until its next job.

    Raises:
        NotFound: the tenant is not known.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        record = (await read_all(store)).records.get(tenant, b"")
        if not record and await last_seen_ms(store, tenant) is None:
            raise NotFound("tenant", tenant)
        if await _write(store, tenant, record, b"") == b"ok":
            return


async def _write(store: Runtime, tenant: str, expected: bytes, wanted: bytes) -> bytes:
    meta = store.keys.meta
    args: list[Arg] = [tenant, expected, wanted, MAX_TENANTS]
    reply: bytes = await store.run_meta("tenant_write", [meta.tenants, meta.known_tenants], args)
    return reply


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


async def list_known(store: Runtime, offset: int, limit: int) -> tuple[int, dict[str, int]]:
    """Return a page of the known tenants, the most recently registered first.

    Args:
        store: the store.
        offset: the number of tenants before the page.
        limit: the maximum number of tenants of the page.

    Returns:
        The number of known tenants; and when each tenant of the page was last registered, as Unix
        time in ms.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    total: Any = await store.redis.call(meta.slot, "ZCARD", meta.known_tenants, idempotent=True)
    rows: Any = await store.redis.call(
        meta.slot,
        "ZREVRANGE",
        meta.known_tenants,
        offset,
        offset + limit - 1,
        "WITHSCORES",
        idempotent=True,
    )
    pairs = iter(rows)
    found = {
        name.decode(errors="replace"): int(float(at)) for name, at in zip(pairs, pairs, strict=True)
    }
    return int(total), found
