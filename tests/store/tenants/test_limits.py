"""The limits of tenants over all shards: which new jobs are refused, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import orjson
import pytest
import trio

from ojs_cluster.core.errors import Duplicate, QueueFull, TenantLimitExceeded
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.tenants.settings import EnqueueRate
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue import stored_jobs
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.enqueue.independent_jobs import enqueue_each
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import nack
from ojs_cluster.store.engine.limits.depth_bounds import set_bound
from ojs_cluster.store.engine.tenants.admission import Admitted, admit_jobs
from ojs_cluster.store.engine.tenants.tenant_counts import read_counts
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.workflows import workflows
from ojs_cluster.store.ground.process_state.tenant_table import TenantTable
from tests.http.api import until
from tests.store.shortcuts import QUEUE, put, queues_in_other_shards, take
from tests.store.tenants.shortcuts import admission_key, age_sum, job_of, limit, put_for
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy

Check = Callable[[], InvariantReport]


async def waiting(store: Store, tenant: str) -> int:
    """Return the number of waiting jobs of a tenant."""
    counts = await read_counts(store, tenant)
    return sum(counts[state] for state in ("available", "scheduled", "retryable", "pending"))


async def test_a_tenant_never_has_more_waiting_jobs_than_its_limit_over_all_shards(
    store: Store, consistent: Check
) -> None:
    await limit(store, "a", max_queue_depth=7)
    names = queues_in_other_shards(store, 5)
    outcomes: list[str] = []

    async def producer(name: str) -> None:
        for _ in range(4):
            try:
                await put_for(store, "a", name)
            except TenantLimitExceeded:
                outcomes.append("refused")
            else:
                outcomes.append("stored")

    for name in names:
        await producer(name)
    assert outcomes == 7 * ["stored"] + 13 * ["refused"]
    assert await waiting(store, "a") == 7
    await put_for(store, "b")
    await put(store)
    consistent()


async def test_concurrent_producers_exceed_a_limit_by_no_more_than_those_under_way(
    store: Store,
) -> None:
    """The estimate counts what was admitted, although no sum shows it yet."""
    await limit(store, "a", max_queue_depth=10)
    await put_for(store, "a")  # reads the first sum
    stored = 0

    async def producer(name: str) -> None:
        nonlocal stored
        for _ in range(5):
            try:
                await put_for(store, "a", name)
            except TenantLimitExceeded:
                continue
            stored += 1

    async with trio.open_nursery() as nursery:
        for name in queues_in_other_shards(store, 6):
            nursery.start_soon(producer, name)
    assert 9 <= stored <= 9 + 6
    assert await waiting(store, "a") == 1 + stored


async def test_room_that_workers_make_is_used_after_the_next_sum(store: Store, db: Any) -> None:
    await limit(store, "a", max_queue_depth=2)
    jobs = [await put_for(store, "a") for _ in range(2)]
    with pytest.raises(TenantLimitExceeded) as full:
        await put_for(store, "a")
    assert (full.value.details["current"], full.value.details["maximum"]) == (2, 2)
    assert full.value.retry_after_s >= 1
    await cancel(store, jobs[0].id)
    age_sum(store, db, "a")
    assert (await put_for(store, "a")).tenant == "a"


async def test_a_request_that_waits_for_room_is_checked_again_but_counts_once_in_the_rate(
    store: Store, db: Any
) -> None:
    rate = EnqueueRate(9, 3_600_000)
    await limit(store, "a", max_queue_depth=3, max_enqueue_rate=rate)
    jobs = [job_of("a") for _ in range(3)]
    admission = admission_key(store, "a")

    async def try_again(admitted: Admitted, seconds_later: float) -> None:
        admitted["a"] = trio.current_time() - seconds_later
        age_sum(store, db, "a")
        await admit_jobs(store, jobs, admitted)

    first: Admitted = {}
    second: Admitted = {}
    await admit_jobs(store, jobs, first)
    await try_again(first, 5)  # none of its jobs is stored
    age_sum(store, db, "a")
    await enqueue_many(store, jobs, (), second)
    await try_again(first, 4)
    with pytest.raises(TenantLimitExceeded) as full:
        await try_again(first, 5)
    assert full.value.details["limit"] == "max_queue_depth"
    new_jobs = [int(entry.partition(b":")[2]) for entry in db.hget(admission, "rate").split()]
    assert sum(new_jobs) == 6


async def test_requests_of_a_process_read_one_sum_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(store, "a", max_queue_depth=0)
    process, client = lossy(store)
    sums = 0

    async def all_have_asked() -> bool:
        return client.calls["tenant_admit"] >= 50

    async def read(*args: Any) -> Any:
        nonlocal sums
        sums += 1
        await until(all_have_asked)
        return await read_counts(*args)

    monkeypatch.setattr("ojs_cluster.store.engine.tenants.admission.read_counts", read)

    async def refused() -> None:
        with pytest.raises(TenantLimitExceeded):
            await put_for(process, "a")

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(refused)
    assert sums < 10


async def test_while_a_sum_is_read_others_use_the_present_one(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(store, "a", max_queue_depth=1)
    await put_for(store, "a")
    other = replace(store, tenants=TenantTable())  # another process
    reads = 0

    async def read(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            with pytest.raises(TenantLimitExceeded):
                await put_for(other, "a")
        return await read_counts(*args)

    monkeypatch.setattr("ojs_cluster.store.engine.tenants.admission.read_counts", read)
    for _ in range(20):  # on a slow machine the other process may have to read a sum of its own
        age_sum(store, db, "a")
        reads = 0
        with pytest.raises(TenantLimitExceeded):
            await put_for(store, "a")
        if reads == 1:
            return
    pytest.fail("the other process always read a sum of its own")


async def test_a_failed_attempt_is_never_refused_and_counts(store: Store, db: Any) -> None:
    await limit(store, "a", max_queue_depth=1)
    await put_for(store, "a")
    [taken] = await take(store)
    age_sum(store, db, "a", ms=86_400_000)
    await put_for(store, "a")
    failure = parse_failure(b'{"code":"c","message":"m"}')
    await nack(store, taken.id, worker_id="w1", lease_id=None, failure=failure)
    assert await waiting(store, "a") == 2
    age_sum(store, db, "a", ms=86_400_000)
    with pytest.raises(TenantLimitExceeded) as full:
        await put_for(store, "a")
    assert full.value.details["current"] == 2


async def test_a_batch_is_stored_whole_or_not_at_all(store: Store, consistent: Check) -> None:
    await limit(store, "a", max_queue_depth=5)
    names = queues_in_other_shards(store, 3)
    with pytest.raises(TenantLimitExceeded, match="6 jobs at once can never fit"):
        await enqueue_many(store, [job_of("a", name) for name in [*names, *names]])
    assert await waiting(store, "a") == 0
    await enqueue_many(store, [job_of("a", name) for name in [*names, *names[:2]]])
    with pytest.raises(TenantLimitExceeded):
        await enqueue_many(store, [job_of("b"), job_of("a")])
    assert (await waiting(store, "a"), await waiting(store, "b")) == (5, 0)
    consistent()


async def test_stored_jobs_are_never_reported_as_refused(store: Store) -> None:
    """A tenant at its limit repeats requests whose replies it has lost."""
    await limit(store, "a", max_queue_depth=4)
    shard = store.keys.shard_of_queue(QUEUE)
    ids = [new_job_id(shard.index, len(store.keys), 1_700_000_000_000 + n) for n in range(2)]
    ids.append(new_job_id(shard.index + 1, len(store.keys), 1_700_000_000_000))  # has an alias
    named = [msgspec.structs.replace(job_of("a"), id=job_id) for job_id in ids]
    await enqueue_many(store, named)
    unique = {name: job_of("a", unique={"on_conflict": name}) for name in ("ignore", "reject")}
    first = await enqueue(store, unique["ignore"])
    with pytest.raises(TenantLimitExceeded):
        await put_for(store, "a")
    for job_id, outcome in zip(ids, await enqueue_each(store, named), strict=True):
        assert isinstance(outcome, Duplicate)
        assert outcome.details["existing_job_id"] == job_id
    with pytest.raises(Duplicate) as duplicate:
        await enqueue_many(store, [unique["ignore"], *named])
    assert duplicate.value.details["index"] == 1
    for again in (
        await enqueue(store, unique["ignore"]),
        *await enqueue_many(store, [unique["ignore"]]),
    ):
        assert (again.id, again.deduplicated) == (first.id, True)
    with pytest.raises(Duplicate):
        await enqueue(store, unique["reject"])
    with pytest.raises(TenantLimitExceeded):
        await enqueue_many(store, [unique["ignore"], job_of("a")])
    assert await waiting(store, "a") == 4
    await limit(store, "a", max_queue_depth=5)
    records = await enqueue_many(store, [unique["ignore"], job_of("a")])
    assert [job.deduplicated for job in records] == [True, False]


async def test_a_refused_batch_of_new_jobs_reads_none_of_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(store, "a", max_queue_depth=0)
    new = [job_of("a", unique={}, type=f"t{number}") for number in range(60)]
    for number in range(60):
        job_id = new_job_id(number, len(store.keys), 1_700_000_000_000)
        new.append(msgspec.structs.replace(job_of("a"), id=job_id))
    monkeypatch.setattr(stored_jobs, "_find", None)
    with pytest.raises(TenantLimitExceeded):
        await enqueue_many(store, new)


async def test_jobs_that_are_tried_as_a_batch_count_once(store: Store) -> None:
    await limit(store, "a", max_enqueue_rate=EnqueueRate(10, 3_600_000))
    taken = await put_for(store, "b")
    jobs = [job_of("a") for _ in range(8)]
    jobs.append(msgspec.structs.replace(job_of("a"), id=taken.id))
    *stored, refused = await enqueue_each(store, jobs)
    assert isinstance(refused, Duplicate)
    assert await waiting(store, "a") == len(stored) == 8
    outcomes = await enqueue_each(store, [job_of("a"), job_of("a")])
    assert [isinstance(outcome, TenantLimitExceeded) for outcome in outcomes] == [False, True]


async def test_the_first_steps_of_a_workflow_count(store: Store) -> None:
    await limit(store, "a", max_queue_depth=2)
    step = b'{"type":"t","args":[]}'

    def group(size: int) -> Any:
        body = b'{"type":"group","jobs":[%b]}' % b",".join(size * [step])
        return parse_workflow(body, tenant="a")

    with pytest.raises(TenantLimitExceeded):
        await workflows.create(store, group(3))
    await workflows.create(store, group(2))
    with pytest.raises(TenantLimitExceeded):
        await put_for(store, "a")


async def test_scheduled_jobs_have_a_limit_of_their_own(store: Store) -> None:
    await limit(store, "a", max_scheduled=1)
    await put_for(store, "a", scheduled_at="+PT1H")
    with pytest.raises(TenantLimitExceeded) as full:
        await put_for(store, "a", scheduled_at="+PT1H")
    assert full.value.details["limit"] == "max_scheduled"
    await put_for(store, "a")


async def test_no_period_has_more_new_jobs_than_the_rate(store: Store, db: Any) -> None:
    await limit(store, "a", max_enqueue_rate=EnqueueRate(3, 3_600_000))
    await enqueue_many(store, [job_of("a"), job_of("a")])
    with pytest.raises(TenantLimitExceeded) as full:
        await enqueue_many(store, [job_of("a"), job_of("a")])
    assert full.value.details == {
        "tenant_id": "a",
        "limit": "max_enqueue_rate",
        "current": 2,
        "maximum": 3,
    }
    await put_for(store, "a")
    with pytest.raises(TenantLimitExceeded) as full:
        await put_for(store, "a")
    assert 3500 < full.value.retry_after_s <= 3600
    admission = admission_key(store, "a")
    assert db.pttl(admission) > 3_600_000
    db.hset(admission, "rate", "1000:3")  # three jobs, long before the period
    await put_for(store, "a")


async def test_a_refusal_is_one_of_a_full_queue_for_all_who_wait_for_room(store: Store) -> None:
    await limit(store, "a", max_queue_depth=0)
    with pytest.raises(QueueFull):
        await put_for(store, "a")
    await limit(store, "a")
    await set_bound(store, QUEUE, 1)
    await put_for(store, "a")


async def test_only_tenants_with_limits_cost_a_further_call(store: Store) -> None:
    await limit(store, "a", max_queue_depth=100)
    for tenant in ("a", "b"):
        await put_for(store, tenant)
    process, client = lossy(store)
    for tenant, calls in (("", 0), ("b", 0), ("a", 1)):
        client.calls.clear()
        await (put_for(process, tenant) if tenant else put(process))
        assert client.calls.get("tenant_admit", 0) == calls
    client.calls.clear()
    for _ in range(5):
        await put_for(process, "a")
    assert client.calls["tenant_admit"] == 5
    assert client.calls.get("HMGET", 0) == 0
    assert client.calls.get("read_versioned_hash", 0) <= 1


async def test_a_lost_admission_key_is_counted_again(store: Store, db: Any) -> None:
    await limit(store, "a", max_queue_depth=2)
    await put_for(store, "a")
    await put_for(store, "a")
    admission = admission_key(store, "a")
    assert 0 < db.pttl(admission) <= 60_000
    db.delete(admission)
    with pytest.raises(TenantLimitExceeded):
        await put_for(store, "a")
    a_failover_lost_writes = {"admitted": 0, "at_sum": 50, "summed_at": 2**45}
    damaged = {"waiting": "x", "rate": "x"}
    for fields in (a_failover_lost_writes, damaged):
        db.hset(admission, mapping=fields)
        with pytest.raises(TenantLimitExceeded):
            await put_for(store, "a")


async def test_the_first_refusal_by_a_limit_in_a_minute_is_announced(store: Store, db: Any) -> None:
    await limit(store, "a", max_queue_depth=1, max_enqueue_rate=EnqueueRate(2, 3_600_000))
    await limit(store, "a", max_queue_depth=2, max_enqueue_rate=EnqueueRate(2, 3_600_000))
    await put_for(store, "a")
    admission = admission_key(store, "a")

    async def refuse() -> None:
        with pytest.raises(TenantLimitExceeded):
            await enqueue_many(store, [job_of("a"), job_of("a")])

    for _ in range(3):
        await refuse()  # the first is announced
    db.hincrby(admission, "announced_max_queue_depth", -59_000)
    await refuse()
    db.hincrby(admission, "announced_max_queue_depth", -1000)
    await refuse()  # a minute later, so it is announced
    await limit(store, "a", max_enqueue_rate=EnqueueRate(2, 3_600_000))
    await refuse()  # by another limit, so it is announced

    page = await read_events(store, EventFilter(tenant="a", types=["tenant.*"]))
    found = [orjson.loads(event) for event in page.events]
    by_depth = {"tenant_id": "a", "limit": "max_queue_depth", "current": 1, "maximum": 2}
    by_rate = {"tenant_id": "a", "limit": "max_enqueue_rate", "current": 1, "maximum": 2}
    assert {event["subject"] for event in found} == {"a"}
    assert sorted((event["type"], orjson.dumps(event["data"])) for event in found) == [
        ("tenant.created", orjson.dumps({"tenant_id": "a"})),
        ("tenant.limit_exceeded", orjson.dumps(by_rate)),
        *[("tenant.limit_exceeded", orjson.dumps(by_depth))] * 2,
    ]
