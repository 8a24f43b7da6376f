"""A job whose hash was damaged, in any field, fails no script and stops no other job."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ojs_cluster.core.errors import MalformedJob, NotFound, OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord, split_values
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.deadlines import reap
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.features.dead_letters import bulk_retry, dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.archive.export_archive import export
from tests.store.hot_queues import close_empty, put_into, spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    failure,
    foreign_id,
    home_id,
    nack,
    plain_job,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.store.unique_jobs import age_lock, lock_of, once
from tests.support.invariants import check_invariants
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import observer
from tests.support.timeshift import age_claim, age_job, age_queue, age_worker

DAMAGES: tuple[bytes | None, ...] = (None, b"x", b"9" * 30, b"")
"""What a field becomes; None: it is dropped."""
FULL: dict[str, Any] = {
    "priority": 3,
    "timeout_ms": 2 * HOUR,
    "visibility_timeout_ms": HOUR,
    "tags": ["a"],
}
ALL_OF_IT: tuple[bytes, ...] = (f.STATE, f.QUEUE, f.TYPE, f.ENVELOPE, f.CREATED, f.MAX_ATTEMPTS)
"""Without these nothing can be done with a job, so each must be told, whatever is done."""

Make = Callable[[Store, Any], Awaitable[JobRecord]]
Meet = Callable[[Store, Any, JobRecord, JobRecord], Awaitable[None]]


@pytest.fixture
async def store(standalone: Embedded) -> AsyncIterator[Store]:
    async with open_store(patient_client(standalone), prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
def db(standalone: Embedded) -> Iterator[Any]:
    with observer(standalone) as client:
        yield client


def damage(db: Any, key: bytes, field: bytes, value: bytes | None) -> None:
    if value is None:
        db.hdel(key, field)
    else:
        db.hset(key, field, value)


# -- jobs in every state, each with all that a job can have there --------------------------------


async def available(store: Store, _db: Any) -> JobRecord:
    return await put(store, expires_at="+PT5H", **FULL)


async def retried(store: Store, db: Any) -> JobRecord:
    """Available after a failure: with an error, an attempt, a delay that is over."""
    # The best priority, so that it is the one that is fetched here.
    job = await running(store, db, priority=10 + db.zcard(shard_of(store).queue_available(QUEUE)))
    await nack(store, job)
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)
    return job


async def running(store: Store, _db: Any, **more: Any) -> JobRecord:
    job = await active(store, **{**FULL, **more})
    await heartbeat(store, Heartbeat("w1", (job.id,)))
    return job


async def retryable(store: Store, db: Any) -> JobRecord:
    job = await running(store, db)
    await nack(store, job)
    return job


async def scheduled(store: Store, _db: Any) -> JobRecord:
    return await put(store, scheduled_at="+PT1H", expires_at="+PT5H", **FULL)


async def pending(store: Store, _db: Any) -> JobRecord:
    return await put(store, pending=True, **FULL)


async def completed(store: Store, db: Any) -> JobRecord:
    job = await running(store, db)
    await ack(store, job, result=b"[1]", worker_id="w1")
    return job


async def dead(store: Store, _db: Any) -> JobRecord:
    options = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    job = await active(store, **{**FULL, **options})
    await nack(store, job)
    return job


async def away(store: Store, _db: Any) -> JobRecord:
    """Completed, under an id that names another shard."""
    job = await active(store, id=foreign_id(store), **FULL)
    await ack(store, job, worker_id="w1")
    return job


# -- what meets them, and what must have become of the sound neighbour ----------------------------


async def state(store: Store, job: JobRecord) -> State:
    return (await read_jobs.get(store, job.id)).state


async def fetched(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    found = {job.id for job in await take(store, count=5)}
    assert well.id in found <= {bad.id, well.id}


async def promoted_by_fetch(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
    for job in (bad, well):
        db.zadd(shard_of(store).due, {job.id: 1})
    await fetched(store, db, bad, well)


async def promoted(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
    for job in (bad, well):
        db.zadd(shard_of(store).due, {job.id: 1})
    await promote_all(store)
    assert await state(store, well) is State.AVAILABLE
    await promote_all(store)


def reaped(index: str, becomes: State) -> Meet:
    async def meet(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
        for job in (bad, well):
            db.zadd(getattr(shard_of(store), index), {job.id: 1})
            if index == "expiring":
                db.hset(shard_of(store).job(well.id), f.EXPIRES, 1)
        result = await reap_all(store)
        assert await state(store, well) is becomes
        assert result.done >= 1

    return meet


async def recovered(store: Store, db: Any, _bad: JobRecord, well: JobRecord) -> None:
    home = store.keys.shard_of_worker("w1")
    for _ in range(3):
        await heartbeat(store, Heartbeat("w1"))
    age_worker(db, home, "w1", HOUR)
    [found], _, _ = await workers.find_dead(store, home, 10)
    await workers.recover(store, shard_of(store), [found])
    await workers.finish_recovery(store, home, found)
    assert await state(store, well) is State.AVAILABLE


async def purged(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
    for job in (bad, well):
        db.zadd(shard_of(store).finished, {job.id: 1})
        home = store.keys.shard_of_id(job.id)
        if home is not shard_of(store):
            db.zrem(home.alias_claims, job.id)
    await retention.purge_due(store, shard_of(store), 10)
    with pytest.raises(NotFound):
        await read_jobs.get(store, well.id)
    assert not db.exists(shard_of(store).job(well.id))


async def queue_purged(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
    await purges.purge(store, QUEUE)
    for job in (bad, well):
        assert not db.exists(shard_of(store).job(job.id))


async def acked(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(ack(store, bad.id, worker_id="w1"))
    await ack(store, well.id, worker_id="w1")
    assert await state(store, well) is State.COMPLETED


async def many_acked(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    acks = [Ack(job.id, None, b"1") for job in (bad, well)]
    _, outcome = await ack_many(store, acks, worker_id="w1")
    assert outcome is State.COMPLETED


async def nacked(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(nack(store, bad.id, worker_id="w1"))
    await nack(store, well.id, worker_id="w1")
    assert await state(store, well) is State.RETRYABLE


async def many_nacked(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    nacks = [Nack(job.id, None, failure(), requeue=False) for job in (bad, well)]
    _, outcome = await nack_many(store, nacks, worker_id="w1")
    assert outcome is State.RETRYABLE


async def extended(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    beat = await heartbeat(store, Heartbeat("w1", (bad.id, well.id)))
    assert well.id in beat.extended


async def cancelled(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(cancel(store, bad.id))
    assert (await cancel(store, well.id)).state is State.CANCELLED


async def activated(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(activate(store, bad.id))
    assert (await activate(store, well.id)).state is State.AVAILABLE


async def dead_retried(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(dead_letters.retry(store, bad.id))
    assert (await dead_letters.retry(store, well.id)).state is State.AVAILABLE


async def dead_deleted(store: Store, db: Any, bad: JobRecord, well: JobRecord) -> None:
    await dead_letters.get_stats(store)
    listed, *_ = await dead_letters.list_dead_letters(store, limit=10)
    assert well.id in {job.id for job in listed}
    await refused_or_done(dead_letters.delete(store, bad.id))
    await dead_letters.delete(store, well.id)
    assert not db.exists(shard_of(store).job(well.id))


async def retried_in_bulk(store: Store, _db: Any, _bad: JobRecord, well: JobRecord) -> None:
    await bulk_retry.retry_matching(store, JobFilter())
    assert await state(store, well) is State.AVAILABLE


async def read(store: Store, _db: Any, bad: JobRecord, well: JobRecord) -> None:
    await refused_or_done(read_jobs.get(store, bad.id))
    page = await list_jobs(store, JobFilter(), limit=10)
    assert well.id in {job.id for job in page.jobs}
    assert all(job.json() for job in page.jobs)
    await queues.get_stats(store, QUEUE)


async def exported(store: Store, _db: Any, _bad: JobRecord, well: JobRecord) -> None:
    out = io.BytesIO()
    await export(store, out.write)
    assert well.id.encode() in out.getvalue()


async def refused_or_done(call: Awaitable[object]) -> None:
    """Whatever the damage is, the answer is one that a client can understand."""
    try:
        await call
    except OJSError:
        return


MEETINGS: list[tuple[Make, Meet]] = [
    (available, fetched),
    (retried, fetched),
    (scheduled, promoted_by_fetch),
    (scheduled, promoted),
    (retryable, promoted),
    (running, reaped("execution_deadlines", State.RETRYABLE)),
    (running, reaped("active", State.AVAILABLE)),
    (available, reaped("expiring", State.DISCARDED)),
    (scheduled, reaped("expiring", State.DISCARDED)),
    (running, recovered),
    (completed, purged),
    (dead, purged),
    (away, purged),
    (available, queue_purged),
    (running, acked),
    (running, many_acked),
    (running, nacked),
    (running, many_nacked),
    (running, extended),
    (available, cancelled),
    (running, cancelled),
    (scheduled, cancelled),
    (pending, activated),
    (dead, dead_retried),
    (dead, dead_deleted),
    (dead, retried_in_bulk),
    (available, read),
    (completed, read),
    (retryable, exported),
]


@dataclass(frozen=True)
class Spoilt:
    """One field of a job, and what was done to it."""

    field: bytes
    value: bytes | None

    def __str__(self) -> str:
        return f"{self.field.decode()}={self.value!r}"


@pytest.mark.parametrize(
    ("make", "meet"), MEETINGS, ids=[f"{make.__name__}-{meet.__name__}" for make, meet in MEETINGS]
)
async def test_whatever_is_damaged_the_others_are_served_and_nothing_is_half_done(
    store: Store, db: Any, standalone: Embedded, make: Make, meet: Meet
) -> None:
    probe = await make(store, db)
    names = sorted(db.hkeys(shard_of(store).job(probe.id)))
    for field, value in itertools.product(names, DAMAGES):
        db.flushall()
        store.queues._renewal_times.clear()
        bad, well = await make(store, db), await make(store, db)
        spoilt = Spoilt(field, value)
        damage(db, shard_of(store).job(bad.id), field, value)
        try:
            await meet(store, db, bad, well)
            problems = check_invariants(standalone, malformed=[bad.id]).problems
            assert problems == []
        except BaseException as error:
            error.add_note(f"with {spoilt}")
            raise


@pytest.mark.parametrize("field", ALL_OF_IT)
async def test_a_malformed_job_that_a_fetch_reads_is_quarantined_and_reported(
    store: Store, db: Any, field: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shard = shard_of(store)
    bad, well = await put(store), await put(store)
    before = db.hget(shard.job(bad.id), field)
    damage(db, shard.job(bad.id), field, None)
    with pytest.raises(MalformedJob):
        await read_jobs.get(store, bad.id)

    assert [job.id for job in await take(store, count=5)] == [well.id]
    assert db.zscore(shard.queue_available(QUEUE), bad.id) is None

    result = await reap_all(store)
    assert (result.done, result.quarantined) == (1, 1)
    assert [bad.id in record.getMessage() for record in caplog.records] == [True]
    assert db.zscore(shard.quarantine, bad.id) == result.now_ms + HOUR

    # An operator repairs it: it has its turn.
    damage(db, shard.job(bad.id), field, before)
    db.zadd(shard.quarantine, {bad.id: 1})
    await reap_all(store)
    assert [job.id for job in await take(store, count=5)] == [bad.id]
    assert db.zcard(shard.quarantine) == 0


@pytest.mark.parametrize("make", [available, running, scheduled, pending, completed, dead, away])
@pytest.mark.parametrize("field", [f.STATE, f.QUEUE, f.TYPE])
async def test_a_malformed_job_that_is_cancelled_leaves_nothing(
    store: Store, db: Any, make: Make, field: bytes, standalone: Embedded
) -> None:
    job = await make(store, db)
    shard = shard_of(store)
    queue_keys = {shard.queue_available(QUEUE)}
    age_claim(db, store.keys.shard_of_id(job.id), job.id, HOUR)
    damage(db, shard.job(job.id), field, None)

    assert (await cancel(store, job.id)).state is State.CANCELLED

    with pytest.raises(NotFound):
        await read_jobs.get(store, job.id)
    with observer(standalone) as client:
        for key in client.scan_iter(match="ojs:*"):
            assert job.id.encode() not in key
            # Without its queue's name the entry there is found by the next fetch.
            # What ``references`` names, the janitor checks and removes two minutes later.
            if (
                key != shard.references
                and client.type(key) == b"zset"
                and (field != f.QUEUE or key not in queue_keys)
            ):
                name = key.rpartition(b":")[0]
                if field == f.QUEUE and name.endswith(b":d"):
                    continue
                assert client.zscore(key, job.id) is None, key


@pytest.mark.parametrize(("field", "value"), [(f.CREATED, b"x"), (f.STATE, None)])
async def test_a_malformed_job_that_holds_a_lock_gives_it_back(
    store: Store, db: Any, field: bytes, value: bytes | None
) -> None:
    job = await once(store)
    age_lock(db, store, lock_of(store, db), HOUR)
    damage(db, shard_of(store).job(job.id), field, value)
    with pytest.raises(MalformedJob):
        await once(store)

    await cancel(store, job.id)

    assert (await once(store)).id != job.id


async def test_among_many_ids_a_malformed_job_is_named(store: Store, db: Any) -> None:
    job = await active(store, id=home_id(store))
    damage(db, shard_of(store).job(job.id), f.STARTED, None)
    [outcome] = await ack_many(store, [Ack(job.id, None, None)], worker_id="w1")
    assert isinstance(outcome, MalformedJob)
    assert outcome.details["shard"] == shard_of(store).index


async def repaired(store: Store, db: Any, job: JobRecord, shard: Shard) -> None:
    """An operator writes the type again, and the reaper checks the job."""
    damage(db, shard.job(job.id), f.TYPE, b"test")
    db.zadd(shard.quarantine, {job.id: 1})
    await reap(store, shard, 100)


async def test_a_job_that_is_repaired_when_its_queue_was_retired_is_listed(
    store: Store, db: Any
) -> None:
    job, shard = await put(store), shard_of(store)
    damage(db, shard.job(job.id), f.TYPE, None)
    assert await take(store) == []
    age_queue(db, shard, QUEUE, 2 * HOUR)
    assert await retention.retire_queues(store) == (1, "")
    assert (await queues.list_queues(store, limit=9))[1] == 0

    await repaired(store, db, job, shard)

    [listed], *_ = await queues.list_queues(store, limit=9)
    assert (listed.name, listed.counts[State.AVAILABLE]) == (QUEUE, 1)
    assert [found.id for found in await take(store)] == [job.id]


async def test_a_job_that_is_repaired_when_its_partition_was_closed_is_found(
    store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4)
    job = await put_into(store, shards[3])
    damage(db, shards[3].job(job.id), f.TYPE, None)
    assert await take(store) == []
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    assert store.partitions.layout(QUEUE).open_count == 1

    await repaired(store, db, job, shards[3])

    assert [found.id for found in await take(store)] == [job.id]


@pytest.mark.parametrize(
    ("name", "value"),
    [(f.QUEUE, b""), (f.QUEUE, b"  "), (f.TYPE, b""), (f.CREATED, b" 5\n"), (f.ENVELOPE, b"")],
)
async def test_a_plain_job_with_an_odd_value_is_fetched_and_acked_with_the_next_one(
    store: Store, db: Any, name: bytes, value: bytes
) -> None:
    odd, other = [await enqueue(store, plain_job()) for _ in range(2)]
    db.hset(shard_of(store).job(odd.id), name, value)

    fetched = await take(store, count=2)

    assert [job.id for job in fetched] == [odd.id, other.id]
    assert fetched[0].fields[name].strip() == value.strip()
    assert fetched[1].fields[f.QUEUE] == QUEUE.encode()
    if name != f.QUEUE:  # no counters have an empty name
        acked = await ack(store, fetched[0])
        assert acked.fields[name].strip() == value.strip()
    await ack(store, fetched[1])


async def test_a_line_feed_in_the_type_of_a_plain_job_does_not_fail_its_ack(
    store: Store, db: Any
) -> None:
    await ack(store, await active(store))  # its minute is noted now, so the next ack is short
    job = await enqueue(store, plain_job())
    db.hset(shard_of(store).job(job.id), f.TYPE, b"a\nb")
    [fetched] = await take(store)
    completed = await ack(store, fetched)
    assert completed.state == State.COMPLETED
    assert completed.finished_ms == int(db.hget(shard_of(store).job(job.id), f.FINISHED))


async def test_a_lease_of_an_odd_length_does_not_fail_a_fetch(store: Store, db: Any) -> None:
    jobs = [await put(store, visibility_timeout_ms=30_000) for _ in range(3)]
    for job, odd in zip(jobs, (b"3e4", b"30000.5", b"0x7530"), strict=True):
        db.hset(shard_of(store).job(job.id), f.VISIBILITY, odd)
    fetched = await take(store, count=3)
    assert [job.fields[f.LEASE_MS] for job in fetched] == [b"30000"] * 3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"mail\nt\n1\n2\nx\ny", [b"mail", b"t", b"1", b"2", b"x\ny"]),
        (b"\n\n1\n2\nx", [b"", b"", b"1", b"2", b"x"]),
        (b"mail\nt\n 1\n\n2 \nx\ny", [b"mail", b"t", b"1", b"2", b"x\ny"]),
        (b"mail\nt\n1\n2\n", [b"mail", b"t", b"1", b"2", b""]),
    ],
)
def test_values_are_split_at_lines_and_numbers_at_blanks(text: bytes, values: list[bytes]) -> None:
    assert split_values(text, 2) == values
