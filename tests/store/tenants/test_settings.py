"""How settings of tenants change, and what refusals and shards make of them."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import InvalidRequest, TenantLimitExceeded
from ojs_cluster.core.tenants.settings import TenantSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.queues.fair_share import set_fair_share
from ojs_cluster.store.features.tenants import changes
from tests.store.shortcuts import QUEUE, clock_ms, shard_of, take
from tests.store.tenants.shortcuts import age_sum, job_of, limit, put_for, put_many, weigh
from tests.support.lossy import lossy


async def test_a_change_keeps_the_time_of_creation(store: Store) -> None:
    first, is_new = await changes.change(store, "a", lambda _: TenantSettings(tenant_id="a"))
    while await clock_ms(store, store.keys.meta.slot) <= first.created_ms:
        pass
    second, is_new_again = await changes.change(
        store, "a", lambda _: TenantSettings(tenant_id="a", reason="late")
    )
    assert (is_new, is_new_again) == (True, False)
    assert second.created_ms == first.created_ms < second.updated_ms


async def test_a_cluster_has_a_maximum_number_of_tenants_with_settings(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_TENANTS", 2)
    for tenant in ("a", "b"):
        await weigh(store, tenant, 2)
    with pytest.raises(InvalidRequest, match="at most 2 tenants"):
        await weigh(store, "c", 2)
    await weigh(store, "b", 3)


async def test_a_shard_forgets_the_weight_of_one_deleted_tenant(store: Store, db: Any) -> None:
    for tenant in ("a", "b"):
        await weigh(store, tenant, 2)
    await changes.delete(store, "a")
    for shard in store.keys:
        assert b"b" in db.hkeys(shard.tenant_weights)
        assert b"a" not in db.hkeys(shard.tenant_weights)


async def test_a_fair_share_that_is_set_again_searches_on_where_it_was(
    store: Store, db: Any
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=3, b=3)
    await take(store, count=2)
    key = shard_of(store).queue_counters(QUEUE)
    before = db.hget(key, "fair_from")
    await set_fair_share(store, QUEUE, on=True)
    assert db.hget(key, "fair_from") == before != b"-inf"


async def test_a_refusal_by_the_scheduled_jobs_counts_these_alone(store: Store) -> None:
    await limit(store, "a", max_scheduled=1)
    await put_for(store, "a", scheduled_at="+PT1H")
    jobs = [job_of("a"), job_of("a"), job_of("a", scheduled_at="+PT1H")]
    with pytest.raises(TenantLimitExceeded) as full:
        await enqueue_many(store, jobs)
    assert full.value.details["limit"] == "max_scheduled"
    assert "can never fit" not in full.value.message


async def test_an_old_sum_is_not_used_while_another_request_reads_one(
    store: Store, db: Any
) -> None:
    await limit(store, "a", max_queue_depth=5)
    await put_for(store, "a")
    shard = store.keys.shard_of_tenant("a")
    now_ms = await clock_ms(store, shard.slot)
    age_sum(store, db, "a", ms=60_000)
    db.hset(shard.tenant_admission("a"), "asked_at", now_ms)
    process, client = lossy(store)
    await put_for(process, "a")
    assert client.calls["tenant_admit"] == 2
