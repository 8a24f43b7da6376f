"""An id that a request has claimed and not used: what the next request for it is answered.

The first request dies, or both are under way at once, and they place the job in different shards,
because the queue's partitions changed or because the job names another queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import msgspec
import pytest

from ojs_cluster.core.errors import BackendUnavailable, Duplicate, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import aliases
from ojs_cluster.store.engine.enqueue import batch_attempt
from ojs_cluster.store.engine.enqueue import enqueue as store_enqueue
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import enqueue_command, place
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest, try_claim
from ojs_cluster.store.features.workflows.unique_steps import enqueue_step
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.partitions import PartitionTable
from ojs_cluster.store.ground.runtime import Runtime
from tests.store.hot_queues import close_empty, put_into, spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    id_in,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import age_lock, keys_there, once
from tests.support.failing_process import dies_at
from tests.support.interrupted import Died, interrupted
from tests.support.invariants import InvariantReport
from tests.support.moments import Moment, at_moments
from tests.support.timeshift import age_claim

Check = Callable[[], InvariantReport]
Enqueue = Callable[[Store, NewJob], Awaitable[JobRecord]]
PARTS = 4
_serial = itertools.count()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for requests that the tests let die."""
    monkeypatch.setattr(unique, "GRACE_MS", 0)


async def alone(store: Store, job: NewJob) -> JobRecord:
    return await enqueue(store, job)


async def with_one_of_its_queue(store: Store, job: NewJob) -> JobRecord:
    return (await enqueue_many(store, [job, new_job(job.queue, type="beside")]))[0]


async def with_one_of_another_queue(store: Store, job: NewJob) -> JobRecord:
    return (await enqueue_many(store, [job, new_job("beside", type="beside")]))[0]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to enqueue a job."""

    enqueue: Enqueue
    unique: bool = False

    def job(self, queue: str, job_id: str) -> NewJob:
        """Return a job. A unique job has a fingerprint of its own."""
        options: dict[str, Any] = {"unique": {}} if self.unique else {}
        return new_job(queue, id=job_id, type=f"type{next(_serial)}", **options)


WAYS = {
    "alone": Way(alone),
    "unique": Way(alone, unique=True),
    "batch of a queue": Way(with_one_of_its_queue),
    "batch": Way(with_one_of_another_queue),
    "batch with unique": Way(with_one_of_another_queue, unique=True),
}
CHANGES = [
    *(("elsewhere", "more", name) for name in WAYS),
    *(("at home", "more", name) for name in ("alone", "batch")),
    *(("at home", "fewer", name) for name in ("alone", "batch")),
    ("elsewhere", "fewer", "unique"),
]
"""Where the id points, how the number of partitions changes, how the job is enqueued."""

ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
changes = pytest.mark.parametrize(("where", "change", "name"), CHANGES)


def id_of_partition(store: Store, queue: str, number: int, *, is_owner_shard: bool) -> str:
    """An id that is placed in a certain one of four partitions, by its bits or in spite of them."""
    shards = store.keys.partitions(queue, PARTS)
    if is_owner_shard:
        return id_in(shards[number].index)
    home = next(shard for shard in store.keys if shard not in shards)
    ids = (id_in(home.index) for _ in itertools.count())
    return next(job_id for job_id in ids if crc32(job_id.encode()) % PARTS == number)


def with_current_table(store: Store) -> Store:
    """Return a process that keeps the partition table that ``store`` has now."""

    class Believed(PartitionTable):
        async def refresh_if_stale(self, store: Runtime) -> None:
            """Keep the old table."""

    known = Believed()
    known._entries = store.partitions.entries()
    known._clock_ahead_ms = store.partitions._clock_ahead_ms
    return replace(store, partitions=known)


def places(store: Store, db: Any, job_id: str) -> list[Shard]:
    """The shards that have a job with the id."""
    keys = {shard.job(job_id): shard for shard in store.keys}
    return [keys[key] for key in keys_there(db) & set(keys) if db.hexists(key, f.STATE)]


async def assert_one(store: Store, db: Any, job: NewJob) -> None:
    """Check that one job has the id, that its id finds it, and that a worker fetches it."""
    assert job.id is not None
    [shard] = places(store, db, job.id)
    assert (await read_jobs.get(store, job.id)).queue == job.queue
    assert shard in await store.partitions.open_shards(store, job.queue)
    assert job.id in {found.id for found in await take(store, job.queue, count=9)}


@changes
async def test_a_request_that_died_is_repeated_when_the_partitions_have_changed(
    store: Store, db: Any, where: str, change: str, name: str, consistent: Check
) -> None:
    at, struck, way = 0, True, WAYS[name]
    before, after = (1, PARTS) if change == "more" else (PARTS, 1)
    while struck:
        at, queue = at + 1, f"{QUEUE}{next(_serial)}"
        shards = await spread(store, db, before, queue)
        await put_into(store, shards[-1], queue)
        for used in await take(store, queue):  # the queue has a hash where the job may go
            await ack(store, used)
        job = way.job(queue, id_of_partition(store, queue, 3, is_owner_shard=where == "at home"))
        struck = await dies_at(store, at, True, lambda process: way.enqueue(process, job))  # noqa: B023
        await spread(store, db, after, queue)
        if after < before:
            await close_empty(store, db, queue)

        try:
            stored = (await way.enqueue(store, job)).id == job.id
        except Duplicate as error:
            stored = error.details["existing_job_id"] == job.id

        assert stored
        await assert_one(store, db, job)
    assert at > 3
    consistent()


@changes
async def test_two_producers_that_know_different_partitions_store_one_job(
    store: Store, db: Any, where: str, change: str, name: str, consistent: Check
) -> None:
    """The whole second request runs between any two calls of the first."""
    at, interposed, way = 0, True, WAYS[name]
    while interposed:
        queue = f"{QUEUE}{next(_serial)}"
        await store.queues.ensure(store, [queue, "beside"])
        less = with_current_table(store)
        await spread(store, db, PARTS, queue)
        more = with_current_table(store)
        slow, quick = (less, more) if change == "more" else (more, less)
        job = way.job(queue, id_of_partition(store, queue, 2, is_owner_shard=where == "at home"))
        answers: list[str] = []

        async def ask(process: Store) -> None:
            try:
                answers.append((await way.enqueue(process, job)).id)  # noqa: B023
            except Duplicate as error:
                answers.append(f"not {error.details['existing_job_id']}")  # noqa: B023

        await ask(interrupted(slow, lambda: ask(quick), before=at))  # noqa: B023
        interposed = len(answers) == 2
        assert sorted(answers) == [str(job.id), f"not {job.id}"][: len(answers)]
        await assert_one(store, db, job)
        at += 1
    assert at > 2
    consistent()


# The first request named another queue


def other_queue(store: Store) -> str:
    """A queue of another shard."""
    return next(
        name
        for name in queues_in_other_shards(store, 3)
        if shard_of(store, name) != shard_of(store)
    )


def foreign_to_both(store: Store, *queues: str) -> str:
    """Return an id whose owner shard holds none of the queues."""
    own = [shard_of(store, queue) for queue in queues]
    return id_in(next(shard.index for shard in store.keys if shard not in own))


@ways
async def test_an_id_claimed_for_another_queue_is_refused_while_the_claim_is_young(
    store: Store, db: Any, way: Way, consistent: Check
) -> None:
    other = other_queue(store)
    job = way.job(QUEUE, foreign_to_both(store, QUEUE, other))
    home = store.keys.shard_of_id(str(job.id))
    claims = aliases.AliasClaims(store)
    expires_at_ms = await claims.claim(
        shard_of(store, other), [(str(job.id), 0)], aliases.CLAIM_MS, total=1
    )
    age_claim(db, home, str(job.id), -HOUR)  # another claim is always younger than the grace
    before = keys_there(db)

    with pytest.raises(BackendUnavailable) as refused:
        await way.enqueue(store, job)
    assert refused.value.outcome == "not_applied"
    assert {key for key in keys_there(db) - before if b":j:" in key or b":u:" in key} == set()
    age_claim(db, home, str(job.id), HOUR)

    assert (await way.enqueue(store, job)).id == job.id
    late = msgspec.structs.replace(job, queue=other)
    keys, args = enqueue_command(
        store, shard_of(store, other), [place(str(late.id), late)], store_before_ms=expires_at_ms
    )
    assert (await store.run(shard_of(store, other), "enqueue", keys, args))[0] == b"exists"
    await assert_one(store, db, job)
    consistent()


@ways
@pytest.mark.parametrize("where", ["owner", "elsewhere"])
async def test_an_id_with_a_tombstone_is_used_by_another_queue_at_once(
    store: Store, db: Any, way: Way, where: str, consistent: Check
) -> None:
    """The producer of a unique job has died, and another producer has taken its lock."""
    first = other_queue(store)
    at_home = where == "owner"
    job_id = (
        id_in(shard_of(store, first).index) if at_home else foreign_to_both(store, QUEUE, first)
    )
    dead = new_job(first, id=job_id, unique={}, type="dead")

    async def die(moment: Moment) -> None:
        if moment == Moment("after", "lock_claim", 1):
            raise Died

    with pytest.raises(Died):
        await enqueue(at_moments(store, die), dead)
    age_lock(db, store, dead.fingerprint, 60_000)
    rival = await enqueue(store, msgspec.structs.replace(dead, id=None))
    job = way.job(QUEUE, job_id)

    assert (await way.enqueue(store, job)).id == job_id

    with pytest.raises(Duplicate):
        await enqueue(store, dead)
    await assert_one(store, db, job)
    assert (await read_jobs.get(store, rival.id)).type == "dead"
    consistent()


@pytest.mark.parametrize("valid_ms", [-1000, aliases.CLAIM_MS])
@pytest.mark.parametrize("name", ["unique", "replacing", "batch"])
async def test_a_late_request_stores_nothing_when_its_id_was_taken_over(
    store: Store,
    db: Any,
    name: str,
    valid_ms: int,
    monkeypatch: pytest.MonkeyPatch,
    consistent: Check,
) -> None:
    """A request stalls between any two calls while another takes the id.

    The claim of the first request has expired, or it is old enough to be taken over.
    """
    other, replaces = other_queue(store), name == "replacing"
    way = WAYS["unique" if replaces else name]
    at, stalled, taken_over = 0, True, 0
    while stalled:
        late = way.job(other, foreign_to_both(store, QUEUE, other))
        if replaces:
            options: dict[str, Any] = {"unique": {"on_conflict": "replace"}}
            options["type"] = f"type{next(_serial)}"
            late = new_job(other, id=late.id, **options)
            await enqueue(store, msgspec.structs.replace(late, id=None))
        job, stalled, taken = msgspec.structs.replace(late, queue=QUEUE), False, False

        def good_for(ms: int) -> None:
            for module in (store_enqueue, batch_attempt):
                monkeypatch.setattr(module, "CLAIM_MS", ms)

        async def drop_if_unused() -> None:
            nonlocal stalled, taken
            stalled = True
            good_for(aliases.CLAIM_MS)
            age_claim(db, store.keys.shard_of_id(str(job.id)), str(job.id), aliases.IN_FLIGHT_MS)  # noqa: B023
            with suppress(Duplicate):
                taken = (await way.enqueue(store, job)).id == job.id  # noqa: B023

        good_for(valid_ms)
        with suppress(OJSError):
            await way.enqueue(interrupted(store, drop_if_unused, before=at), late)
        if stalled:
            await assert_one(store, db, job if taken else late)
            taken_over += taken
        at += 1
    assert taken_over > 2
    consistent()


async def test_a_batch_is_not_stored_after_the_claims_of_its_ids_have_expired(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_cluster.store.engine.enqueue.batch_attempt.CLAIM_MS", -1000)
    job = new_job(id=foreign_to_both(store, QUEUE))

    with pytest.raises(BackendUnavailable) as refused:
        await with_one_of_another_queue(store, job)

    assert refused.value.outcome == "not_applied"
    assert places(store, db, str(job.id)) == []


@pytest.mark.parametrize("repeats", [False, True])
async def test_a_job_stored_while_another_request_checks_its_id_keeps_the_id(
    store: Store, other_store: Store, db: Any, repeats: bool, consistent: Check
) -> None:
    """The first request goes on, or is repeated, between any two calls of the second."""
    other = other_queue(store)
    shard, at, interposed = shard_of(store, other), 0, True
    while interposed:
        job_id, interposed = foreign_to_both(store, QUEUE, other), False
        stored: list[Shard] = []

        async def go_on() -> None:
            nonlocal interposed
            interposed = True
            with suppress(OJSError):
                if repeats:
                    await enqueue(other_store, new_job(other, id=job_id))  # noqa: B023
                    stored.append(shard)  # noqa: B023
                    return
                keys, args = enqueue_command(store, shard, [place(job_id, new_job(other))])  # noqa: B023
                if (await store.run(shard, "enqueue", keys, args))[0] == b"ok":
                    stored.append(shard)  # noqa: B023

        await aliases.AliasClaims(store).claim(shard, [(job_id, 0)], aliases.CLAIM_MS, total=1)
        age_claim(db, store.keys.shard_of_id(job_id), job_id, aliases.IN_FLIGHT_MS)
        with suppress(OJSError):
            await enqueue(interrupted(store, go_on, before=at), new_job(QUEUE, id=job_id))
            stored.append(shard_of(store))
        assert places(store, db, job_id) == stored
        assert len(stored) == 1
        assert (await read_jobs.get(store, job_id)).id == job_id
        at += 1
    assert at > 4
    consistent()


async def test_a_job_that_is_counted_with_others_goes_to_the_first_partition_only(
    store: Store, db: Any
) -> None:
    await spread(store, db, PARTS)
    job_id = id_of_partition(store, QUEUE, 2, is_owner_shard=False)
    third = store.keys.partitions(QUEUE, PARTS)[2]
    await aliases.AliasClaims(store).claim(third, [(job_id, 0)], 1000, total=1)
    age_claim(db, store.keys.shard_of_id(job_id), job_id, -HOUR)
    job = new_job(id=job_id, rate_limit={"max_per_second": 5})

    with pytest.raises(BackendUnavailable):
        await enqueue(store, job)
    age_claim(db, store.keys.shard_of_id(job_id), job_id, HOUR)
    await enqueue(store, job)

    assert places(store, db, job_id) == [shard_of(store)]


# What else reads ids


async def test_a_lock_leads_to_a_job_that_was_stored_after_its_claim_was_dropped(
    store: Store, db: Any, consistent: Check
) -> None:
    """The lock names the shard in which the dead request wanted to store the job."""
    other = other_queue(store)
    job = new_job(QUEUE, id=foreign_to_both(store, QUEUE, other), unique={})
    request = LockRequest(job.fingerprint, str(job.id), shard_of(store, other).index)
    await try_claim(store, store.keys.shard_of_fingerprint(job.fingerprint), [request])
    await enqueue(store, job)
    age_lock(db, store, job.fingerprint, 60_000)

    with pytest.raises(Duplicate) as refused:
        await once(store, other)

    assert refused.value.details["existing_job_id"] == job.id
    consistent()


async def test_a_step_whose_first_process_died_is_stored_when_the_partitions_have_changed(
    store: Store, db: Any
) -> None:
    """The step is not refused: no job of its uniqueness exists."""
    at, struck = 0, True
    while struck:
        at, queue = at + 1, f"{QUEUE}{next(_serial)}"
        step = new_job(queue, unique={}, type=f"type{next(_serial)}")
        job_id = id_of_partition(store, queue, 2, is_owner_shard=False)
        struck = await dies_at(
            store,
            at,
            True,
            lambda process: enqueue_step(process, job_id, step, [], store_before_ms=0),  # noqa: B023
        )
        await spread(store, db, PARTS, queue)

        assert await enqueue_step(store, job_id, step, [], store_before_ms=0) is None
        await assert_one(store, db, msgspec.structs.replace(step, id=job_id))
    assert at > 3
