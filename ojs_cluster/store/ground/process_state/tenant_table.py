"""This process's copy of the settings of tenants, and its record of the tenants it has registered.

Only requests with jobs of a tenant and metrics use the copy (``versioned_table``).
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.tenants.settings import TenantSettings
from ojs_cluster.store.ground.process_state.tenants import MAX_KNOWN, REMEMBER_MS, TENANTS
from ojs_cluster.store.ground.versioned_table import Snapshot, VersionedTable

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Arg, Runtime

RENEWAL_S: Final = 600.0
"""Time in seconds after which a tenant with new jobs is registered again."""
_FIRST_WAIT_S: Final = 0.5
"""Longest time in seconds that a request waits until its new tenant is registered."""
_RETRY_S: Final = 10.0
"""Time in seconds until a registration that failed is tried again."""
_MAX_REMEMBERED: Final = 20_000
"""Maximum number of tenants in this process's record, and of those that it registers in
``RENEWAL_S``."""


class TenantTable:
    """This process's copy of the settings, and the times of its registrations."""

    def __init__(self) -> None:
        """Begin without a copy; the first request with a tenant's job reads it."""
        self._settings: dict[str, TenantSettings] = {}
        self._copy = VersionedTable("limits of tenants", TENANTS.read_changed, self._replace)
        self.read = self._copy.read
        self.try_read = self._copy.try_read
        self._renewal_times: dict[str, float] = {}  # in the order of the last registrations
        self.sums_being_read: dict[str, trio.Event] = {}
        """By tenant, what is set when a request of this process has read the tenant's sum."""

    async def get(self, store: Runtime, tenant: str) -> TenantSettings | None:
        """Return the settings of a tenant, None for none.

        While the master of the meta tag does not answer, the last copy stays in use.

        Raises:
            BackendUnavailable: this process has no copy, and Redis did not answer in time.
        """
        await self._copy.refresh(store)
        return self._settings.get(tenant)

    async def names(self, store: Runtime) -> list[str]:
        """Return the tenants with settings, in the order of their names.

        Raises:
            BackendUnavailable: this process has no copy, and Redis did not answer in time.
        """
        await self._copy.refresh(store)
        return sorted(self._settings)

    def _replace(self, snapshot: Snapshot[TenantSettings]) -> None:
        self._settings = snapshot.records

    def forget(self, tenant: str) -> None:
        """Register a tenant again at its next job, because it was deleted."""
        self._renewal_times.pop(tenant, None)

    async def register(self, store: Runtime, tenant: str) -> None:
        """Add a tenant to the list of known tenants, unless this process has done so recently.

        A failure delays nothing but the list: the registration is tried again.
        """
        now = trio.current_time()
        times = self._renewal_times
        renew_at = times.get(tenant)
        if renew_at is not None and now < renew_at:
            return
        if renew_at is None and len(times) >= _MAX_REMEMBERED:
            oldest = next(iter(times))
            if now < times[oldest]:
                # Otherwise nearly every request would forget a tenant and register its own.
                return
            del times[oldest]
        times.pop(tenant, None)
        times[tenant] = now + _RETRY_S
        responsive = store.redis.is_responsive(store.keys.meta.slot)
        wait_s = _FIRST_WAIT_S if renew_at is None and responsive else 0
        work = partial(self._register, store, tenant)
        await store.background.once(("tenant", tenant), work, wait_s)

    async def _register(self, store: Runtime, tenant: str) -> None:
        meta = store.keys.meta
        args: list[Arg] = [tenant, REMEMBER_MS, MAX_KNOWN]
        await store.run_meta("tenant_seen", [meta.known_tenants, meta.tenants], args)
        pause_s = RENEWAL_S * random.uniform(0.75, 1)  # noqa: S311 - jitter
        self._renewal_times[tenant] = trio.current_time() + pause_s
