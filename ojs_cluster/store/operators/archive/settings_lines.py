"""Export and import the settings of tenants and the worker pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.pools import pool as pool_records
from ojs_cluster.core.pools.pool import Pool, new_pool
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.tenants import settings as tenant_records
from ojs_cluster.core.tenants.settings import TenantSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.tenants import changes
from ojs_cluster.store.ground.process_state import pools, tenants
from ojs_cluster.store.operators.archive.line_values import (
    InvalidLine,
    PoolLine,
    TenantLine,
    number,
)


async def export_settings(store: Store, put: Callable[[str, TenantLine | PoolLine], None]) -> None:
    """Write a line for each tenant with settings, and for each pool.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    for settings in (await tenants.read_all(store)).records.values():
        put("tenants", TenantLine(settings))
    for pool in (await pools.read_all(store)).records.values():
        put("pools", PoolLine(pool))


def tenant_pieces(settings: TenantSettings) -> dict[str, Raw]:
    """Return the members of the line of a tenant: those of its record."""
    return raw_json.object_members(tenant_records.encode(settings)) or {}


def pool_pieces(pool: Pool) -> dict[str, Raw]:
    """Return the members of the line of a pool: those of its record."""
    return raw_json.object_members(pool_records.encode(pool)) or {}


def parse_tenant_line(members: Mapping[str, Raw]) -> TenantLine:
    """Return the settings of a tenant with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    _check_times(members)
    try:
        settings = tenant_records.decode(b"{%b}" % raw_json.join(dict(members)))
    except ValueError as error:
        raise InvalidLine(f"the settings of the tenant are not valid: {error}") from None
    if len(settings.reason) > tenant_records.MAX_REASON_LENGTH:
        raise InvalidLine("the reason of the tenant is too long")
    return TenantLine(settings)


def parse_pool_line(members: Mapping[str, Raw]) -> PoolLine:
    """Return the pool with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    _check_times(members)
    try:
        found = pool_records.decode(b"{%b}" % raw_json.join(dict(members)))
        new_pool(found.name, found.strategy, found.queues, found.weights)  # checks the values
    except (ValueError, InvalidRequest) as error:
        raise InvalidLine(f"the pool is not valid: {error}") from None
    return PoolLine(found)


def _check_times(members: Mapping[str, Raw]) -> None:
    for name in ("created_ms", "updated_ms"):
        number(members, name)


async def restore_tenant(store: Store, settings: TenantSettings) -> bool:
    """Store the settings of a tenant with their times; return False if it has settings.

    The weight is not copied to the shards. The import does this once, after the lines of all
    tenants, because each copy has the weights of all of them.

    Raises:
        InvalidLine: too many tenants have settings.
        BackendUnavailable: Redis did not answer in time.
    """
    try:
        return await changes.restore(store, settings)
    except InvalidRequest as error:
        raise InvalidLine(error.message) from None


async def restore_pool(store: Store, pool: Pool) -> bool:
    """Store a pool with its times; return False if it exists.

    Raises:
        InvalidLine: there are too many pools.
        BackendUnavailable: Redis did not answer in time.
    """
    try:
        return await pools.restore(store, pool)
    except InvalidRequest as error:
        raise InvalidLine(error.message) from None
