"""Export and import of what operators have set: tenants, pools, and queues without jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from ojs_cluster.core.pools.pool import new_pool
from ojs_cluster.core.tenants.settings import EnqueueRate, TenantLimits, TenantSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.archive.archive import parse
from ojs_cluster.store.archive.line_values import InvalidLine
from ojs_cluster.store.context import Store
from ojs_cluster.store.pools import pools
from ojs_cluster.store.queue_deletion import drains
from ojs_cluster.store.queues import lifecycle, pauses, queues
from ojs_cluster.store.tenants import changes, tenants
from tests.store.archives import emptied, export_text, import_text
from tests.store.shortcuts import put

LIMITS = TenantLimits(max_queue_depth=5, max_enqueue_rate=EnqueueRate(2, 1000))
TENANT = TenantSettings(tenant_id="a", limits=LIMITS, reason="ü", fairness_weight=2.5)
POOL = new_pool("web", "weighted", ["mail", "sms"], {"mail": 3})


async def settings(store: Store) -> list[Any]:
    """Return the settings of all tenants and all pools, without their times."""
    found = [*(await tenants.read_all(store)).settings().values()]
    made = [*(await pools.read_all(store)).pools().values()]
    return [replace(each, created_ms=0, updated_ms=0) for each in (*found, *made)]


async def test_tenants_and_pools_are_restored_unless_they_exist(
    backend: Embedded, store: Store
) -> None:
    await changes.change(store, "a", lambda _: TENANT)
    await pools.set_pool(store, POOL, lambda _: None)
    text = await export_text(store)
    async with emptied(backend) as target:
        counts, messages = await import_text(target, text)
        assert (counts.refused, counts.complete, messages) == (0, True, [])
        assert await settings(target) == [TENANT, POOL]
        shard = target.keys.shard(0)
        weight = await target.redis.call(shard.slot, "HGET", shard.tenant_weights, "a")
        assert weight == b"2.5", "the fetches of each shard read it"

        tenant, pool = replace(TENANT, reason="later"), new_pool("web", "strict", ["sms"], {})
        await changes.change(target, "a", lambda _: tenant)
        await pools.set_pool(target, pool, lambda _: None)
        counts, _ = await import_text(target, text)
        assert (counts.existing["tenants"], counts.existing["pools"]) == (1, 1)
        assert await settings(target) == [tenant, pool]


async def test_created_and_drained_queues_are_restored(backend: Embedded, store: Store) -> None:
    await lifecycle.create_queue(store, "created")
    for name in ("drained", "deleted", "both"):
        await put(store, name)
    for name in ("drained", "both"):
        await pauses.pause_or_resume(store, name, "drain")
    for name in ("deleted", "both"):
        await drains.begin_drain(store, name, "1-token")
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)
        names = ("created", "drained", "deleted", "both")
        found = {name: (await queues.get_stats(target, name)).status for name in names}
        assert found == {
            "created": "active",
            "drained": "draining",
            "deleted": "active",  # it drained for its deletion only
            "both": "draining",
        }
        shard = target.keys.shard_of_queue("created")
        key = shard.queue_counters("created")
        assert await target.redis.call(shard.slot, "HGET", key, "kept") == b"1"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("tenant", {"tenant_id": "no tenant"}),
        ("tenant", {"limits": {"max_scheduled": -1}}),
        ("tenant", {"fairness_weight": 0}),
        ("tenant", {"reason": "x" * 201}),
        ("pool", {"name": "No Pool"}),
        ("pool", {"queues": []}),
        ("pool", {"queues": ["a", "a"]}),
        ("pool", {"strategy": "x"}),
        ("pool", {"weights": {"b": 1}}),
    ],
)
def test_a_line_that_no_export_writes_is_refused(kind: str, change: dict[str, Any]) -> None:
    line = {"tenant_id": "a"} if kind == "tenant" else {"name": "web", "queues": ["a"]}
    parse(json.dumps({kind: line}).encode())
    with pytest.raises(InvalidLine):
        parse(json.dumps({kind: line | change}).encode())
