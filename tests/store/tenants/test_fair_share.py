"""The fair share of a queue between tenants."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch, release
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.fair_share import has_fair_share, set_fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import maintain_queue, set_partitions
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention.retention import retire_queues
from tests.store.hot_queues import spread
from tests.store.limit_jobs import key_in, per_hour, settle
from tests.store.shortcuts import QUEUE, promote_all, put, shard_of, take
from tests.store.tenants.shortcuts import job_of, put_for, put_many
from tests.support.invariants import InvariantReport

Check = Callable[[], InvariantReport]


async def tenants_of(store: Store, count: int, tenant: str = "") -> str:
    jobs = await fetch(store, [QUEUE], count=count, worker_id="w1", tenant=tenant)
    return "".join(job.tenant or "-" for job in jobs)


async def one_by_one(store: Store, count: int) -> str:
    return "".join([await tenants_of(store, 1) for _ in range(count)])


async def test_tenants_take_turns_whatever_their_backlogs(store: Store, consistent: Check) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=8, b=3, c=1)
    consistent()
    assert await one_by_one(store, 7) == "abcabab"
    consistent()
    assert await tenants_of(store, 100) == "aaaaa"
    assert await tenants_of(store, 1) == ""
    consistent()


async def test_a_fetch_of_many_jobs_takes_turns_too(store: Store, consistent: Check) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=50, b=3)
    assert Counter(await tenants_of(store, 8)) == {"a": 5, "b": 3}
    await put_many(store, b=9)
    # Its jobs that came first have saved it no turns; one of ten jobs is the rest of its turn.
    assert Counter(await tenants_of(store, 10)) == {"a": 4, "b": 6}
    consistent()


async def test_the_jobs_of_a_tenant_keep_the_order_of_the_queue(store: Store) -> None:
    await set_fair_share(store, QUEUE, on=True)
    low = await put_for(store, "a", priority=-5)
    first, second = [await put_for(store, "a") for _ in range(2)]
    urgent = await put_for(store, "a", priority=9)
    other = await put_for(store, "b", priority=-9)
    taken = [(await take(store))[0].id for _ in range(5)]
    assert taken == [urgent.id, other.id, first.id, second.id, low.id]


async def test_a_tenant_that_was_idle_has_saved_no_turns(store: Store) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=20, b=1)
    await one_by_one(store, 12)
    await put_many(store, b=6)
    assert Counter(await one_by_one(store, 6)) == {"a": 3, "b": 3}


async def test_a_tenant_that_joins_without_a_turn_has_saved_none(store: Store, db: Any) -> None:
    """A process of an earlier version has added its jobs."""
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=20)
    await one_by_one(store, 12)
    await put_for(store, "b", priority=1)
    await put_many(store, b=5)
    db.zrem(shard_of(store).tenant_turns(QUEUE), "b")

    assert Counter(await one_by_one(store, 6)) == {"a": 3, "b": 3}


async def test_a_tenant_with_one_job_at_a_time_gets_no_more_than_its_share(store: Store) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=20, b=1)
    order = ""
    for _ in range(10):
        order += await tenants_of(store, 1)
        if order.endswith("b"):
            await put_many(store, b=1)
    assert Counter(order) == {"a": 5, "b": 5}


async def test_without_the_option_a_queue_keeps_its_order(store: Store, db: Any) -> None:
    await put_many(store, a=3, b=1)
    assert not db.exists(shard_of(store).tenant_turns(QUEUE))
    assert await one_by_one(store, 4) == "aaab"


async def test_it_is_switched_on_and_off_while_jobs_wait(
    store: Store, db: Any, consistent: Check
) -> None:
    turns = shard_of(store).tenant_turns(QUEUE)
    await put_many(store, a=230, b=2, c=1)
    await set_fair_share(store, QUEUE, on=True)
    db.hset(shard_of(store).queue_counters(QUEUE), "fair_from", "damaged")
    assert await has_fair_share(store, QUEUE)
    await one_by_one(store, 3)  # each searches 100 of the waiting jobs for tenants
    assert db.zrange(turns, 0, -1) == [b"b", b"c", b"a"]
    assert Counter(await one_by_one(store, 3))["b"] >= 1
    consistent()
    await set_fair_share(store, QUEUE, on=False)
    assert not db.exists(turns)
    assert await one_by_one(store, 5) == "aaaaa"
    consistent()


async def test_jobs_without_a_tenant_start_when_they_are_first(store: Store, db: Any) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put(store)
    await put_many(store, a=3, b=2)
    await put(store)
    assert await one_by_one(store, 7) == "-ababa-"
    late, urgent = await put(store), await put(store, priority=9, scheduled_at="+PT1H")
    due = shard_of(store).due
    db.zadd(due, {urgent.id: 1})  # the fetch promotes it between its two scans
    assert [job.id for job in await take(store, count=2)] == [urgent.id, late.id]


async def test_released_promoted_and_retried_jobs_have_turns(
    store: Store, db: Any, consistent: Check
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_for(store, "b", scheduled_at="+PT1H")
    await put_many(store, a=4)
    taken = await take(store, count=2)
    await release(store, taken)
    consistent()
    due = shard_of(store).due
    db.zadd(due, dict.fromkeys(db.zrange(due, 0, -1), 1))
    assert "b" in await one_by_one(store, 2)  # the fetch promotes it itself
    await put_for(store, "c", scheduled_at="+PT1H")
    db.zadd(due, dict.fromkeys(db.zrange(due, 0, -1), 1))
    await promote_all(store)
    consistent()
    assert "c" in await one_by_one(store, 2)
    await purges.purge(store, QUEUE)
    consistent()
    assert not db.exists(shard_of(store).tenant_turns(QUEUE))
    assert await tenants_of(store, 1) == ""


async def test_blocked_jobs_do_not_hold_up_other_tenants(
    store: Store, db: Any, consistent: Check
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    limit: dict[str, Any] = {"key": key_in(store, home=False), "rate": per_hour(1)}
    for _ in range(3):
        await put_for(store, "a", rate_limit=limit)
    await put_many(store, b=2, c=2)
    assert Counter(await tenants_of(store, 4)) == {"b": 2, "c": 2}
    consistent()
    await settle(store, db)
    consistent()
    assert await tenants_of(store, 4) == "a"
    consistent()


async def test_limits_and_pauses_of_the_queue_hold(store: Store, consistent: Check) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=4, b=4)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=2))
    jobs = await take(store, count=10)
    assert Counter(job.tenant for job in jobs) == {"a": 1, "b": 1}
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await ack(store, jobs[0].id, worker_id="w1", lease_id=None, result=None)
    assert await tenants_of(store, 1) == ""
    await pauses.pause_or_resume(store, QUEUE, "resume")
    assert await tenants_of(store, 10) in ("a", "b")
    consistent()


async def test_each_partition_takes_turns_of_its_own(
    store: Store, db: Any, consistent: Check
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await spread(store, db, 4)
    await set_partitions(store, QUEUE, 4)
    await maintain_queue(store, QUEUE)
    shards = store.keys.partitions(QUEUE, 4)
    assert [db.hget(shard.queue_counters(QUEUE), "fair") for shard in shards] == 4 * [b"1"]
    for _ in range(12):
        await put_many(store, a=1, b=1)
    jobs: list[JobRecord] = [job for _ in range(24) for job in await take(store)]
    assert Counter(job.tenant for job in jobs) == {"a": 12, "b": 12}
    consistent()


async def test_a_fetch_costs_no_more_with_many_idle_tenants(store: Store, db: Any) -> None:
    """Each of them is removed once."""
    await set_fair_share(store, QUEUE, on=True)
    turns = shard_of(store).tenant_turns(QUEUE)
    await put_many(store, a=5, b=5)
    db.zadd(turns, {f"idle-{number:04}": -1 for number in range(300)})
    assert Counter(await one_by_one(store, 6)) == {"a": 3, "b": 3}
    assert set(db.zrange(turns, 0, -1)) == {b"a", b"b"}


async def test_a_tenant_of_an_earlier_version_joins_when_its_job_is_first(
    store: Store, db: Any
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=1, b=1)
    db.delete(shard_of(store).tenant_turns(QUEUE))
    index = shard_of(store).tenant_queue(QUEUE, "b")
    db.zadd(index, {"gone": 1})  # that version takes jobs out of the queue only
    assert await one_by_one(store, 2) == "ab"
    assert await tenants_of(store, 1) == ""


@pytest.mark.parametrize("tenants", [False, True])
async def test_a_due_job_whose_token_is_elsewhere_lets_another_start(
    store: Store, db: Any, consistent: Check, tenants: bool
) -> None:
    """The fetch has read one job of the queue before it promotes that job."""
    await set_fair_share(store, QUEUE, on=True)
    jobs = [await (put_for(store, f"t{n}") if tenants else put(store)) for n in range(12)]
    limit: dict[str, Any] = {"key": key_in(store, home=False), "rate": per_hour(1)}
    due = await put(store, priority=9, scheduled_at="+PT1H", rate_limit=limit)
    db.zadd(shard_of(store).due, {due.id: 1})
    assert [job.id for job in await take(store)] == [jobs[0].id]
    consistent()


async def test_a_promoted_job_is_first_among_those_of_its_tenant(
    store: Store, db: Any, consistent: Check
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    first, _second, other = [await put_for(store, tenant) for tenant in ("a", "a", "b")]
    due = [
        await put_for(store, t, scheduled_at="+PT1H", priority=p) for t, p in (("a", 9), ("c", 0))
    ]
    db.zadd(shard_of(store).due, {job.id: 1 for job in due})
    taken = [job.id for job in await take(store, count=2)]
    assert taken == [due[0].id, other.id]
    assert [job.id for job in await take(store, count=2)] == [due[1].id, first.id]
    consistent()


async def test_a_job_that_an_earlier_version_left_in_the_index_is_promoted_into_it(
    store: Store, db: Any, consistent: Check
) -> None:
    """The fetch finds that the entry is of no available job, and then promotes this job."""
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, b=2)
    due = [await put_for(store, "a", scheduled_at="+PT1H") for _ in range(2)]
    shard = shard_of(store)
    db.zadd(shard.due, {job.id: 1 for job in due})
    db.zadd(shard.tenant_queue(QUEUE, "a"), {job.id: 1 for job in due})
    db.zadd(shard.tenant_turns(QUEUE), {"a": 0})
    await take(store)
    consistent()
    assert len(await take(store, count=9)) == 3


async def test_one_fetch_searches_a_bounded_number_of_jobs_of_all_queues(
    store: Store, db: Any
) -> None:
    shard, siblings = shard_of(store), (f"sibling{number}" for number in itertools.count())
    on_shard = (name for name in siblings if store.keys.shard_of_queue(name) is shard)
    queues_of_shard = list(itertools.islice(on_shard, 3))
    for queue, number in zip(queues_of_shard, (60, 150, 5), strict=True):
        await enqueue_many(store, [job_of("a", queue) for _ in range(number)])
        await set_fair_share(store, queue, on=True)
    second = shard.queue_available(queues_of_shard[1])
    [(_id, score)] = db.zrange(second, 39, 39, withscores=True)
    await take(store, *queues_of_shard, count=70)

    def searched() -> list[Any]:
        return [db.hget(shard.queue_counters(queue), "fair_from") for queue in queues_of_shard]

    ended, position, not_visited = searched()
    assert (ended, float(position), not_visited) == (None, score, b"-inf")
    for _ in range(3):
        await take(store, *queues_of_shard, count=100)
    assert searched() == [None, None, None]


async def test_workers_of_single_tenants_leave_no_turns_behind(
    store: Store, db: Any, consistent: Check
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    turns = shard_of(store).tenant_turns(QUEUE)
    for tenant in "abc":
        await put_for(store, tenant)
        assert await tenants_of(store, 1, tenant) == tenant
        assert not db.exists(turns)
    for tenant in "xy":  # no worker of these tenants comes
        job = await put_for(store, tenant)
        await cancel(store, job.id)
    await put_many(store, a=3)
    assert await tenants_of(store, 1, "b") == ""
    for _ in range(30):  # each looks at two turns
        await tenants_of(store, 1, "b")
    assert db.zrange(turns, 0, -1) == [b"a"]
    consistent()


async def test_a_worker_of_a_tenant_leaves_it_the_turns_that_it_has_had(
    store: Store, db: Any
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=3, b=3)
    assert await one_by_one(store, 3) == "aba"
    assert await tenants_of(store, 9, "a") == "a"
    assert db.zrange(shard_of(store).tenant_turns(QUEUE), 0, -1) == [b"b", b"a"]


async def test_a_tenant_whose_first_job_gave_it_no_turn_joins_with_the_next(
    store: Store, db: Any
) -> None:
    """A process of an earlier version has added the first."""
    await set_fair_share(store, QUEUE, on=True)
    await take(store)  # ends the search
    await put_many(store, a=20, b=1)
    db.zrem(shard_of(store).tenant_turns(QUEUE), "b")
    await put_many(store, b=5)
    assert Counter(await one_by_one(store, 6)) == {"a": 3, "b": 3}


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_queue_without_fetches_keeps_no_turns_of_tenants_without_jobs(
    store: Store, db: Any, consistent: Check, partitions: int
) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await spread(store, db, partitions)
    shards = store.keys.partitions(QUEUE, partitions)
    for shard in shards:  # as if all jobs of these tenants were cancelled
        db.zadd(shard.tenant_turns(QUEUE), {f"idle-{number:04}": 0 for number in range(1200)})
    await put_many(store, a=2)
    db.zadd(shards[0].tenant_turns(QUEUE), {"a": 3, "b": 3, "served": 4})
    await retire_queues(store)
    for number, shard in enumerate(shards):
        # The tenant with the later turn has had more than its share.
        waiting = {b"a"} if number else {b"a", b"served"}
        has_jobs = db.exists(shard.tenant_queue(QUEUE, "a"))
        left = set(db.zrange(shard.tenant_turns(QUEUE), 0, -1))
        assert left == (waiting if has_jobs else set())
    consistent()


async def test_all_tenants_of_the_lowest_turn_are_checked(store: Store, db: Any) -> None:
    await set_fair_share(store, QUEUE, on=True)
    turns = shard_of(store).tenant_turns(QUEUE)
    await put_many(store, **{f"a{number}": 1 for number in range(9)})
    db.zadd(turns, {"idle": 0})
    while db.zscore(turns, "idle") is not None:
        await store.run(shard_of(store), "remove_idle_turns", [turns], [QUEUE, 3])
    assert db.zcard(turns) == 9
