"""How long jobs waited and ran: counted by processes, stored per queue, read as quantiles."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.histograms import RUN_BOUNDS_MS, WAIT_BOUNDS_MS, decode_times, quantile
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.records import HOURS, MINUTES, QUEUE_MINUTES
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.job_counts import (
    KEPT_MS,
    MAX_ROWS,
    TIMES,
    WIDTH,
    JobCounts,
)
from ojs_cluster.store.ground.process_state.type_minutes import FINE
from ojs_cluster.store.open import open_store
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, ack, active, nack, promote_all, put, shard_of, take
from tests.store.statistics.test_history import minute_of, series
from tests.support.patience import patient_client


def stored(store: Store, db: Any, queue: str = QUEUE) -> dict[str, int]:
    """The numbers of a queue that are not zero, without its sums and its fine buckets."""
    found = db.hgetall(shard_of(store, queue).queue_times(queue))
    return {
        name.decode(): int(value)
        for name, value in found.items()
        if not name.endswith(b"_ms") and not is_fine(name)
    }


def is_fine(name: bytes) -> bool:
    return name.startswith(FINE) and name[1:].isdigit()


def move_fine(db: Any, key: bytes, number: int, kept: int) -> None:
    """Give the records in fine buckets of a hash, which were written just now, another number."""
    for name, text in db.hgetall(key).items():
        if is_fine(name):
            db.hdel(key, name)
            db.hset(
                key, FINE + b"%d" % (number % kept), b"%d %s" % (number, text.split(b" ", 1)[1])
            )


async def test_waits_and_runs_are_counted_by_bucket(store: Store, db: Any) -> None:
    shard = shard_of(store)
    for wait_ms, run_ms in ((40, 7), (40, 700), (4_000_000, 400_000)):
        job = await put(store)
        created = int(db.hget(shard.job(job.id), f.CREATED)) - wait_ms
        db.hset(shard.job(job.id), f.CREATED, created)
        [fetched] = await take(store)
        started = int(db.hget(shard.job(job.id), f.STARTED)) - run_ms
        db.hset(shard.job(job.id), f.STARTED, started)
        await ack(store, fetched)

    await store.job_counts.flush(store)

    found = stored(store, db)
    # A slow machine waits and runs longer, so only the open buckets are exact.
    assert (found["w14"], found["r16"]) == (1, 1)
    assert sum(found.values()) == 6
    assert db.hget(shard.queue_times(QUEUE), "first_wait_ms") > b"4000000"
    assert 0 < db.pttl(shard.queue_times(QUEUE)) <= KEPT_MS


async def test_batches_of_acks_are_counted(store: Store, db: Any) -> None:
    for _ in range(3):
        await put(store)
    jobs = await take(store, count=3)
    acks = [Ack(job.id, job.lease_id, None) for job in (*jobs, jobs[0])]
    for _ in range(2):
        await ack_many(store, acks, worker_id="w1")
    await store.job_counts.flush(store)
    runs = sum(count for name, count in stored(store, db).items() if name[0] == "r")
    assert runs == 3


async def test_a_job_counts_once(store: Store, db: Any) -> None:
    job = await active(store)
    for _ in range(2):
        await ack(store, job, worker_id="w1")
    again = await active(store)
    await nack(store, again)
    db.zadd(shard_of(store).due, {again.id: 1})
    db.hset(shard_of(store).job(again.id), f.DUE, 1)
    await promote_all(store)
    [second] = await take(store)
    assert second.attempt == 2
    await store.job_counts.flush(store)
    found = stored(store, db)
    assert sum(count for name, count in found.items() if name[0] == "r") == 1
    assert sum(count for name, count in found.items() if name[0] == "w") == 2


async def test_a_repeated_ack_is_not_counted_whatever_the_names_are(store: Store, db: Any) -> None:
    # The reply of a repeated ack is told from the first one's by its fields, not by their values.
    job = await active(store, "active", worker="active")
    for _ in range(2):
        await ack(store, job, worker_id="active", result=b'"active"')
    await store.job_counts.flush(store)
    found = stored(store, db, "active")
    assert sum(count for name, count in found.items() if name[0] == "r") == 1


async def test_a_repeated_nack_is_not_counted_whatever_the_names_are(store: Store) -> None:
    job = await active(store, "active", type="active", worker="active")
    for _ in range(2):
        await nack(store, job, lease_id=job.lease_id)
    assert store.job_counts._rows[(b"active", b"active")].numbers[WIDTH - 1] == 1


async def test_the_history_has_their_quantiles(store: Store, db: Any) -> None:
    now = await minute_of(store)
    await spread(store, db, 4, QUEUE)
    await MinuteRecorder(store).record(now - 2)
    await put(store)
    store.job_counts.count_completed(QUEUE.encode(), b"t", 700)
    store.job_counts.count_start({f.QUEUE: QUEUE.encode(), f.TYPE: b"t", f.CREATED: b"1000"}, 1_300)
    await store.job_counts.flush(store)
    move_fine(db, store.keys.meta.history_minutes, now - 1, MINUTES)
    move_fine(db, shard_of(store).queue_times(QUEUE), now - 1, QUEUE_MINUTES)
    await MinuteRecorder(store).record(now - 1)
    await MinuteRecorder(store).record(now)

    for queue in (None, QUEUE):
        first, second = (await series(store, now, queue=queue))[-2:]
        assert (first.run_ms(0.5), first.run_ms(1)) == (700, 700)
        assert (first.wait_ms(0.5), first.wait_ms(1)) == (300, 300)
        assert (second.run_ms(0.5), second.wait_ms(0.95)) == (0, 0)


async def test_records_of_earlier_versions_have_quantiles_too(store: Store, db: Any) -> None:
    now = await minute_of(store)
    await MinuteRecorder(store).record(now - 2)
    await put(store)
    store.job_counts.count_completed(QUEUE.encode(), b"t", 700)
    await store.job_counts.flush(store)
    for key in (store.keys.meta.history_minutes, shard_of(store).queue_times(QUEUE)):
        db.hdel(key, *(name for name in db.hkeys(key) if is_fine(name)))
    await MinuteRecorder(store).record(now - 1)
    for queue in (None, QUEUE):
        point = (await series(store, now - 1, queue=queue))[-1]
        assert (point.run_ms(0.5), point.run_ms(1)) == (750, 1_000)


async def test_hours_have_the_quantiles_of_all_their_jobs(store: Store, db: Any) -> None:
    now = await minute_of(store)
    hour = now // 60 * 60
    await MinuteRecorder(store).record(hour - 60)
    for run_ms in (100, 5_000, 90_000):
        store.job_counts.count_completed(QUEUE.encode(), b"t", run_ms)
        await store.job_counts.flush(store)
    move_fine(db, store.keys.meta.history_hours, hour // 60 - 1, HOURS)
    await MinuteRecorder(store).record(hour)
    point = (await series(store, hour, length=60))[-1]
    assert [point.run_ms(share) for share in (0.3, 0.6, 0.95)] == [100, 5_000, 90_000]


async def test_a_minute_replaces_the_fine_buckets_of_an_old_one(store: Store, db: Any) -> None:
    key = shard_of(store).queue_times(QUEUE)
    for _ in range(2):
        store.job_counts.count_completed(QUEUE.encode(), b"t", 700)
        await store.job_counts.flush(store)
    (name, text) = next(each for each in db.hgetall(key).items() if is_fine(each[0]))
    number, times = text.split(b" ", 1)
    assert decode_times(times).runs.max_ms == 700
    db.hset(key, name, b"%d 0 9000 500:99" % (int(number) - QUEUE_MINUTES))
    store.job_counts.count_completed(QUEUE.encode(), b"t", 30)
    await store.job_counts.flush(store)
    texts = [text for name, text in db.hgetall(key).items() if is_fine(name)]
    records = [decode_times(text.split(b" ", 1)[1]) for text in texts]
    assert 30 in [record.runs.max_ms for record in records]


async def test_times_wait_for_the_master_of_the_cluster(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = store.keys.meta
    counts = JobCounts()
    counts.count_completed(QUEUE.encode(), b"t", 700)
    with monkeypatch.context() as patched:
        patched.setattr(type(store.redis), "is_responsive", lambda _, slot: slot != meta.slot)
        await counts.flush(store)
    assert not db.exists(meta.history_hours)
    await counts.flush(store)
    [text] = db.hvals(meta.history_hours)
    assert sum(decode_times(text.split(b" ", 1)[1]).runs.counts.values()) == 1


@pytest.mark.parametrize(("outcome", "kept"), [("not_applied", 1), ("unknown", 0)])
async def test_counts_that_were_surely_not_written_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, outcome: Any, kept: int
) -> None:
    times = JobCounts()
    times.count_completed(b"q", b"t", 5)

    async def fail(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("away", outcome=outcome)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "run", fail)
        await times.flush(store)
    assert sum(count for row in times._rows.values() for count in row.numbers[:30]) == kept
    assert sum(sum(row.times.runs.counts.values()) for row in times._rows.values()) == kept


async def test_a_stopping_process_writes_its_last_counts(backend: Embedded, db: Any) -> None:
    async with open_store(patient_client(backend)) as opened:
        opened.job_counts.count_completed(QUEUE.encode(), b"t", 5)
    assert stored(opened, db) == {"r1": 1}


async def test_damaged_numbers_are_replaced(store: Store, db: Any) -> None:
    key = shard_of(store).queue_times(QUEUE)
    for damage in (b"", b"x", b"1.5", b"-3", b"9" * 40):
        db.hset(key, "r1", damage)
        store.job_counts.count_completed(QUEUE.encode(), b"t", 1)
        await store.job_counts.flush(store)
        assert db.hget(key, "r1") == b"1"
    times = JobCounts()
    job = {f.QUEUE: b"q", f.TYPE: b"t"}
    times.count_start({**job, f.CREATED: b"x"}, 1)
    times.count_completed_job({**job, f.FINISHED: b"x", f.STARTED: b"1"})
    times._count_all()
    assert not times._rows


def test_a_process_counts_a_bounded_number_of_queues() -> None:
    times = JobCounts()
    for number in range(2 * MAX_ROWS + 10):
        times.count_completed(b"q%d" % number, b"t", 1)
    assert len(times._rows) == 2 * MAX_ROWS


async def test_many_types_of_one_queue_do_not_end_the_counts_of_another(
    store: Store, db: Any
) -> None:
    for number in range(MAX_ROWS + 10):
        store.job_counts.count_enqueued("invented", b"t%d" % number)
    store.job_counts._count_all()
    for _ in range(2):
        store.job_counts.count_completed(QUEUE.encode(), b"t", 1)
    assert len(store.job_counts._rows) == MAX_ROWS + 2
    await store.job_counts.flush(store)
    assert stored(store, db) == {"r1": 2}
    assert db.hgetall(shard_of(store).queue_types(QUEUE)) == {b"other": b"0,2,0"}
    types = db.hgetall(shard_of(store, "invented").queue_types("invented"))
    assert sum(int(text.split(b",")[0]) for text in types.values()) == MAX_ROWS + 10


def test_quantiles_are_those_of_prometheus() -> None:
    runs = [0] * (len(RUN_BOUNDS_MS) + 1)
    assert quantile(runs, RUN_BOUNDS_MS, 0.5) == 0
    runs[1], runs[2] = 10, 10
    assert quantile(runs, RUN_BOUNDS_MS, 0.5) == 10
    assert quantile(runs, RUN_BOUNDS_MS, 0.75) == 17.5
    runs[-1] = 1000
    assert quantile(runs, RUN_BOUNDS_MS, 0.95) == RUN_BOUNDS_MS[-1]
    assert len(TIMES) == len(RUN_BOUNDS_MS) + len(WAIT_BOUNDS_MS) + 4
