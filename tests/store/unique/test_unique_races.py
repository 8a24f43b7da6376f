"""Unique jobs under many producers at once, and under death between any two commands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, cast

import msgspec
import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, QueueFull
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import IN_FLIGHT_MS
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import enqueue_command, place
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import (
    HOUR,
    ack,
    foreign_id,
    home_id,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import (
    age_lock,
    assert_nothing_left,
    lock_of,
    locks_left,
    once,
    recover,
)
from tests.support.failing_process import dies_at
from tests.support.interrupted import interrupted
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.moments import Moment, at_moments
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_claim, age_job

PRODUCERS = 64
PROCESSES = 4
POLICIES = ("reject", "ignore", "replace", "replace_except_schedule")


@pytest.fixture
async def stores(backend: Embedded) -> AsyncIterator[list[Store]]:
    """Several processes' stores: each has its own connections."""
    settings = patient_client(backend)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_store(settings, prelude=PRELUDE))
            for _ in range(PROCESSES)
        ]


@pytest.mark.parametrize("policy", ["reject", "ignore"])
async def test_many_producers_of_one_fingerprint_create_one_job(
    stores: list[Store], db: Any, consistent: Callable[[], InvariantReport], policy: str
) -> None:
    names = queues_in_other_shards(stores[0], 4)
    outcomes: Counter[str] = Counter()
    ids: set[str] = set()

    async def produce(number: int) -> None:
        try:
            queue = names[number // PROCESSES % 4]
            job = await once(stores[number % PROCESSES], queue, on_conflict=policy)
        except Duplicate as error:
            outcomes["refused"] += 1
            ids.add(error.details["existing_job_id"])
        else:
            outcomes["deduplicated" if job.deduplicated else "created"] += 1
            ids.add(job.id)

    async with trio.open_nursery() as nursery:
        for number in range(PRODUCERS):
            nursery.start_soon(produce, number)

    others = "refused" if policy == "reject" else "deduplicated"
    assert outcomes == {"created": 1, others: PRODUCERS - 1}
    [job] = await take(stores[0], *names, count=99)
    assert ids == {job.id}
    await ack(stores[0], job)
    assert_nothing_left(stores[0], db)
    consistent()


@pytest.mark.parametrize("policy", ["replace", "replace_except_schedule"])
async def test_many_producers_that_replace_leave_one_job(
    stores: list[Store], db: Any, consistent: Callable[[], InvariantReport], policy: str
) -> None:
    names = queues_in_other_shards(stores[0], 4)
    created: list[JobRecord] = []

    async def produce(number: int) -> None:
        queue = names[number // PROCESSES % 4]
        created.append(await once(stores[number % PROCESSES], queue, on_conflict=policy))

    async with trio.open_nursery() as nursery:
        for number in range(PRODUCERS):
            nursery.start_soon(produce, number)

    states = Counter([(await read_jobs.get(stores[0], job.id)).state for job in created])
    assert states == {State.AVAILABLE: 1, State.CANCELLED: len(created) - 1}
    [job] = await take(stores[0], *names, count=99)
    await ack(stores[0], job)
    await recover(stores[0], db)
    assert_nothing_left(stores[0], db)
    consistent()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_a_producer_with_its_own_id_may_die_and_repeat(
    store: Store, db: Any, applied: bool, make_id: Callable[[Store], str]
) -> None:
    at, died = 1, True
    while died:
        job_id = make_id(store)
        died = await dies_at(store, at, applied, partial(once, id=job_id))

        with trio.fail_after(60):
            try:
                await once(store, id=job_id)
            except Duplicate as error:
                assert error.details["existing_job_id"] == job_id  # noqa: PT017 - either is right

        [job] = await take(store, count=9)
        assert job.id == job_id
        await ack(store, job)
        await recover(store, db, HOUR)
        assert_nothing_left(store, db)
        at += 1
    assert at > 2


async def test_a_lock_claimed_while_the_janitor_drops_its_name_stays_listed(
    store: Store, db: Any
) -> None:
    await once(store)
    lock = lock_of(store, db)
    shard = store.keys.shard_of_fingerprint(lock)
    age_lock(db, store, lock, HOUR)
    db.delete(shard.lock(lock))
    looking, client = lossy(store, times=0)
    original = client.script

    async def claimed_meanwhile(slot: int, script: Any, *args: Any, **more: Any) -> Any:
        reply = await original(slot, script, *args, **more)
        if script.name == "read_hash":
            await once(store)
        return reply

    client.script = claimed_meanwhile  # type: ignore[method-assign]
    assert await unique.check_old_locks(looking, shard, 10) == 1

    assert locks_left(store, db) == 1


async def stale_claim(store: Store, db: Any, job: NewJob) -> unique.LockClaim:
    """Claim the lock of a producer that stalls for longer than others wait."""
    request = LockRequest(job.fingerprint, str(job.id), shard_of(store).index)
    claim = await unique.claim_lock(store, request, cast(UniquePolicy, job.unique))
    age_lock(db, store, job.fingerprint, 60_000)
    return claim


async def test_a_lock_that_its_job_claims_again_is_not_taken_from_it(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """A process that has read the first claim drops the lock after the second stored the job."""
    again = new_job(id=home_id(store), unique={})
    await stale_claim(store, db, again)

    async def enqueue_again(moment: Moment) -> None:
        if moment == Moment("before", "lock_settle", 1):
            await enqueue(store, again)

    with pytest.raises(Duplicate) as caught:
        await enqueue(at_moments(store, enqueue_again), new_job(unique={}))

    assert caught.value.details["existing_job_id"] == again.id
    assert (await read_jobs.get(store, str(again.id))).state is State.AVAILABLE
    consistent()


@pytest.mark.parametrize("same_ms", [False, True])
async def test_a_late_producer_does_not_release_the_lock_of_another_with_its_id(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], same_ms: bool
) -> None:
    job = new_job(id=home_id(store), unique={})
    lock = store.keys.shard_of_fingerprint(job.fingerprint).lock(job.fingerprint)

    async def enqueue_others(moment: Moment) -> None:
        if moment == Moment("before", "lock_settle", 1):
            claimed_at = db.hget(lock, "claimed_at")
            await enqueue(store, job)
            if same_ms:
                db.hset(lock, "claimed_at", claimed_at)
        if moment == Moment("after", "lock_settle", 1):
            with pytest.raises(Duplicate):
                await enqueue(store, new_job(unique={}))

    with pytest.raises(Conflict, match="too late"):
        await enqueue(at_moments(store, enqueue_others), job, store_before_ms=1)

    assert (await read_jobs.get(store, str(job.id))).state is State.AVAILABLE
    consistent()


async def test_a_producer_that_is_refused_leaves_the_lock_to_another_with_its_id(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    """The other producer claimed the lock first, and stores the job after the refusal."""
    job = new_job(id=home_id(store), unique={})

    async def refused(moment: Moment) -> None:
        if moment == Moment("after", "lock_claim", 1):
            with pytest.raises(Conflict, match="too late"):
                await enqueue(store, job, store_before_ms=1)

    await enqueue(at_moments(store, refused), job)

    with pytest.raises(Duplicate):
        await enqueue(store, new_job(unique={}))
    consistent()


@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_a_job_of_another_request_in_another_shard_does_not_delay_a_unique_job(
    store: Store, db: Any, make_id: Callable[[Store], str]
) -> None:
    """A tombstone keeps the stalled producer out, also after that job is removed."""
    job = new_job(id=make_id(store), unique={})
    owner, shard = store.keys.shard_of_id(str(job.id)), shard_of(store)
    queue = next(
        name
        for name in queues_in_other_shards(store, 3)
        if shard_of(store, name) not in (owner, shard)
    )
    claim = await stale_claim(store, db, job)
    used = await enqueue(store, new_job(queue, id=job.id))

    mine = await enqueue(store, msgspec.structs.replace(job, id=None))

    assert lock_of(store, db) == job.fingerprint
    assert (await read_jobs.get(store, mine.id)).state is State.AVAILABLE
    [taken] = await take(store, queue)
    assert taken.id == used.id
    await ack(store, taken)
    age_job(db, shard_of(store, queue), used.id, 400 * 24 * HOUR)
    age_claim(db, owner, used.id, IN_FLIGHT_MS)
    assert (await retention.purge_due(store, shard_of(store, queue), 10)).done == 1
    for place_of_id in (shard, owner):
        keys, args = enqueue_command(
            store, place_of_id, [place(used.id, job)], store_before_ms=claim.expires_at_ms
        )
        assert (await store.run(place_of_id, "enqueue", keys, args))[0] == b"exists"


Act = Callable[[], Awaitable[None]]


async def claim_only(store: Store, _db: Any, queue: str, job_id: str, act: Act) -> None:
    """Claim an id for a job of ``queue``, which is refused after ``act``."""
    await pauses.pause_or_resume(store, queue, "drain")

    async def before_refusal(moment: Moment) -> None:
        if moment == Moment("before", "enqueue", 1):
            await act()

    with pytest.raises((QueueFull, Duplicate)):
        await enqueue(at_moments(store, before_refusal), new_job(queue, id=job_id))


async def run_and_remove(store: Store, db: Any, queue: str, job_id: str, act: Act) -> None:
    """Run a job with an id in ``queue``. It is removed after ``act``."""
    with suppress(Duplicate):
        await enqueue(store, new_job(queue, id=job_id))
        [taken] = await take(store, queue)
        await ack(store, taken)
        await act()
        shard = shard_of(store, queue)
        age_job(db, shard, job_id, 400 * 24 * HOUR)
        age_claim(db, store.keys.shard_of_id(job_id), job_id, IN_FLIGHT_MS)
        await retention.purge_due(store, shard, 10)


@pytest.mark.parametrize("use", [claim_only, run_and_remove])
@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_a_stalled_producer_stores_no_second_job_when_another_request_used_its_id(
    store: Store,
    other_store: Store,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Store, Any, str, str, Act], Awaitable[None]],
    elsewhere: bool,
    make_id: Callable[[Store], str],
) -> None:
    """It stalls before any of its calls. Meanwhile a third producer requests its lock."""
    monkeypatch.setattr(unique, "GRACE_MS", 1)
    monkeypatch.setattr(unique, "CLAIM_TIMEOUT_S", 0.3)
    names = (*queues_in_other_shards(store, 3), *(f"beside{number}" for number in range(999)))
    queue = next(
        name for name in names if (shard_of(store, name) is not shard_of(store)) == elsewhere
    )
    at, stalled, rivals = 0, True, 0
    while stalled:
        job, stalled = new_job(id=make_id(store), unique={}, type=f"type{at}"), False
        stored: list[str] = []

        async def rival() -> None:
            nonlocal rivals
            with suppress(Duplicate, BackendUnavailable):
                other = await enqueue(other_store, msgspec.structs.replace(job, id=None))  # noqa: B023
                stored.append(other.id)  # noqa: B023
                rivals += 1

        async def interfere() -> None:
            nonlocal stalled
            stalled = True
            await use(other_store, db, queue, str(job.id), rival)  # noqa: B023
            await pauses.pause_or_resume(other_store, queue, "resume")

        with suppress(Duplicate, BackendUnavailable):
            stored.append((await enqueue(interrupted(store, interfere, before=at), job)).id)
        assert len(stored) <= 1, (at, job.id, stored)
        at += 1
    assert at > 2
    assert rivals


async def test_an_ignored_job_makes_no_event(store: Store) -> None:
    await once(store)
    await once(store, on_conflict="ignore")

    page = await read_events(store, EventFilter(types=("job.enqueued",)), after=None, limit=100)
    assert len(page.events) == 1
    assert json.loads(page.events[0])


async def live(store: Store) -> list[str]:
    """Ids of all jobs that have not ended, by the indexes."""
    found: list[str] = []
    for shard in store.keys:
        for index in (shard.active, shard.due, shard.pending):
            members: Any = await store.redis.call(shard.slot, "ZRANGE", index, 0, -1)
            found += [raw.decode() for raw in members]
    for queue in queues_in_other_shards(store, 2):
        shard = store.keys.shard_of_queue(queue)
        members = await store.redis.call(shard.slot, "ZRANGE", shard.queue_available(queue), 0, -1)
        found += [raw.decode() for raw in members]
    return found
