"""Dead letters: list, retry, delete, cap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    envelope,
    foreign_id,
    home_id,
    nack,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.servers import all_keys
from tests.support.timeshift import age_claim, age_job

Check = Callable[[], InvariantReport]
DEADLY: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


async def make_dead_letter(store: Store, queue: str = QUEUE, **members: Any) -> JobRecord:
    return await nack(store, await active(store, queue, **{**DEADLY, **members}))


async def test_a_dead_letter_is_listed_with_all_its_fields(store: Store, consistent: Check) -> None:
    dead = await make_dead_letter(store)
    [found], total, _ = await dead_letters.list_dead_letters(store, limit=10)

    assert total == 1
    assert found.json() == dead.json()
    assert envelope(found)["state"] == "discarded"
    assert len(envelope(found)["errors"]) == 1
    assert (await dead_letters.get(store, dead.id)).json() == dead.json()
    consistent()


async def test_without_dead_letters_the_list_is_empty(store: Store) -> None:
    assert await dead_letters.list_dead_letters(store, limit=10) == ([], 0, None)
    stats = await dead_letters.get_stats(store)
    assert (stats.total, stats.by_queue, stats.oldest_ms, stats.newest_ms) == (0, {}, None, None)
    assert stats.by_type == {}


async def test_a_discarded_job_is_not_a_dead_letter(store: Store) -> None:
    gone = await nack(store, await active(store, max_attempts=1))

    assert await dead_letters.list_dead_letters(store, limit=10) == ([], 0, None)
    for act in (dead_letters.get, dead_letters.retry, dead_letters.delete):
        with pytest.raises(NotFound, match="dead letter"):
            await act(store, gone.id)
    for retry in (dead_letters.retry, dead_letters.retry_discarded):
        with pytest.raises(NotFound):
            await retry(store, home_id(store))


@pytest.mark.parametrize("with_alias", [False, True])
async def test_a_discarded_job_is_retried_as_a_dead_letter_is(
    store: Store, with_alias: bool, consistent: Check
) -> None:
    job_id = foreign_id(store) if with_alias else None
    gone = await nack(store, await active(store, id=job_id, max_attempts=1))
    shown = envelope(await dead_letters.retry_discarded(store, gone.id))

    assert (shown["id"], shown["state"], shown["attempt"]) == (gone.id, "available", 0)
    assert (shown["replay_count"], "errors" in shown, "discarded_at" in shown) == (1, False, False)
    consistent()
    assert [job.id for job in await take(store)] == [gone.id]


async def test_a_dead_letter_is_a_discarded_job_too(store: Store, consistent: Check) -> None:
    dead = await make_dead_letter(store)
    await dead_letters.retry_discarded(store, dead.id)

    assert await dead_letters.list_dead_letters(store, limit=10) == ([], 0, None)
    assert consistent().count() == {"available": 1}


async def test_an_expired_job_that_is_retried_runs(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await put(store, expires_at="+PT1H", scheduled_at="+PT2H")
    age_job(db, shard_of(store), job.id, HOUR + 1)
    await reap_all(store)
    await dead_letters.retry_discarded(store, job.id)

    consistent()
    assert [job.id for job in await take(store)] == [job.id]


async def test_only_a_discarded_job_is_retried(store: Store, consistent: Check) -> None:
    done = await ack(store, await active(store))
    later = await nack(store, await active(store))
    stopped = await cancel(store, (await put(store)).id)
    held, waiting = await active(store), await put(store)
    before = consistent().count()

    for job in (waiting, held, done, stopped, later):
        with pytest.raises(Conflict, match=r"job '.*' is [a-z]+$"):
            await dead_letters.retry_discarded(store, job.id)
    assert consistent().count() == before


async def test_a_job_whose_retention_is_over_is_not_retried(store: Store, db: Any) -> None:
    gone = await nack(store, await active(store, max_attempts=1))
    age_job(db, shard_of(store), gone.id, 31 * DAY)

    with pytest.raises(NotFound):
        await dead_letters.retry_discarded(store, gone.id)
    assert (await retention.purge_due(store, shard_of(store), 10)).done == 1


async def test_the_list_merges_all_queues_newest_first_page_by_page(
    store: Store, db: Any, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 5)
    dead = []
    for number in range(15):
        name = names[number % 5]
        job = await make_dead_letter(store, name)
        age_job(db, shard_of(store, name), job.id, (15 - number) * 60_000)
        dead.append(job.id)

    pages = [
        await dead_letters.list_dead_letters(store, limit=4, offset=offset)
        for offset in range(0, 16, 4)
    ]

    assert [job.id for page, *_ in pages for job in page] == dead[::-1]
    assert {total for _, total, _ in pages} == {15}
    of_one, total, _ = await dead_letters.list_dead_letters(
        store, queue=names[0], limit=2, offset=1
    )
    assert ([job.id for job in of_one], total) == ([dead[5], dead[0]], 3)
    stats = await dead_letters.get_stats(store)
    assert (stats.total, stats.by_queue) == (15, dict.fromkeys(sorted(names), 3))
    assert (stats.newest_ms or 0) - (stats.oldest_ms or 0) == pytest.approx(14 * 60_000, abs=60_000)
    consistent()


async def test_dead_letters_are_counted_by_their_types(store: Store) -> None:
    names = queues_in_other_shards(store, 3)
    dead = [await make_dead_letter(store, names[n % 3], type=f"t.n{n % 2}") for n in range(9)]
    assert (await dead_letters.get_stats(store)).by_type == {"t.n0": 5, "t.n1": 4}

    await dead_letters.retry(store, dead[0].id)
    await dead_letters.delete(store, dead[1].id)
    await nack(store, await active(store, type="t.alive", max_attempts=1))

    assert (await dead_letters.get_stats(store)).by_type == {"t.n0": 4, "t.n1": 3}


async def test_of_many_dead_letters_the_newest_are_counted_by_type(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_TYPED", 6)
    for name in queues_in_other_shards(store, 2):
        for kind in ("t.old", "t.new"):
            for _ in range(3):
                job = await make_dead_letter(store, name, type=kind)
                if kind == "t.old":
                    age_job(db, shard_of(store, name), job.id, 60_000)

    stats = await dead_letters.get_stats(store)

    assert (stats.total, stats.by_type) == (12, {"t.new": 6})


async def test_a_page_beyond_the_largest_offset_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="one queue"):
        await dead_letters.list_dead_letters(store, limit=1, offset=dead_letters.MAX_OFFSET)
    assert await dead_letters.list_dead_letters(store, queue=QUEUE, limit=1, offset=10**9) == (
        [],
        0,
        None,
    )


async def test_a_retried_dead_letter_starts_with_attempt_zero(
    store: Store, db: Any, consistent: Check
) -> None:
    dead = await make_dead_letter(store, scheduled_at="2020-01-01T00:00:00Z")
    retried = await dead_letters.retry(store, dead.id)
    shown = envelope(retried)

    assert (shown["id"], shown["state"], shown["attempt"]) == (dead.id, "available", 0)
    assert shown["replay_count"] == 1
    for gone in ("error", "errors", "started_at", "completed_at", "discarded_at", "worker_id"):
        assert gone not in shown
    assert retried.json() == (await read_jobs.get(store, dead.id)).json()
    consistent()
    [again] = await take(store)
    assert again.attempt == 1
    done = await ack(store, again, worker_id="w1")
    assert (done.state, envelope(done)["replay_count"]) == (State.COMPLETED, 1)
    assert await dead_letters.list_dead_letters(store, limit=10) == ([], 0, None)
    consistent()


async def test_a_second_retry_finds_no_dead_letter(store: Store, consistent: Check) -> None:
    dead = await make_dead_letter(store)
    await dead_letters.retry(store, dead.id)

    with pytest.raises(NotFound, match="dead letter"):
        await dead_letters.retry(store, dead.id)
    with pytest.raises(NotFound, match="dead letter"):
        await dead_letters.delete(store, dead.id)
    assert consistent().count() == {"available": 1}


async def test_a_job_may_become_a_dead_letter_again_and_counts_its_replays(store: Store) -> None:
    dead = await make_dead_letter(store)
    for replay in (1, 2):
        await dead_letters.retry(store, dead.id)
        [again] = await take(store)
        ended = await nack(store, again)
        assert ended.dead
        assert envelope(ended)["replay_count"] == replay
        assert len(ended.errors()) == 1


async def test_a_retried_job_whose_expiry_has_passed_still_runs(
    store: Store, db: Any, consistent: Check
) -> None:
    dead = await make_dead_letter(store, expires_at="+PT1H")
    age_job(db, shard_of(store), dead.id, 2 * HOUR)
    await dead_letters.retry(store, dead.id)

    assert [job.id for job in await take(store)] == [dead.id]
    consistent()


@pytest.mark.parametrize("with_alias", [False, True])
async def test_a_deleted_dead_letter_leaves_nothing_behind(
    store: Store, db: Any, backend: Embedded, with_alias: bool, consistent: Check
) -> None:
    dead = await make_dead_letter(store, id=foreign_id(store) if with_alias else None)
    age_claim(db, store.keys.shard_of_id(dead.id), dead.id, HOUR)
    deleted = await dead_letters.delete(store, dead.id)

    assert deleted.id == dead.id
    with pytest.raises(NotFound):
        await read_jobs.get(store, dead.id)
    with pytest.raises(NotFound):
        await dead_letters.delete(store, dead.id)
    assert not [key for key in all_keys(backend) if dead.id.encode() in key]
    assert (await queues.get_stats(store, QUEUE)).counts[State.DISCARDED] == 0
    consistent()


async def test_beyond_the_cap_of_its_queue_the_oldest_leaves(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    store = replace(store, settings=replace(store.settings, dead_letter_max=3))
    other = await make_dead_letter(store, "other")
    dead = []
    for number in range(5):
        dead.append(await make_dead_letter(store))
        age_job(db, shard_of(store), dead[-1].id, (5 - number) * 60_000)  # no two at one moment

    listed, total, _ = await dead_letters.list_dead_letters(store, queue=QUEUE, limit=10)
    assert ([job.id for job in listed], total) == ([job.id for job in dead[:1:-1]], 3)
    assert (await dead_letters.get(store, other.id)).id == other.id
    consistent()
    with pytest.raises(NotFound, match="dead letter"):
        await dead_letters.retry(store, dead[0].id)
    assert (await retention.purge_due(store, shard_of(store), 100)).done == 2
    for job in dead[:2]:
        assert not [key for key in all_keys(backend) if job.id.encode() in key]
    assert consistent().count() == {"discarded": 4}


async def test_a_lowered_cap_is_reached_at_the_next_dead_letter(
    store: Store, consistent: Check
) -> None:
    for _ in range(6):
        await make_dead_letter(store)
    await make_dead_letter(replace(store, settings=replace(store.settings, dead_letter_max=2)))

    assert (await dead_letters.list_dead_letters(store, limit=10))[1] == 2
    consistent()


async def test_a_dead_letter_cannot_be_finished_or_cancelled(store: Store) -> None:
    dead = await make_dead_letter(store)
    for act in (ack, nack):
        with pytest.raises(Conflict, match="discarded"):
            await act(store, dead)
    with pytest.raises(Conflict, match="discarded"):
        await cancel(store, dead.id)


async def test_dead_letters_have_their_own_retention(store: Store, db: Any) -> None:
    dead = await make_dead_letter(store)
    shard = shard_of(store)

    age_job(db, shard, dead.id, 179 * DAY)
    assert (await retention.purge_due(store, shard, 10)).done == 0
    age_job(db, shard, dead.id, 2 * DAY)
    assert (await retention.purge_due(store, shard, 10)).done == 1
    assert await dead_letters.list_dead_letters(store, limit=10) == ([], 0, None)
