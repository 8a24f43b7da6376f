"""The index of a tenant's available jobs, and the counters of a tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch, release
from ojs_cluster.store.engine.jobs.ack import ack as ack_job
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.nack import nack as nack_job
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.tenants.tenant_counts import read_counts, read_queue_counts
from ojs_cluster.store.ground import job_fields as f
from tests.store.hot_queues import spread
from tests.store.limit_jobs import expire_grants, key_in, per_hour, settle
from tests.store.shortcuts import (
    QUEUE,
    new_job,
    promote_all,
    queues_in_other_shards,
    reap_all,
    shard_of,
    sibling_queue,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy

Check = Callable[[], InvariantReport]
FAILURE = parse_failure(b'{"code":"c","message":"m"}')


async def put_for(store: Store, tenant: str, queue: str = QUEUE, **options: Any) -> JobRecord:
    return await enqueue(store, msgspec.structs.replace(new_job(queue, **options), tenant=tenant))


async def take_for(store: Store, tenant: str, count: int = 100) -> list[str]:
    found = await fetch(store, [QUEUE], count=count, worker_id="w1", tenant=tenant)
    return [job.id for job in found]


async def test_every_transition_keeps_index_and_counters(
    store: Store, db: Any, consistent: Check
) -> None:
    for tenant in ("a", "b"):
        for options in ({}, {"priority": 3}, {"pending": True}, {"scheduled_at": "+PT1H"}):
            await put_for(store, tenant, **options)
        await put_for(store, tenant, expires_at="+PT1H")
    await enqueue_many(
        store, [msgspec.structs.replace(new_job(), tenant="a"), new_job(), new_job("other")]
    )
    consistent()
    first = await put_for(store, "a", priority=-1)
    await change_priority(store, first.id, 50)
    consistent()
    assert await take_for(store, "a", count=1) == [first.id]
    await nack_job(store, first.id, worker_id="w1", lease_id=None, failure=FAILURE)
    consistent()
    due = shard_of(store).due
    db.zadd(due, dict.fromkeys(db.zrange(due, 0, -1), 1))
    await promote_all(store)
    consistent()
    taken = await fetch(store, [QUEUE], count=2, worker_id="w1", tenant="b")
    await release(store, taken[:1])
    await ack_job(store, taken[1].id, worker_id="w1", lease_id=None, result=None)
    consistent()
    await cancel(store, (await put_for(store, "b")).id)
    counts = await read_counts(store, "b")
    assert (counts["completed"], counts["cancelled"], counts["active"]) == (1, 1, 0)
    assert await read_queue_counts(store, "b", QUEUE) == counts
    consistent()
    await purges.purge(store, QUEUE)
    consistent()
    assert (await read_counts(store, "a"))["available"] == 0
    assert await take_for(store, "a") == []


async def test_blocked_jobs_are_not_in_the_index(store: Store, db: Any, consistent: Check) -> None:
    key = key_in(store, home=False)
    limit = {"key": key, "concurrency": 1, "rate": per_hour(9)}
    jobs = [await put_for(store, "a", rate_limit=limit) for _ in range(3)]
    await take_for(store, "a")
    consistent()
    await settle(store, db)
    consistent()
    await expire_grants(store, db)
    consistent()
    plain = await put_for(store, "a")
    assert plain.id in await take_for(store, "a")
    await purges.purge(store, QUEUE)
    consistent()
    assert len(jobs) == 3


async def test_the_fetch_of_a_tenant_requests_no_token_for_the_jobs_of_others(
    store: Store, db: Any, consistent: Check
) -> None:
    """No worker fetches them, so each token for them would be unused for two seconds."""
    limit: dict[str, Any] = {"key": key_in(store, home=False), "concurrency": 1}
    for _ in range(3):
        await put_for(store, "b", rate_limit=limit)
    [active] = await fetch(store, [QUEUE], count=1, worker_id="w1", tenant="b")
    assert await take_for(store, "b", count=2) == []
    await ack_job(store, active.id, worker_id="w1", lease_id=None, result=None)
    await settle(store, db)
    await expire_grants(store, db)
    await settle(store, db)
    await expire_grants(store, db)
    await settle(store, db)
    mine = [(await put_for(store, "a", rate_limit=limit)).id for _ in range(2)]
    shard = shard_of(store)
    others = db.zrange(shard.token_unrequested(QUEUE, limit["key"]), 0, -1)
    assert len(others) == 2
    assert await take_for(store, "a", count=1) == mine[:1]
    waiting = [*others, mine[1].encode()]
    assert db.zrange(shard.token_unrequested(QUEUE, limit["key"]), 0, -1) == waiting
    assert await take_for(store, "a", count=1) == []
    consistent()


async def test_many_blocked_jobs_of_others_under_one_key_do_not_hide_the_other_keys(
    store: Store, db: Any
) -> None:
    """They wait under a key that is older, and that no worker of their tenant polls for."""
    crowded: dict[str, Any] = {"key": key_in(store, home=False), "concurrency": 1}
    own: dict[str, Any] = {"key": f"{crowded['key']}-own", "concurrency": 1}
    mine = [(await put_for(store, "a", rate_limit=own)).id for _ in range(2)]
    [active] = await taken_by(store, db, "a")
    theirs = [msgspec.structs.replace(new_job(rate_limit=crowded), tenant="b") for _ in range(130)]
    await enqueue_many(store, theirs)
    assert len(await taken_by(store, db, "b")) == 1
    for _ in range(4):
        assert await take_for(store, "b") == []
    await ack_job(store, active, worker_id="w1", lease_id=None, result=None)
    for _ in range(3):
        await settle(store, db)
        await expire_grants(store, db)
    shard = shard_of(store)
    assert db.zrange(shard.token_unrequested(QUEUE, own["key"]), 0, -1) == [mine[1].encode()]
    assert db.zcard(shard.token_unrequested(QUEUE, crowded["key"])) > 20
    db.zadd(shard.token_demand(QUEUE), {crowded["key"]: -9e15})  # it is older
    assert await take_for(store, "a", count=1) == mine[1:]


async def taken_by(store: Store, db: Any, tenant: str) -> list[str]:
    """Fetch one job of a tenant, as a worker that tries again after its token was granted."""
    for _ in range(3):
        taken = await take_for(store, tenant, count=1)
        if taken:
            return taken
        await settle(store, db)
    return []


async def test_an_entry_that_an_earlier_version_has_left_is_no_job(
    store: Store, db: Any, consistent: Check
) -> None:
    """That version takes the job out of its queue only."""
    gone, kept = await put_for(store, "a"), await put_for(store, "a")
    index = shard_of(store).tenant_queue(QUEUE, "a")
    score = db.zscore(index, gone.id)
    [taken] = await take(store)
    assert taken.id == gone.id
    db.zadd(index, {gone.id: score})
    assert await take_for(store, "a") == [kept.id]
    assert db.exists(index) == 0
    consistent()


async def test_the_fetch_of_a_tenant_does_not_read_the_jobs_of_others(
    store: Store, consistent: Check
) -> None:
    """A scan of the queue would look at 400 jobs at most (``select_jobs.lua``)."""
    others = [msgspec.structs.replace(new_job(), tenant="b") for _ in range(1500)]
    for start in range(0, len(others), 250):
        await enqueue_many(store, others[start : start + 250])
    mine = await put_for(store, "a")
    assert await take_for(store, "a", count=5) == [mine.id]
    consistent()


async def test_a_queue_with_partitions_serves_each_tenant(
    store: Store, db: Any, consistent: Check
) -> None:
    await spread(store, db, 4)
    mine = {(await put_for(store, "a")).id for _ in range(12)}
    for _ in range(12):
        await put_for(store, "b")
    assert set(await take_for(store, "a")) == mine
    assert await take_for(store, "a") == []
    assert len(await take_for(store, "b")) == 12
    consistent()


async def test_the_fetch_of_a_tenant_calls_only_shards_that_have_its_jobs(
    store: Store, db: Any
) -> None:
    names = queues_in_other_shards(store, 6)
    for name in names[:-1]:
        await put_for(store, "b", name)
    mine = await put_for(store, "a", names[-1])
    process, client = lossy(store)
    [found] = await fetch(process, names, count=1, worker_id="w1", tenant="a")
    assert found.id == mine.id
    assert client.calls["fetch_full"] == 2  # the first queue is called before the depths are read
    await spread(store, db, 4)
    for _ in range(8):
        await put_for(store, "b")
    process, client = lossy(store)
    assert await take_for(process, "a") == []
    assert "read_each" in client.calls
    assert "fetch_full" not in client.calls


async def test_the_counters_end_when_a_tenant_has_no_jobs(store: Store, db: Any) -> None:
    job = await put_for(store, "a")
    counters = shard_of(store).tenant_counters("a")
    day_ms = 86400 * 1000
    assert 399 * day_ms < db.pttl(counters) <= 400 * day_ms
    await purges.purge(store, QUEUE)
    assert 0 < db.pttl(counters) <= 7 * day_ms
    await put_for(store, "a")
    assert db.pttl(counters) > 7 * day_ms
    db.hset(counters, "active", -1)  # as an earlier version may leave it
    await purges.purge(store, QUEUE)
    assert 0 < db.pttl(counters) <= 7 * day_ms
    assert job.tenant == "a"


async def test_the_counters_of_a_queue_end_when_the_tenant_has_no_jobs_in_it(
    store: Store, db: Any, consistent: Check
) -> None:
    await put_for(store, "a")
    other = sibling_queue(store)
    await put_for(store, "a", other)
    counters = shard_of(store).tenant_counters("a")
    assert db.hget(counters, f"{other}/available") == b"1"
    await purges.purge(store, other)
    names = {name.decode().partition("/")[0] for name in db.hkeys(counters) if b"/" in name}
    assert names == {QUEUE}
    consistent()


async def test_a_repaired_job_is_counted_once(store: Store, db: Any, consistent: Check) -> None:
    """A fetch takes a malformed job out of its queue only."""
    job = await put_for(store, "a")
    key = shard_of(store).job(job.id)
    db.hset(key, f.ATTEMPT, b"x")
    assert await take(store) == []
    db.hset(key, f.ATTEMPT, b"0")
    db.zadd(shard_of(store).quarantine, {job.id: 1})
    await reap_all(store)
    consistent()
    assert (await read_counts(store, "a"))["available"] == 1
    assert await take_for(store, "a") == [job.id]
