"""What a store refuses at its start, leader locks, health, and the test hook that resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import META
from ojs_cluster.redis import server_clock
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store import open as opening
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.migrations.layout import UnusableBackend
from ojs_cluster.store.operators.operations import admin, coverage, health
from ojs_cluster.store.operators.operations.leader import LeaderLease, RedisLeaderLock
from tests.store.shortcuts import active, foreign_id, lock_of, put, take, until
from tests.support.invariants import InvariantReport
from tests.support.patience import patient_client
from tests.support.servers import all_keys

Check = Callable[[], InvariantReport]


async def test_another_shard_count_is_refused(backend: Embedded, store: Store) -> None:
    with pytest.raises(UnusableBackend, match=r"over 64 shards, but OJS_SHARDS is 32.*=64"):
        async with open_store(ClientSettings.from_url(backend.url), shards=32):
            pass


async def test_a_newer_layout_is_refused(backend: Embedded, store: Store, db: Any) -> None:
    db.hset(store.keys.meta.schema, "version", 99)
    with pytest.raises(UnusableBackend, match=r"has layout 99.* layouts up to 1"):
        async with open_store(ClientSettings.from_url(backend.url)):
            pass


async def test_a_store_whose_masters_do_not_tell_the_time_is_not_opened(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the process would decide what is old enough to be deleted."""
    monkeypatch.setattr(server_clock, "_PATIENCE_S", 0.0)  # every reply is too late
    monkeypatch.setattr(opening, "_CLOCK_S", 0.5)
    with pytest.raises(BackendUnavailable, match="tells its time") as caught:
        async with open_store(patient_client(backend)):
            pass
    assert caught.value.outcome == "not_applied"


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


@pytest.mark.parametrize(("shards", "idle"), [(2, 1), (64, 0)])
async def test_masters_without_shards_are_logged(
    cluster: Embedded, caplog: pytest.LogCaptureFixture, shards: int, idle: int
) -> None:
    with caplog.at_level("WARNING"):
        async with open_store(patient_client(cluster), shards=shards):
            pass
    said = [r.getMessage() for r in caplog.records if "none of" in r.getMessage()]
    assert len(said) == bool(idle)
    assert all(text.startswith(f"{idle} of 3 Redis masters serve none of the 2") for text in said)


@pytest.mark.parametrize("setting", ["yes", "no"])
async def test_full_coverage_is_warned_about(
    cluster: Embedded, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = "cluster-require-full-coverage"
    with cluster.nodes[1].client() as node:
        assert node.config_get(name) == {name: "no"}
        node.config_set(name, setting)
        try:
            async with open_store(patient_client(cluster)) as store:
                await coverage.check(store)
        finally:
            node.config_set(name, "no")

    warnings = {text for text in caplog.messages if name in text}
    assert len(warnings) == (setting == "yes")
    assert all(cluster.nodes[1].address in text for text in warnings)


async def test_no_warning_without_the_right_to_read_the_configuration(
    cluster: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    for each in cluster.nodes:
        with each.client() as node:
            node.config_set("cluster-require-full-coverage", "yes")
            node.execute_command("ACL", "SETUSER", "default", "-config|get")  # type: ignore[no-untyped-call]
    try:
        async with open_store(patient_client(cluster)) as store:
            await coverage.check(store)
    finally:
        for each in cluster.nodes:
            with each.client() as node:
                node.execute_command("ACL", "SETUSER", "default", "+config|get")  # type: ignore[no-untyped-call]
                node.config_set("cluster-require-full-coverage", "no")

    assert not [text for text in caplog.messages if "coverage" in text]


async def test_health_reports_latency_and_coverage(store: Store) -> None:
    found = await health.check(store)

    assert found.covered
    assert 0 < found.latency_ms < 5000


async def test_reset_deletes_all_but_the_schema_and_leadership(
    store: Store, backend: Embedded, consistent: Check
) -> None:
    lease = (await RedisLeaderLock(store, META, "g", "me", 60_000).acquire()).lease
    assert lease is not None
    for queue in ("a", "b", "c"):
        await active(store, queue)
        await put(store, queue, id=foreign_id(store, queue))

    assert await admin.reset(store) > 0
    meta = store.keys.meta
    assert all_keys(backend) == {
        *(meta.schema, meta.leader("g"), meta.fencing_counter("g"), meta.candidates("g")),
        *(shard.schema for shard in store.keys),
    }
    assert await lock_of(store, lease).renew(lease) == "kept"
    assert await put(store, "a")
    assert len(await take(store, "a")) == 1
    consistent()


# Leadership


async def lead(store: Store, group: str, identity: str, ttl_ms: int = 60_000) -> LeaderLease:
    """Acquire a lease, also when another candidate is preferred."""
    lease = await try_lead(store, group, identity, ttl_ms)
    assert lease is not None
    return lease


async def try_lead(
    store: Store, group: str, identity: str, ttl_ms: int = 60_000
) -> LeaderLease | None:
    """Acquire a lease if the lock is free, also when another candidate is preferred."""
    return (await RedisLeaderLock(store, META, group, identity, ttl_ms).acquire(insist=True)).lease


async def test_one_leads_at_a_time_and_tokens_grow(store: Store, other_store: Store) -> None:
    first = await lead(store, "g", "one")
    refused = await RedisLeaderLock(other_store, META, "g", "two", 60_000).acquire(insist=True)
    assert refused.lease is None
    assert 0 < refused.ends_in_ms <= 60_000
    assert await lock_of(store, first).renew(first) != "lost"
    assert await lock_of(store, first).release(first)
    second = await lead(other_store, "g", "two")

    assert second.token > first.token
    assert await lock_of(store, first).renew(first) == "lost"
    assert not await lock_of(store, first).release(first)
    assert await lock_of(other_store, second).renew(second) != "lost"


async def test_a_lease_that_is_not_renewed_ends(store: Store) -> None:
    first = await lead(store, "g", "one", 50)
    second = await until(lambda: try_lead(store, "g", "two"), lambda lease: lease is not None)
    assert second is not None
    assert second.token == first.token + 1
    assert await lock_of(store, first).renew(first) == "lost"


async def test_a_renewal_restarts_the_ttl(store: Store, db: Any) -> None:
    lease = await lead(store, "g", "one")
    db.pexpire(store.keys.meta.leader("g"), 30_000)
    assert await lock_of(store, lease).renew(lease) == "kept"

    assert db.pttl(store.keys.meta.leader("g")) > 50_000


async def test_groups_and_shards_are_led_independently(store: Store) -> None:
    await lead(store, "a", "one")
    await lead(store, "b", "two")
    assert (await RedisLeaderLock(store, 0, "a", "two", 60_000).acquire()).lease is not None
    assert (await RedisLeaderLock(store, 63, "a", "three", 60_000).acquire()).lease is not None


async def test_an_identity_with_spaces_is_one_identity(store: Store) -> None:
    lease = await lead(store, "g", "host 1 2")
    assert await try_lead(store, "g", "host 1") is None
    assert await lock_of(store, lease).renew(lease) != "lost"


async def test_candidates_share_the_shards(store: Store) -> None:
    async def preferred(shard: int) -> str:
        """Return the candidate that acquires a free lease without insisting."""
        found = []
        for name in names:
            lease = (await RedisLeaderLock(store, shard, "g", name, 60_000).acquire()).lease
            if lease is not None:
                found.append(name)
                assert await lock_of(store, lease).release(lease)
        assert found
        return found[-1]

    names = ["one", "two", "three"]
    for shard in range(9):
        await preferred(shard)  # now each knows of all
    shares = [await preferred(shard) for shard in range(9)]
    assert shares == sorted(names) * 3

    [*_, leaving] = sorted(names)
    names.remove(leaving)
    for shard in range(9):
        await RedisLeaderLock(store, shard, "g", leaving, 60_000).withdraw()
    assert [await preferred(shard) for shard in range(4)] == sorted(names) * 2


async def test_a_leader_learns_that_another_candidate_is_preferred(store: Store, db: Any) -> None:
    b = (await RedisLeaderLock(store, 0, "g", "b", 60_000).acquire()).lease
    assert b is not None
    assert await lock_of(store, b).renew(b) == "kept"
    refused = await RedisLeaderLock(store, 0, "g", "a", 60_000).acquire()
    assert refused.lease is None
    assert await lock_of(store, b).renew(b) == "not_preferred"
    # One that has not called for half a life may be dead: nothing is handed over to it.
    db.zincrby(store.keys.shard(0).candidates("g"), -31_000, "a")
    assert await lock_of(store, b).renew(b) == "kept"


async def test_candidates_are_bounded_and_expire(store: Store, db: Any) -> None:
    key = store.keys.shard(0).candidates("g")
    for number in range(80):
        await RedisLeaderLock(store, 0, "g", f"c{number:02}", 60_000).acquire()
    assert db.zcard(key) == 64
    assert 0 < db.pttl(key) <= 120_000
    db.zadd(key, {"old": 1})
    await RedisLeaderLock(store, 0, "g", "c79", 60_000).acquire()
    assert db.zscore(key, "old") is None


async def test_leave_releases_only_the_own_lease(store: Store) -> None:
    lease = await lead(store, "g", "one")
    await RedisLeaderLock(store, META, "g", "two", 60_000).withdraw()
    assert await lock_of(store, lease).renew(lease) == "kept"
    await RedisLeaderLock(store, META, "g", "one", 60_000).withdraw()
    assert await lock_of(store, lease).renew(lease) == "lost"
