"""Settings of tenants, and jobs of a tenant with limits, which are whole or not made."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.tenants.settings import TenantLimits, TenantSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.tenants import changes
from ojs_cluster.store.features.tenants.weights import WeightsCheck
from ojs_cluster.store.ground.process_state import tenants
from tests.crash.harness import World
from tests.store.tenants.shortcuts import limit, weigh

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class TenantChange:
    """The settings of a tenant are made, changed or deleted."""

    how: Literal["new", "changed", "deleted"]
    least = 2

    async def prepare(self, world: World) -> str:
        tenant = f"t{next(_serial)}"
        if self.how != "new":
            await limit(world.store, tenant, max_scheduled=1)
            await weigh(world.store, tenant, 3)
        return tenant

    async def act(self, store: Store, scene: str) -> None:
        if self.how == "deleted":
            await changes.delete(store, scene)
            return
        limits = TenantLimits(max_queue_depth=2)
        wanted = TenantSettings(tenant_id=scene, limits=limits, fairness_weight=2)
        await changes.change(store, scene, lambda _old: wanted)

    async def happened(self, world: World, scene: str) -> bool:
        """A tenant with settings is always listed, and the janitor copies its weight."""
        settings = (await tenants.read_all(world.store)).records.get(scene)
        listed = await tenants.last_seen_ms(world.store, scene) is not None
        assert listed == (settings is not None)
        await WeightsCheck().check(world.store)
        weight = "" if settings is None else f"{settings.fairness_weight:g}"
        for shard in world.store.keys:
            copy = world.db.hget(shard.tenant_weights, scene) or b""
            assert copy.decode() == weight
        if settings is None:
            return self.how == "deleted"
        return self.how != "deleted" and settings.limits.max_queue_depth == 2

    async def finish(self, world: World, scene: str) -> None:
        with suppress(NotFound):
            await changes.delete(world.store, scene)
