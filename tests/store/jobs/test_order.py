"""Which job comes first: priority, then the order of arrival; queues in the order asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    sibling_queue,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.servers import flush, observer
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
BAND = 2**45


async def test_higher_priority_first_then_the_order_of_arrival(store: Store) -> None:
    wanted: dict[int, list[str]] = {}
    for priority in (0, 5, -100, 100, 0, 5, -1, 100, 0):
        job = await put(store, priority=priority)
        wanted.setdefault(priority, []).append(job.id)

    fetched = [job.id for job in await take(store, count=100)]

    assert fetched == [
        job_id for priority in sorted(wanted, reverse=True) for job_id in wanted[priority]
    ]


async def test_large_jobs_come_in_several_fetches_none_lost_and_in_order(store: Store) -> None:
    # 12 MB in all; one reply may have about 8 MiB, or the client would refuse it with its leases.
    large = [parse_job(b'{"type":"t","args":["%b"]}' % (b"x" * 1_000_000)) for _ in range(12)]
    stored = [(await enqueue(store, job)).id for job in large]

    first = [job.id for job in await take(store, "default", count=100)]
    rest = [job.id for job in await take(store, "default", count=100)]

    assert 8 <= len(first) <= 9
    assert first + rest == stored


async def test_results_of_earlier_steps_count_as_what_makes_a_job_large(
    store: Store, db: Any
) -> None:
    """Callbacks with 5 MB of results each would fill what the client takes at once."""
    waiting = [await put(store) for _ in range(3)]
    for job in waiting:
        db.hset(shard_of(store).job(job.id), f.PARENTS, b'["%b"]' % (b"x" * 5_000_000))

    assert [job.id for job in await take(store, count=9)] == [job.id for job in waiting[:2]]
    assert [job.id for job in await take(store, count=9)] == [waiting[2].id]


async def test_a_due_job_as_large_as_a_reply_does_not_hide_the_other_queues(
    store: Store, db: Any
) -> None:
    """A fetch reads it before it promotes it, and then has not looked at its second queue yet."""
    siblings = (f"sibling{number}" for number in itertools.count())
    shard = shard_of(store)
    of_due, other = itertools.islice(
        (name for name in siblings if store.keys.shard_of_queue(name) is shard), 2
    )
    waiting, due = await put(store, other), await put(store, of_due, scheduled_at="+PT1H")
    db.hset(shard_of(store).job(due.id), f.PARENTS, b'["%b"]' % (b"x" * 5_000_000))
    db.zadd(shard_of(store).due, {due.id: 1})
    assert [job.id for job in await take(store, QUEUE, other)] == [waiting.id]


async def test_jobs_of_one_batch_keep_their_order_within_a_millisecond(store: Store) -> None:
    stored = await enqueue_many(store, [new_job() for _ in range(300)])

    fetched = [job.id for job in await take(store, count=300)]
    assert fetched == [job.id for job in stored]


@pytest.mark.parametrize("priority", [-100, -1, 0, 1, 100])
@pytest.mark.parametrize("before", [0, 2**45 - 4])
async def test_scores_are_exact_integers_even_at_the_end_of_the_counter(
    store: Store, db: Any, priority: int, before: int
) -> None:
    shard = shard_of(store)
    db.hset(shard.queue_counters(QUEUE), "seq", before)
    stored = [await put(store, priority=priority) for _ in range(3)]

    scores = [int(db.zscore(shard.queue_available(QUEUE), job.id)) for job in stored]

    assert scores == [(100 - priority) * BAND + before + n for n in (1, 2, 3)]
    assert max(scores) < 2**53
    assert max(scores) < (101 - priority) * BAND, "runs into the next priority"
    assert [job.id for job in await take(store, count=3)] == [job.id for job in stored]


async def test_a_retried_job_goes_behind_those_that_wait(store: Store, db: Any) -> None:
    failed = await active(store)
    waiting = await put(store)
    await nack(store, failed)
    age_job(db, shard_of(store), failed.id, HOUR)
    await promote_all(store)

    assert [job.id for job in await take(store, count=2)] == [waiting.id, failed.id]


async def test_promotion_keeps_the_order_of_due_times(store: Store, db: Any) -> None:
    later = await put(store, scheduled_at="+PT2H")
    sooner = await put(store, scheduled_at="+PT1H")
    for job in (later, sooner):
        age_job(db, shard_of(store), job.id, 3 * HOUR)
    await promote_all(store)

    assert [job.id for job in await take(store, count=2)] == [sooner.id, later.id]


async def test_queues_are_served_strictly_in_the_order_given(
    store: Store, consistent: Check
) -> None:
    first, second, third = [*queues_in_other_shards(store, 2), sibling_queue(store)]
    for queue in (third, second, first):
        for _ in range(2):
            await put(store, queue, priority=-5 if queue == first else 5)

    fetched = await take(store, first, second, third, count=5)

    assert [job.queue for job in fetched] == [first, first, second, second, third]
    consistent()


async def test_queues_of_one_shard_are_served_in_the_order_given(store: Store) -> None:
    twin = sibling_queue(store)
    await put(store, QUEUE)
    await put(store, twin)

    assert [job.queue for job in await take(store, twin, QUEUE, count=2)] == [twin, QUEUE]


async def test_a_queue_named_twice_is_asked_once(store: Store) -> None:
    await put(store)
    assert len(await take(store, QUEUE, QUEUE, count=2)) == 1


async def test_fetch_takes_no_more_than_count_over_all_queues(
    store: Store, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 3)
    for name in names:
        for _ in range(3):
            await put(store, name)

    assert len(await take(store, *names, count=4)) == 4
    assert consistent().count() == {"active": 4, "available": 5}


async def test_fetch_of_an_unknown_queue_is_empty_and_creates_nothing(
    store: Store, db: Any
) -> None:
    assert await take(store, "unknown-queue") == []
    shard = shard_of(store, "unknown-queue")
    assert not db.exists(shard.queue_counters("unknown-queue"))
    assert not await queues.exists(store, "unknown-queue")


async def test_concurrent_fetches_never_get_the_same_job(
    store: Store, other_store: Store, consistent: Check
) -> None:
    stored = await enqueue_many(store, [new_job() for _ in range(200)])
    got: list[str] = []

    async def worker(of: Store, number: int) -> None:
        while batch := await take(of, count=3, worker=f"w{number}"):
            got.extend(job.id for job in batch)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(worker, (store, other_store)[number % 2], number)

    assert sorted(got) == sorted(job.id for job in stored)
    assert consistent().count() == {"active": 200}


async def test_a_queue_entry_without_its_job_is_stepped_over(store: Store, db: Any) -> None:
    ghost, real = await put(store), await put(store)
    db.delete(shard_of(store).job(ghost.id))

    assert [job.id for job in await take(store)] == [real.id]


# Pause


async def test_a_paused_queue_takes_jobs_and_gives_none(store: Store, consistent: Check) -> None:
    await pauses.pause_or_resume(store, QUEUE, "pause")
    job = await put(store)

    assert job.state is State.AVAILABLE
    assert await take(store) == []
    assert (await queues.get_stats(store, QUEUE)).paused
    await pauses.pause_or_resume(store, QUEUE, "resume")
    assert [found.id for found in await take(store)] == [job.id]
    consistent()


async def test_pause_is_seen_by_the_next_fetch_of_another_process(
    store: Store, other_store: Store
) -> None:
    await put(store)
    await put(store)
    assert len(await take(other_store)) == 1
    await pauses.pause_or_resume(store, QUEUE, "pause")

    assert await take(other_store) == []


async def test_pause_touches_only_its_own_queue(store: Store) -> None:
    twin = sibling_queue(store)
    await put(store)
    there = await put(store, twin)
    await pauses.pause_or_resume(store, QUEUE, "pause")

    assert [job.id for job in await take(store, QUEUE, twin, count=2)] == [there.id]


async def test_pausing_twice_keeps_the_first_moment(store: Store) -> None:
    await pauses.pause_or_resume(store, QUEUE, "pause")
    first = (await queues.get_stats(store, QUEUE)).paused_ms
    await trio.sleep(0.005)
    await pauses.pause_or_resume(store, QUEUE, "pause")

    assert (await queues.get_stats(store, QUEUE)).paused_ms == first


async def test_work_on_active_jobs_of_a_paused_queue_goes_on(
    store: Store, db: Any, consistent: Check
) -> None:
    done, failed, lost = [await active(store) for _ in range(3)]
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await ack(store, done)
    await nack(store, failed)
    age_job(db, shard_of(store), lost.id, HOUR)
    await reap_all(store)

    assert consistent().count() == {"completed": 1, "retryable": 1, "available": 1}


async def test_a_cancelled_job_is_not_fetched(store: Store, consistent: Check) -> None:
    gone, kept = await put(store), await put(store)
    await cancel(store, gone.id)

    assert [job.id for job in await take(store, count=2)] == [kept.id]
    assert (await read_jobs.get(store, gone.id)).attempt == 0
    consistent()


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(entries=st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 2**45 - 1)), max_size=50))
def test_any_two_scores_order_as_priority_then_counter(
    standalone: Embedded, entries: list[tuple[int, int]]
) -> None:
    flush(standalone)
    key = Keyspace(1).shard(0).queue_available("q")
    with observer(standalone) as db:
        for number, (priority, seq) in enumerate(entries):
            db.zadd(key, {f"{number}": (100 - priority) * BAND + seq})
        order: Any = db.zrange(key, 0, -1)

    keys = [(-entries[int(name)][0], entries[int(name)][1]) for name in order]
    assert keys == sorted(keys)
