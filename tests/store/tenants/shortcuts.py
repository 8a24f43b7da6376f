"""Short ways to make jobs of tenants, and to limit tenants."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.tenants.settings import EnqueueRate, TenantLimits, TenantSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.tenants.tenant_counts import read_states
from ojs_cluster.store.features.tenants import changes
from tests.store.shortcuts import QUEUE, new_job


def job_of(tenant: str, queue: str = QUEUE, **options: Any) -> NewJob:
    """Return a new job of a tenant."""
    return msgspec.structs.replace(new_job(queue, **options), tenant=tenant)


async def put_for(store: Store, tenant: str, queue: str = QUEUE, **options: Any) -> JobRecord:
    """Enqueue a job of a tenant."""
    return await enqueue(store, job_of(tenant, queue, **options))


async def put_many(store: Store, **numbers: int) -> None:
    """Enqueue jobs of tenants, tenant by tenant."""
    for tenant, number in numbers.items():
        await enqueue_many(store, [job_of(tenant) for _ in range(number)])


async def limit(store: Store, tenant: str, **limits: Any) -> None:
    """Set the limits of a tenant, as an operator does."""
    wanted = TenantSettings(tenant_id=tenant, limits=TenantLimits(**limits))
    await changes.change(store, tenant, lambda _old: wanted)
    await store.tenants.read(store)


def admission_key(store: Store, tenant: str) -> bytes:
    """Return the key that counts the new jobs of a tenant with limits."""
    return store.keys.shard_of_tenant(tenant).tenant_admission(tenant)


def age_sum(store: Store, db: Any, tenant: str, ms: int = 1000) -> None:
    """Make the sum of a tenant's waiting jobs older, as if so much time had passed."""
    db.hincrby(admission_key(store, tenant), "summed_at", -ms)


async def weigh(store: Store, tenant: str, weight: float) -> None:
    """Set the weight of a tenant, as an operator does."""
    wanted = TenantSettings(tenant_id=tenant, fairness_weight=weight)
    await changes.change(
        store, tenant, lambda old: wanted if old is None else replace(old, fairness_weight=weight)
    )


async def one_life_of_a_tenant(store: Store) -> None:
    """Run every script of tenants at least once."""
    await limit(store, "acme", max_queue_depth=999, max_enqueue_rate=EnqueueRate(9, 1000))
    await weigh(store, "acme", 2)
    await put_for(store, "acme", "of-tenants")
    assert (await read_states(store, ["acme"]))["acme"]["available"] >= 1
    await changes.delete(store, "acme")
    await store.tenants.read(store)
