"""Client-chosen ids: unique in the whole cluster, and found from any shard that they name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Duplicate, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import aliases
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.placement import enqueue_command, place
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    foreign_id,
    home_id,
    id_in,
    middle_queue,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.unique_jobs import age_lock, keys_there, once, recover
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.moments import Moment, at_moments
from tests.support.servers import all_keys
from tests.support.timeshift import age_claim, age_job

Check = Callable[[], InvariantReport]
DEADLY: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


def named(store: Store, where: str) -> str:
    return foreign_id(store) if where == "elsewhere" else home_id(store)


both = pytest.mark.parametrize("where", ["at home", "elsewhere"])
both_ways = pytest.mark.parametrize("step", [-1, 1], ids=["before", "after"])


@both
async def test_the_job_lives_in_its_queues_shard_and_is_found_by_its_id(
    store: Store, db: Any, where: str, consistent: Check
) -> None:
    job_id = named(store, where)
    job = await put(store, id=job_id)
    home = store.keys.shard_of_id(job_id)

    assert job.id == job_id
    assert db.hexists(shard_of(store).job(job_id), f.STATE)
    assert bool(db.hexists(home.job(job_id), f.ALIAS)) == (where == "elsewhere")
    assert (await read_jobs.get(store, job_id)).json() == job.json()
    consistent()


@both
async def test_every_operation_by_id_finds_it(store: Store, where: str, consistent: Check) -> None:
    acked, nacked, requeued, cancelled, beaten = (named(store, where) for _ in range(5))
    await ack(store, await active(store, id=acked))
    await nack(store, await active(store, id=nacked))
    assert (await cancel(store, (await put(store, id=cancelled)).id)).state is State.CANCELLED
    held = await active(store, id=beaten)
    assert (await heartbeat(store, Heartbeat("w1", (beaten,)))).extended == [beaten]
    waiting = await put(store, pending=True, id=named(store, where))
    assert (await activate(store, waiting.id)).state is State.AVAILABLE
    await take(store)
    assert (await nack(store, await active(store, id=requeued), requeue=True)).id == requeued
    dead = []
    for _ in range(2):
        doomed = await active(store, "graves", id=named(store, where), **DEADLY)
        dead.append(await nack(store, doomed))
    assert (await dead_letters.get(store, dead[0].id)).dead
    assert (await dead_letters.retry(store, dead[0].id)).state is State.AVAILABLE
    await dead_letters.delete(store, dead[1].id)
    with pytest.raises(NotFound):
        await read_jobs.get(store, dead[1].id)
    assert (await read_jobs.get(store, held.id)).state is State.ACTIVE


@both
async def test_a_taken_id_is_refused_from_any_queue(
    store: Store, other_store: Store, where: str, consistent: Check
) -> None:
    job = await put(store, id=named(store, where))
    before = job.json()

    for queue in (QUEUE, *queues_in_other_shards(store, 3)):
        with pytest.raises(Duplicate) as refusal:
            await put(other_store, queue, id=job.id)
        assert refusal.value.details["existing_job_id"] == job.id
    assert (await read_jobs.get(store, job.id)).json() == before
    assert consistent().count() == {"available": 1}


@both
async def test_a_taken_id_is_refused_in_every_state_of_its_job(
    store: Store, where: str, consistent: Check
) -> None:
    job = await active(store, id=named(store, where))
    with pytest.raises(Duplicate):
        await put(store, id=job.id)
    await nack(store, job)
    with pytest.raises(Duplicate):
        await put(store, id=job.id)
    await cancel(store, job.id)
    with pytest.raises(Duplicate):
        await put(store, "other", id=job.id)
    assert consistent().count() == {"cancelled": 1}


@both
async def test_two_producers_of_one_id_create_one_job(
    store: Store, other_store: Store, where: str, consistent: Check
) -> None:
    names = [QUEUE, *queues_in_other_shards(store, 3)]
    for _ in range(10):
        job_id = named(store, where)
        won: list[str] = []
        refused: list[str] = []

        async def produce(of: Store, queue: str, job_id: str = job_id) -> None:
            while True:
                with suppress(BackendUnavailable):  # it waited in vain for another that is slow
                    try:
                        won.append((await put(of, queue, id=job_id)).queue)  # noqa: B023
                    except Duplicate:
                        refused.append(queue)  # noqa: B023
                    return

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names):
                nursery.start_soon(produce, (store, other_store)[number % 2], name)

        assert len(won) == 1
        assert len(refused) == len(names) - 1
        assert (await read_jobs.get(store, job_id)).queue == won[0]
    assert len(consistent().states) == 10


@both
async def test_an_id_twice_in_a_batch_stores_nothing(
    store: Store, where: str, backend: Embedded
) -> None:
    job_id = named(store, where)
    before = all_keys(backend)
    with pytest.raises(Duplicate) as refusal:
        await enqueue_many(store, [new_job(), new_job(id=job_id), new_job("x", id=job_id)])

    assert refusal.value.details["index"] == 2
    assert all_keys(backend) == before


@both
async def test_a_taken_id_in_a_batch_stores_nothing_of_its_shard(
    store: Store, where: str, consistent: Check
) -> None:
    taken = await put(store, id=named(store, where))
    batch = [new_job(), new_job(id=home_id(store)), new_job(id=taken.id), new_job()]
    with pytest.raises(Duplicate) as refusal:
        await enqueue_many(store, batch)

    assert refusal.value.details["index"] == 2
    assert refusal.value.details["existing_job_id"] == taken.id
    assert consistent().count() == {"available": 1}


@both
async def test_retention_removes_the_job_and_its_alias(
    store: Store, db: Any, where: str, backend: Embedded, consistent: Check
) -> None:
    job = await active(store, id=named(store, where))
    await ack(store, job)
    age_claim(db, store.keys.shard_of_id(job.id), job.id, HOUR)
    age_job(db, shard_of(store), job.id, 8 * DAY)

    assert (await retention.purge_due(store, shard_of(store), 10)).done == 1
    with pytest.raises(NotFound):
        await read_jobs.get(store, job.id)
    assert not [key for key in all_keys(backend) if job.id.encode() in key]
    assert db.zscore(store.keys.shard_of_id(job.id).alias_claims, job.id) is None
    consistent()
    assert (await put(store, "other", id=job.id)).state is State.AVAILABLE
    consistent()


@both
async def test_a_purged_queue_frees_the_ids_of_its_jobs(
    store: Store, db: Any, where: str, backend: Embedded, consistent: Check
) -> None:
    ids = [named(store, where) for _ in range(3)]
    for job_id in ids:
        await put(store, id=job_id)
        age_claim(db, store.keys.shard_of_id(job_id), job_id, HOUR)
    held = (await take(store))[0]

    assert await purges.purge(store, QUEUE) == (2, 0)
    assert not [key for key in all_keys(backend) for job_id in ids[1:] if job_id.encode() in key]
    assert consistent().states == {held.id: "active"}
    await put(store, "other", id=ids[1])
    consistent()


# Claims whose job never came


async def claim(store: Store, job_id: str) -> Any:
    home = store.keys.shard_of_id(job_id)
    return await store.run(
        home,
        "claim_alias",
        [home.job(job_id), home.alias_claims],
        [job_id, shard_of(store).index, 30_000, ""],
    )


async def test_a_damaged_alias_delays_no_other(store: Store, db: Any) -> None:
    """A target that is no shard, and a key of another type: both are checked again later."""
    targets = ["x", "4096"]
    ids = [foreign_id(store) for _ in range(4)]
    home = store.keys.shard_of_id(ids[0])
    for job_id in ids:
        await claim(store, job_id)
    for job_id, target in zip(ids, targets, strict=False):
        db.hset(home.job(job_id), "@", target)
    db.delete(home.job(ids[2]))
    db.set(home.job(ids[2]), "x")
    for job_id in ids:
        age_claim(db, home, job_id, HOUR)

    assert await aliases.check_old_claims(store, home, 10) == 4

    left = {job_id.decode() for job_id in db.zrange(home.alias_claims, 0, -1)}
    assert left == set(ids[:3])
    assert await aliases.check_old_claims(store, home, 10) == 0
    db.delete(*(home.job(job_id) for job_id in ids), home.alias_claims)


async def test_a_claim_without_a_job_is_dropped_and_one_with_a_job_is_settled(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    dangling, used = foreign_id(store), foreign_id(store)
    home = store.keys.shard_of_id(dangling)
    await claim(store, dangling)
    await put(store, id=used)
    with pytest.raises(NotFound):
        await read_jobs.get(store, dangling)

    assert await aliases.check_old_claims(store, home, 10) == 0, "too young to judge"
    for job_id in (dangling, used):
        age_claim(db, home, job_id, HOUR)
    assert await aliases.check_old_claims(store, home, 10) == 2
    assert db.zcard(home.alias_claims) == 0
    assert not [key for key in all_keys(backend) if dangling.encode() in key]
    assert (await read_jobs.get(store, used)).id == used
    await put(store, "other", id=dangling)
    consistent()


@both_ways
async def test_an_id_that_was_reserved_by_a_batch_that_died_becomes_free(
    store: Store, db: Any, step: int
) -> None:
    """The janitor may check the alias while its target is still a reservation."""
    queue, other = middle_queue(store), "other"
    job_id = foreign_id(store, queue, step=step)
    await BatchAttempt(store, [new_job(queue, id=job_id), new_job(other)]).reserve()

    for _ in range(2):
        await recover(store, db, HOUR)

    assert not [key for key in keys_there(db) if job_id.encode() in key]
    await put(store, sibling_queue(store, other), id=job_id)


@both_ways
async def test_an_id_with_a_tombstone_becomes_free(store: Store, db: Any, step: int) -> None:
    """A producer dies between lock and job, and another one takes the lock."""
    queue = middle_queue(store)
    job_id = foreign_id(store, queue, step=step)
    wanted, shard = new_job(queue, id=job_id, unique={}), shard_of(store, queue)
    await aliases.AliasClaims(store).claim(shard, [(job_id, 0)], 30_000, total=1)
    lock_shard = store.keys.shard_of_fingerprint(wanted.fingerprint)
    await locks.try_claim(store, lock_shard, [LockRequest(wanted.fingerprint, job_id, shard.index)])
    age_lock(db, store, wanted.fingerprint, 5_000)
    await once(store, queue)
    assert len([key for key in keys_there(db) if job_id.encode() in key]) == 2

    for _ in range(2):
        await recover(store, db, HOUR)

    assert not [key for key in keys_there(db) if job_id.encode() in key]


async def test_an_alias_stays_listed_while_its_target_is_undecided(store: Store, db: Any) -> None:
    queue = middle_queue(store)
    job_id = foreign_id(store, queue)
    home = store.keys.shard_of_id(job_id)
    await BatchAttempt(store, [new_job(queue, id=job_id), new_job("other")]).reserve()
    age_claim(db, home, job_id, HOUR)

    assert await aliases.check_old_claims(store, home, 10) == 1
    assert await aliases.check_old_claims(store, home, 10) == 0, "it is checked later"

    assert db.zrange(home.alias_claims, 0, -1) == [job_id.encode()]


# Claims that are given back


def aliases_left(db: Any) -> list[bytes]:
    """Return every alias by a scan, which only tests may do."""
    keys = [key for key in keys_there(db) if b"}:j:" in key]
    return [key for key in keys if db.hexists(key, f.ALIAS)]


@pytest.mark.parametrize("policy", ["reject", "ignore"])
async def test_a_unique_job_that_is_refused_leaves_its_id_free(
    store: Store, db: Any, policy: str, consistent: Check
) -> None:
    kept = await once(store)
    job_id = foreign_id(store)
    try:
        assert (await once(store, id=job_id, on_conflict=policy)).id == kept.id
    except Duplicate as error:
        assert (policy, error.details["existing_job_id"]) == ("reject", kept.id)  # noqa: PT017

    assert aliases_left(db) == []
    assert (await put(store, "other", id=job_id)).id == job_id
    consistent()


@pytest.mark.parametrize("policy", ["reject", "ignore"])
async def test_a_batch_whose_unique_job_is_refused_leaves_all_its_ids_free(
    store: Store, db: Any, policy: str, consistent: Check
) -> None:
    one, other = queues_in_other_shards(store, 2)
    await once(store)
    ids = [foreign_id(store), home_id(store), foreign_id(store, one), foreign_id(store, other)]
    first, second = (new_job(id=name, unique={"on_conflict": policy}) for name in ids[:2])
    plain = [new_job(one, id=ids[2]), new_job(other, id=ids[3])]
    stored = policy == "ignore"
    try:
        await enqueue_many(store, [*plain, first, second])
    except Duplicate:
        assert not stored

    assert len(aliases_left(db)) == (2 if stored else 0)
    for job_id in ids[:2] if stored else ids:
        assert (await put(store, "q9", id=job_id)).id == job_id
    consistent()


async def test_a_batch_of_one_shard_that_is_refused_leaves_its_other_ids_free(
    store: Store, db: Any, consistent: Check
) -> None:
    free, taken, elsewhere = foreign_id(store), home_id(store), foreign_id(store, "other")
    away = queues_in_other_shards(store, 1)[0]
    at_home_there = home_id(store, away)
    await put(store, id=taken)
    await put(store, "other", id=elsewhere)
    await put(store, away, id=at_home_there)
    for in_the_way in (taken, elsewhere, at_home_there):
        with pytest.raises(Duplicate) as refused:
            await enqueue_many(store, [new_job(id=free), new_job(id=in_the_way)])
        assert refused.value.details["existing_job_id"] == in_the_way

    assert len(aliases_left(db)) == 1
    assert (await put(store, "q9", id=free)).id == free
    consistent()


async def test_a_claim_is_not_released_after_another_producer_has_made_it(
    store: Store, consistent: Check
) -> None:
    """A request and its repetition: the first is refused when the second is about to store."""
    job_id, shard = foreign_id(store), shard_of(store)
    first, second = aliases.AliasClaims(store), aliases.AliasClaims(store)
    await first.claim(shard, [(job_id, 0)], 30_000, total=1)
    expires_at_ms = await second.claim(shard, [(job_id, 0)], 30_000, total=1)
    await first.release()
    keys, args = enqueue_command(
        store, shard, [place(job_id, new_job(id=job_id))], store_before_ms=expires_at_ms
    )
    await store.run(shard, "enqueue", keys, args)
    await second.release()

    assert (await read_jobs.get(store, job_id)).id == job_id
    consistent()


async def test_a_claim_of_the_same_producer_may_be_used_again(
    store: Store, consistent: Check
) -> None:
    job_id = foreign_id(store)
    await claim(store, job_id)

    assert (await put(store, id=job_id)).id == job_id
    consistent()


@pytest.mark.parametrize("jobs_before", [0, 1], ids=["full path", "fast path"])
async def test_an_expired_claim_stores_nothing(
    store: Store,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
    consistent: Check,
    jobs_before: int,
) -> None:
    for _ in range(jobs_before):
        await put(store)
    monkeypatch.setattr("ojs_cluster.store.engine.enqueue.enqueue.CLAIM_MS", -1000)
    with pytest.raises(BackendUnavailable, match="expired") as failure:
        await put(store, id=foreign_id(store))

    assert failure.value.outcome == "not_applied"
    assert len(consistent().states) == jobs_before
    assert not aliases_left(db)


async def test_a_request_whose_claim_expired_claims_its_id_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    """The first claim expires before the job is stored, as when the call waits too long."""
    monkeypatch.setattr("ojs_cluster.store.engine.enqueue.enqueue.CLAIM_MS", -1000)

    async def in_time(moment: Moment) -> None:
        if moment == Moment("before", "claim_alias", 2):
            monkeypatch.setattr("ojs_cluster.store.engine.enqueue.enqueue.CLAIM_MS", 60_000)

    job = await put(at_moments(store, in_time), id=foreign_id(store))

    assert job.state is State.AVAILABLE
    assert consistent().count() == {"available": 1}


@pytest.mark.parametrize("options", [{}, {"unique": {"keys": ["type", "queue"]}}])
async def test_an_expired_claim_after_a_lost_reply_has_an_unknown_outcome(
    store: Store, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("ojs_cluster.store.engine.enqueue.enqueue.CLAIM_MS", -1000)
    lossy_store, _ = lossy(store, "enqueue", times=1)
    with pytest.raises(BackendUnavailable) as failure:
        await put(lossy_store, id=foreign_id(store), **options)

    assert failure.value.outcome == "unknown"


async def test_a_job_that_is_being_removed_does_not_take_the_claim_of_the_next_with_it(
    store: Store, db: Any, consistent: Check
) -> None:
    """A producer claims an id just before the janitor removes the job that had it."""
    job_id = foreign_id(store)
    await ack(store, await active(store, id=job_id))
    age_job(db, shard_of(store), job_id, 8 * DAY)
    age_claim(db, store.keys.shard_of_id(job_id), job_id, HOUR)
    status, expires_at_ms = await claim(store, job_id)
    assert status == b"ok"
    await retention.purge_due(store, shard_of(store), 10)
    shard = shard_of(store)
    keys, args = enqueue_command(
        store, shard, [place(job_id, new_job(id=job_id))], store_before_ms=expires_at_ms
    )
    stored = await store.run(shard, "enqueue", keys, args)

    assert stored[0] == b"ok"
    assert (await read_jobs.get(store, job_id)).state is State.AVAILABLE
    consistent()


async def test_a_claim_renewed_during_a_janitor_check_is_kept(
    store: Store, db: Any, consistent: Check
) -> None:
    """Between the check and the drop, a producer claims the id again and stores its job."""
    job_id = foreign_id(store)
    home = store.keys.shard_of_id(job_id)
    await claim(store, job_id)
    age_claim(db, home, job_id, HOUR)
    await put(store, id=job_id)
    settled = aliases._AliasCheck(job_id, "drop", shard_of(store))
    dropped = await aliases._settle(store, home, [settled], 60_000)

    assert dropped == 0
    assert (await read_jobs.get(store, job_id)).id == job_id
    consistent()


@both
async def test_a_retry_by_hand_at_the_moment_of_removal_keeps_the_job_reachable(
    store: Store, db: Any, where: str, consistent: Check
) -> None:
    """The janitor has listed a dead letter as due; an operator retries it before it is removed."""
    dead = await nack(store, await active(store, id=named(store, where), **DEADLY))
    shard = shard_of(store)
    age_claim(db, store.keys.shard_of_id(dead.id), dead.id, HOUR)
    age_job(db, shard, dead.id, 200 * DAY)
    await store.run(
        shard, "purge", [shard.finished, shard.dead, shard.expiring], [10, shard.index, 64]
    )
    retried = False
    try:
        await dead_letters.retry(store, dead.id)
        retried = True
    except NotFound:
        pass
    await aliases.remove_expired_jobs(store, shard, [dead.id])

    if retried:
        assert (await read_jobs.get(store, dead.id)).state is State.AVAILABLE
    else:
        with pytest.raises(NotFound):
            await read_jobs.get(store, dead.id)
    consistent()


async def test_claims_are_checked_as_fast_as_they_are_made(store: Store, db: Any) -> None:
    home = store.keys.shard((shard_of(store).index + 1) % 64)
    await enqueue_many(store, [new_job(id=id_in(home.index)) for _ in range(30)])
    for job_id in db.zrange(home.alias_claims, 0, -1):
        age_claim(db, home, job_id, HOUR)

    done = [await retention.remove_leftovers(store, home, limit=10) for _ in range(3)]

    assert done == [10, 10, 10], "a full page must be reported, or the janitor goes to sleep"
    assert db.zcard(home.alias_claims) == 0
