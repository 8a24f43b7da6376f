"""Export and import of what operators have set: tenants, pools, and queues without jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from ojs_cluster.core.agents.record import HumanDecision
from ojs_cluster.core.pools.pool import new_pool
from ojs_cluster.core.tenants.settings import EnqueueRate, TenantLimits, TenantSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.features.agents import agents
from ojs_cluster.store.features.queue_drains import drains
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.features.tenants import changes
from ojs_cluster.store.ground.process_state import pools, tenants
from ojs_cluster.store.operators.archive.archive import parse
from ojs_cluster.store.operators.archive.line_values import InvalidLine
from ojs_cluster.store.operators.archive.settings_lines import restore_pool, restore_tenant
from tests.store.archives import emptied, export_text, import_text
from tests.store.shortcuts import put, take

LIMITS = TenantLimits(max_queue_depth=5, max_enqueue_rate=EnqueueRate(2, 1000))
TENANT = TenantSettings(tenant_id="a", limits=LIMITS, reason="ü", fairness_weight=2.5)
POOL = new_pool("web", "weighted", ["mail", "sms"], {"mail": 3})


async def settings(store: Store) -> list[Any]:
    """Return the settings of all tenants and all pools."""
    found = [*(await tenants.read_all(store)).records.values()]
    return [*found, *(await pools.read_all(store)).records.values()]


async def test_tenants_and_pools_are_restored_unless_they_exist(
    backend: Embedded, store: Store
) -> None:
    stored = [
        (await changes.change(store, "a", lambda _: TENANT))[0],
        (await pools.set_pool(store, POOL, lambda _: None))[0],
    ]
    text = await export_text(store)
    async with emptied(backend) as target:
        counts, messages = await import_text(target, text)
        assert (counts.refused, counts.complete, messages) == (0, True, [])
        assert await settings(target) == stored
        shard = target.keys.shard(0)
        weight = await target.redis.call(shard.slot, "HGET", shard.tenant_weights, "a")
        assert weight == b"2.5", "the fetches of each shard read it"

        pool = new_pool("web", "strict", ["sms"], {})
        later = [
            (await changes.change(target, "a", lambda _: replace(TENANT, reason="later")))[0],
            (await pools.set_pool(target, pool, lambda _: None))[0],
        ]
        counts, _ = await import_text(target, text)
        assert (counts.existing["tenants"], counts.existing["pools"]) == (1, 1)
        assert await settings(target) == later


async def test_weights_are_copied_after_an_import_that_died_before_it(
    store: Store, db: Any
) -> None:
    await changes.change(store, "a", lambda _: TENANT)
    text = await export_text(store)
    for shard in store.keys:
        db.delete(shard.tenant_weights)
    counts, _ = await import_text(store, text)
    assert counts.existing == {"tenants": 1}
    assert all(db.hget(shard.tenant_weights, "a") == b"2.5" for shard in store.keys)


async def test_more_than_the_maximum_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await changes.change(store, "a", lambda _: TENANT)
    await pools.set_pool(store, POOL, lambda _: None)
    before = await settings(store)
    monkeypatch.setattr(changes, "MAX_TENANTS", 1)
    monkeypatch.setattr(pools, "MAX_POOLS", 1)
    with pytest.raises(InvalidLine, match="at most 1 tenants"):
        await restore_tenant(store, replace(TENANT, tenant_id="b"))
    with pytest.raises(InvalidLine, match="at most 1 worker pools"):
        await restore_pool(store, replace(POOL, name="other"))
    assert await settings(store) == before


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
        await pauses.pause_or_resume(target, "drained", "resume")
        await import_text(target, text)
        assert (await queues.get_stats(target, "drained")).status == "active"  # it is in use
        shard = target.keys.shard_of_queue("created")
        key = shard.queue_counters("created")
        assert await target.redis.call(shard.slot, "HGET", key, "kept") == b"1"


async def test_a_paused_agent_may_be_resumed_after_an_import(
    backend: Embedded, store: Store
) -> None:
    job_id = (await put(store)).id
    await agents.pause(store, job_id, "a question")
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)
        assert await take(target) == []
        await agents.resume(target, job_id, HumanDecision(approved=True))
        assert [job.id for job in await take(target)] == [job_id]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("tenant", {"tenant_id": "no tenant"}),
        ("tenant", {"limits": {"max_scheduled": -1}}),
        ("tenant", {"fairness_weight": 0}),
        ("tenant", {"reason": "x" * 201}),
        ("tenant", {"created_ms": "x"}),
        ("pool", {"name": "No Pool"}),
        ("pool", {"queues": []}),
        ("pool", {"queues": ["a", "a"]}),
        ("pool", {"strategy": "x"}),
        ("pool", {"weights": {"b": 1}}),
        ("pool", {"updated_ms": 2**60}),
    ],
)
def test_a_line_that_no_export_writes_is_refused(kind: str, change: dict[str, Any]) -> None:
    line: dict[str, Any] = {"created_ms": 1, "updated_ms": 2}
    line |= {"tenant_id": "a"} if kind == "tenant" else {"name": "web", "queues": ["a"]}
    parse(json.dumps({kind: line}).encode())
    with pytest.raises(InvalidLine):
        parse(json.dumps({kind: line | change}).encode())
