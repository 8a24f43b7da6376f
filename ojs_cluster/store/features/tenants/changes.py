"""Change the settings of tenants, which are under the meta tag.

The weights are copied to all shards, where fetches read them (``weights``).
"""

from __future__ import annotations

from collections.abc import Callable

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.tenants.settings import NO_WEIGHT, TenantSettings, encode
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.tenants.weights import mirror_weights
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.tenants import MAX_TENANTS, last_seen_ms, read_all
from ojs_cluster.store.ground.runtime import Arg


async def change(
    store: Store, tenant: str, changed: Callable[[TenantSettings | None], TenantSettings]
) -> tuple[TenantSettings, bool]:
    """Change the settings of a tenant, and copy a new weight to all shards.

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
        old, now_ms = snapshot.records.get(tenant), snapshot.now_ms
        wanted = changed(old)
        new = TenantSettings(
            tenant_id=tenant,
            limits=wanted.limits,
            reason=wanted.reason,
            fairness_weight=wanted.fairness_weight,
            created_ms=now_ms if old is None else old.created_ms,
            updated_ms=now_ms if old is None else max(now_ms, old.updated_ms + 1),
        )
        reply = await _write(store, tenant, snapshot.stored.get(tenant, b""), encode(new))
        if reply == b"full":
            raise _too_many()
        if reply == b"ok":
            await _mirror_changed(store, old, new)
            return new, old is None


async def restore(store: Store, settings: TenantSettings) -> bool:
    """Store settings of an export, with their times; return False if the tenant has settings.

    The caller copies the weights of all tenants to the shards (``mirror_weights``).

    Raises:
        InvalidRequest: too many tenants have settings.
        BackendUnavailable: Redis did not answer in time.
    """
    meta, tenant = store.keys.meta, settings.tenant_id
    if await store.redis.call(meta.slot, "HGET", meta.tenants, tenant, idempotent=True):
        return False
    reply = await _write(store, tenant, b"", encode(settings))
    if reply == b"full":
        raise _too_many()
    return reply == b"ok"


async def delete(store: Store, tenant: str) -> None:
    """Delete the settings of a tenant, and remove it from the list until its next job.

    Raises:
        NotFound: the tenant is not known.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        snapshot = await read_all(store)
        record = snapshot.stored.get(tenant, b"")
        if not record and await last_seen_ms(store, tenant) is None:
            raise NotFound("tenant", tenant)
        if await _write(store, tenant, record, b"") == b"ok":
            await _mirror_changed(store, snapshot.records.get(tenant), None)
            return


def _too_many() -> InvalidRequest:
    return InvalidRequest(f"at most {MAX_TENANTS} tenants may have settings", field="id")


async def _write(store: Store, tenant: str, expected: bytes, wanted: bytes) -> bytes:
    meta = store.keys.meta
    keys = [meta.tenants, meta.known_tenants, meta.events]
    args: list[Arg] = [store.events_arg, tenant, expected, wanted, MAX_TENANTS]
    reply: bytes = await store.run_meta("tenant_write", keys, args)
    return reply


async def _mirror_changed(
    store: Store, old: TenantSettings | None, new: TenantSettings | None
) -> None:
    """Copy the weights to all shards after a change, unless the weight is the same."""
    weights = [
        NO_WEIGHT if settings is None else settings.fairness_weight for settings in (old, new)
    ]
    if weights[0] != weights[1]:
        with after_first_write():
            await mirror_weights(store)
