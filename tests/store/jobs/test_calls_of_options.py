"""How many scripts a job with options costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues
from tests.store.limit_jobs import assert_no_token_left, key_in, keyed, per_hour, token_counts
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    foreign_id,
    new_job,
    put,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.tenants.shortcuts import put_for
from tests.support.invariants import InvariantReport
from tests.support.recording import Recording

Consistent = Callable[[], InvariantReport]
EXPIRES = {"expires_at": "2999-01-01T00:00:00Z"}


def recorded(store: Store) -> tuple[Store, Recording]:
    """Return a store that counts its scripts, and the counts."""
    scripts = Recording(store.scripts)
    return replace(store, scripts=scripts, limited_queues=LimitedQueues()), scripts


async def calls_of_fetch(process: Store, scripts: Recording) -> tuple[int, int]:
    """Fetch one job; return how often the fast and the full path were run."""
    scripts.times.clear()
    assert len(await take(process)) == 1
    return scripts.times["fetch"], scripts.times["fetch_full"]


def foreign(store: Store) -> dict[str, Any]:
    return {"id": foreign_id(store)}


@pytest.mark.parametrize(
    ("options", "scripts_of_enqueue", "scripts_of_ack"),
    [
        (lambda _: {}, {"enqueue_one"}, {"ack"}),
        (lambda _: EXPIRES, {"enqueue_one"}, {"ack"}),
        (lambda _: {"priority": 3, **EXPIRES}, {"enqueue_one"}, {"ack"}),
        (foreign, {"claim_alias", "enqueue_one"}, {"ack"}),
        (
            lambda _: {"unique": {"keys": ["type"]}},
            {"lock_claim", "enqueue_one"},
            {"ack", "lock_settle", "outbox_record_delivered"},
        ),
    ],
    ids=["plain", "expires", "priority", "client id", "unique"],
)
async def test_a_job_runs_no_script_in_vain(
    store: Store,
    other_store: Store,
    db: Any,
    consistent: Consistent,
    options: Callable[[Store], dict[str, Any]],
    scripts_of_enqueue: set[str],
    scripts_of_ack: set[str],
) -> None:
    await put(store)  # the first job of the queue and the first ack of a minute cost more
    await ack(store, (await take(store))[0])
    process, scripts = recorded(store)

    job = await put(process, **options(store))
    assert scripts.times == dict.fromkeys(scripts_of_enqueue, 1)
    is_checked = db.zscore(shard_of(store).references, job.id) is not None
    assert is_checked == (len(scripts_of_enqueue) > 1), "a failover may lose the lock or the alias"
    consistent()
    scripts.times.clear()
    [fetched] = await take(process)
    assert (fetched.id, scripts.times["fetch"], scripts.times["fetch_full"]) == (job.id, 1, 0)
    process, scripts = recorded(other_store)
    await ack(process, job, lease_id=fetched.lease_id)
    assert scripts.times == dict.fromkeys(scripts_of_ack, 1)
    consistent()


async def test_the_lease_says_that_the_ack_needs_the_full_path(
    store: Store, other_store: Store
) -> None:
    await enqueue(store, new_job(), fields=[f.KEEP, b"60000:60000:60000"])
    [job] = await take(store)
    process, scripts = recorded(other_store)

    assert (await ack(process, job, lease_id=job.lease_id)).state == "completed"

    assert scripts.times["ack_full"] == 1
    assert scripts.times["ack"] == 0


async def test_a_job_of_a_tenant_runs_one_short_script_per_verb(
    store: Store, db: Any, consistent: Consistent
) -> None:
    await put(store)
    await ack(store, (await take(store))[0])
    process, scripts = recorded(store)

    stored = await put_for(process, "acme")
    consistent()
    [fetched] = await take(process)
    consistent()
    await ack(process, fetched, lease_id=fetched.lease_id)
    short, full = ("enqueue_one", "fetch", "ack"), ("enqueue", "fetch_full", "ack_full")
    assert [scripts.times[name] for name in short] == [1, 1, 1]
    assert not scripts.times.keys() & set(full)
    consistent()
    counters = db.hgetall(shard_of(store).tenant_counters("acme"))
    assert counters[b"completed"] == counters[b"acked"] == b"1"
    assert counters[b"available"] == counters[b"active"] == b"0"
    assert not db.exists(shard_of(store).tenant_queue(QUEUE, "acme"))
    events = [
        entry for _, entry in db.xrange(shard_of(store).events) if entry.get(b"tn") == b"acme"
    ]
    assert [entry[b"t"] for entry in events] == [
        *(b"job.enqueued", b"job.started", b"job.completed")
    ]
    assert {entry[b"j"].decode() for entry in events} == {stored.id}


@pytest.mark.parametrize("home", [True, False])
async def test_limits_that_hold_are_not_declared_again(
    store: Store, other_store: Store, consistent: Consistent, home: bool
) -> None:
    key = key_in(store, home=home)
    await keyed(store, key, concurrency=2)
    process, scripts = recorded(store)
    await keyed(process, key, concurrency=2)
    assert scripts.times == {"enqueue_one": 1}
    await keyed(other_store, key, concurrency=1)
    scripts.times.clear()
    await keyed(process, key, concurrency=2)
    assert scripts.times["limit_set"] == 1, "the newest job declares the limits"
    assert len(await take(store, count=4)) == 2
    consistent()


async def test_a_token_is_taken_and_returned_by_short_scripts(
    store: Store, db: Any, consistent: Consistent
) -> None:
    key = key_in(store, home=False)
    await put(store)
    await ack(store, (await take(store))[0])
    await keyed(store, key, concurrency=1, rate=per_hour(9))
    process, scripts = recorded(store)
    [job] = await take(process)
    assert scripts.times["fetch_full"] == scripts.times["limit_start"] == 1
    assert scripts.times["fetch"] == 2, "the first one met a job without a token"
    assert await token_counts(store, key) == (1, 0)
    consistent()
    scripts.times.clear()
    acked = await ack(process, job, lease_id=job.lease_id)
    assert scripts.times == {"ack": 1, "limit_free": 1, "outbox_record_delivered": 1}
    assert not acked.fields[f.TOKEN]
    consistent()
    assert_no_token_left(store, db)


async def test_a_batch_of_acks_returns_the_tokens_of_a_key_together(
    store: Store, db: Any, consistent: Consistent
) -> None:
    keys = [key_in(store, home=False), "other"]
    for _ in range(3):
        for key in keys:
            await keyed(store, key, concurrency=9, rate=per_hour(9))
    process, scripts = recorded(store)
    jobs = await take(process, count=6)
    assert len(jobs) == 6
    assert scripts.times["limit_start"] <= 2, "one for each key"
    acks = [Ack(job.id, job.lease_id, None) for job in jobs]
    await ack_many(process, acks, worker_id=None)
    assert scripts.times["limit_free"] == 2, "one for each key"
    assert [await token_counts(store, key) for key in keys] == [(0, 0), (0, 0)]
    assert [(await rate_limits.get_key(store, key)).usage.started for key in keys] == [3, 3]
    consistent()
    assert_no_token_left(store, db)


async def test_one_limited_job_does_not_make_later_fetches_expensive(
    store: Store, consistent: Consistent
) -> None:
    await keyed(store, key_in(store, home=True), concurrency=9)
    for _ in range(3):
        await put(store)
    process, scripts = recorded(store)

    assert await calls_of_fetch(process, scripts) == (1, 1)
    assert await calls_of_fetch(process, scripts) == (0, 1), "the job before had a limit"
    for _ in range(2):
        assert await calls_of_fetch(process, scripts) == (1, 0)
    consistent()


async def test_a_queue_of_limited_jobs_is_fetched_by_the_full_path_at_once(store: Store) -> None:
    key = key_in(store, home=True)
    for _ in range(3):
        await keyed(store, key, concurrency=9)
    process, scripts = recorded(store)
    assert await calls_of_fetch(process, scripts) == (1, 1)
    assert await calls_of_fetch(process, scripts) == (0, 1)
    assert await calls_of_fetch(process, scripts) == (0, 1)


async def block_one(store: Store) -> Shard:
    """Block a job before some plain jobs, with a pending request of its token."""
    await keyed(store, key_in(store, home=False), concurrency=0)
    for _ in range(6):
        await put(store)
    assert len(await take(store)) == 1
    return shard_of(store)


async def test_a_blocked_job_does_not_make_every_fetch_expensive(
    store: Store, db: Any, consistent: Consistent
) -> None:
    shard = await block_one(store)
    process, scripts = recorded(store)
    refresh_demand(db, shard)
    for _ in range(2):
        assert await calls_of_fetch(process, scripts) == (1, 0)
    assert len(await take(process, count=9)) == 3, "the last of them by the full path"
    assert scripts.times["fetch_full"] >= 1
    consistent()


def refresh_demand(db: Any, shard: Shard, by_ms: int = HOUR) -> None:
    """Change the time at which the full path has refreshed the demand of the queue."""
    db.hincrby(shard.queue_counters(QUEUE), "demand_at", by_ms)


@pytest.mark.parametrize("reason", ["old demand", "damaged demand", "key without a request"])
async def test_a_fetch_requests_tokens_for_blocked_jobs_in_time(
    store: Store, db: Any, reason: str
) -> None:
    shard = await block_one(store)
    refresh_demand(db, shard, -2000 if reason == "old demand" else HOUR)
    if reason == "damaged demand":
        db.hset(shard.queue_counters(QUEUE), "demand_at", "x")
    elif reason == "key without a request":
        db.zadd(shard.token_demand(QUEUE), {"another key": -1})
    process, scripts = recorded(store)

    assert (await calls_of_fetch(process, scripts))[1] == 1


async def test_blocked_jobs_of_a_paused_queue_do_not_make_every_fetch_expensive(
    store: Store, db: Any, consistent: Consistent
) -> None:
    shard = await block_one(store)
    await pause_or_resume(store, QUEUE, "pause")
    other = sibling_queue(store)
    for _ in range(3):
        await put(store, other)
    process, scripts = recorded(store)
    refresh_demand(db, shard, -2000)

    for _ in range(3):
        assert len(await take(process, QUEUE, other)) == 1

    assert scripts.times == {"fetch": 3}
    consistent()


async def test_fetches_of_many_jobs_do_not_try_the_fast_path_in_vain(
    store: Store, consistent: Consistent
) -> None:
    key = key_in(store, home=True)
    for _ in range(5):
        await keyed(store, key, concurrency=99)
        await put(store)
    process, scripts = recorded(store)

    for _ in range(4):
        assert len(await take(process, count=2)) == 2

    assert (scripts.times["fetch"], scripts.times["fetch_full"]) == (1, 4)
    consistent()


async def test_fetches_that_want_more_jobs_than_there_are_do_not_try_it_in_vain(
    store: Store, consistent: Consistent
) -> None:
    await block_one(store)
    assert len(await take(store, count=9)) == 5
    process, scripts = recorded(store)

    for _ in range(3):
        await put(store)
        assert len(await take(process, count=2)) == 1

    assert scripts.times["fetch"] == 1
    consistent()
