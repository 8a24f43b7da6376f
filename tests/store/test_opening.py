"""What a store refuses to work with, who leads, and the test hook that forgets everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded import Embedded
from ojs_cluster.store import admin, health, leader
from ojs_cluster.store.context import Store, StoreSettings, open_store
from ojs_cluster.store.schema import UnusableBackend
from tests.store.jobs import active, foreign_id, put, take, until
from tests.support.invariants import Census
from tests.support.servers import all_keys

Check = Callable[[], Census]


async def test_another_shard_count_is_refused(backend: Embedded, store: Store) -> None:
    with pytest.raises(UnusableBackend, match=r"over 64 shards, but OJS_SHARDS is 32.*=64"):
        async with open_store(ClientSettings.from_url(backend.url), shards=32):
            pass


async def test_another_schema_version_is_refused(backend: Embedded, store: Store, db: Any) -> None:
    db.hset(store.keys.meta.schema, "version", 99)
    with pytest.raises(UnusableBackend, match="schema version 99"):
        async with open_store(ClientSettings.from_url(backend.url)):
            pass


async def test_an_eviction_policy_is_refused_unless_allowed(standalone: Embedded) -> None:
    settings = ClientSettings.from_url(standalone.url)
    with standalone.nodes[0].client() as node:
        node.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(UnusableBackend, match="OJS_ALLOW_EVICTION"):
                async with open_store(settings):
                    pass
            async with open_store(settings, StoreSettings(allow_eviction=True)) as store:
                assert await put(store)
        finally:
            node.config_set("maxmemory-policy", "noeviction")


async def test_health_tells_latency_and_coverage(store: Store) -> None:
    found = await health.check(store)

    assert found.covered
    assert 0 < found.latency_ms < 5000


async def test_reset_forgets_everything_but_the_schema_and_who_leads(
    store: Store, backend: Embedded, consistent: Check
) -> None:
    lease = await leader.acquire(store, "g", "me", 60_000)
    assert lease is not None
    for queue in ("a", "b", "c"):
        await active(store, queue)
        await put(store, queue, id=foreign_id(store, queue))

    assert await admin.reset(store) > 0
    meta = store.keys.meta
    assert all_keys(backend) == {
        *(meta.schema, meta.leader("g"), meta.fence("g")),
        *(shard.schema for shard in store.keys),
    }
    assert await leader.renew(store, lease)
    assert await put(store, "a")
    assert len(await take(store, "a")) == 1
    consistent()


# Leadership


async def test_one_leads_at_a_time_and_tokens_grow(store: Store, other_store: Store) -> None:
    first = await leader.acquire(store, "g", "one", 60_000)
    assert first is not None
    assert await leader.acquire(other_store, "g", "two", 60_000) is None
    assert await leader.renew(store, first)
    assert await leader.release(store, first)
    second = await leader.acquire(other_store, "g", "two", 60_000)

    assert second is not None
    assert second.token > first.token
    assert not await leader.renew(store, first)
    assert not await leader.release(store, first)
    assert await leader.renew(other_store, second)


async def test_a_lease_that_is_not_renewed_ends(store: Store) -> None:
    first = await leader.acquire(store, "g", "one", 50)
    assert first is not None

    async def stand() -> leader.Lease | None:
        return await leader.acquire(store, "g", "two", 60_000)

    second = await until(stand, lambda lease: lease is not None)
    assert second is not None
    assert second.token == first.token + 1
    assert not await leader.renew(store, first)


async def test_a_renewal_starts_the_time_anew(store: Store, db: Any) -> None:
    lease = await leader.acquire(store, "g", "one", 60_000)
    assert lease is not None
    db.pexpire(store.keys.meta.leader("g"), 30_000)
    assert await leader.renew(store, lease)

    assert db.pttl(store.keys.meta.leader("g")) > 50_000


async def test_groups_lead_independently(store: Store) -> None:
    assert await leader.acquire(store, "a", "one", 60_000)
    assert await leader.acquire(store, "b", "two", 60_000)


async def test_an_identity_with_spaces_is_one_identity(store: Store) -> None:
    lease = await leader.acquire(store, "g", "host 1 2", 60_000)
    assert lease is not None
    assert await leader.acquire(store, "g", "host 1", 60_000) is None
    assert await leader.renew(store, lease)
