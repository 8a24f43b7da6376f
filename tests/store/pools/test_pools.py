"""Worker pools in Redis, and fetches that name them (spec: ojs-fair-scheduling)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import WorkerIsQuiet
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from ojs_cluster.store.features.pools import pool_fetch
from ojs_cluster.store.features.pools.pool_fetch import fetch_for_pool
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.ground.process_state import pool_table, pools
from ojs_cluster.store.ground.process_state.pool_table import read_counts
from tests.store.hot_queues import spread
from tests.store.pools.shortcuts import allow, make_pool
from tests.store.shortcuts import new_job, put, take
from tests.support.lossy import lossy


async def fill(store: Store, **numbers: int) -> None:
    for queue, number in numbers.items():
        if number:
            await enqueue_many(store, [new_job(queue) for _ in range(number)])


async def take_for(store: Store, count: int = 1, *, name: str = "p") -> list[JobRecord]:
    state = await store.pools.get(store, name)
    return await fetch_for_pool(state, store, state.pool.queues, count, "w1", None)


async def picked(store: Store, fetches: int, count: int = 1) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(fetches):
        found.update(job.queue for job in await take_for(store, count))
    return found


async def test_a_pool_is_created_replaced_and_deleted(store: Store) -> None:
    first = await make_pool(store, a=1)
    second = await make_pool(store, "strict", b=2, a=1)
    assert second.created_ms == first.created_ms
    assert second.updated_ms > first.updated_ms
    assert await pools.get_pool(store, "p") == second
    await pools.delete_pool(store, "p", allow)
    with pytest.raises(NotFound):
        await pools.get_pool(store, "p")
    with pytest.raises(NotFound):
        await pools.delete_pool(store, "p", allow)


async def test_there_are_at_most_so_many_pools(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "MAX_POOLS", 2)
    await make_pool(store, name="one", a=1)
    await make_pool(store, name="two", a=1)
    with pytest.raises(InvalidRequest, match="at most 2"):
        await make_pool(store, name="three", a=1)
    await make_pool(store, name="two", b=1)


async def test_weighted_shares_are_exact_while_both_queues_have_jobs(store: Store) -> None:
    await make_pool(store, "weighted", high=7, low=3)
    await fill(store, high=150, low=150)
    assert await picked(store, 100) == {"high": 70, "low": 30}
    assert await picked(store, 10, count=10) == {"high": 70, "low": 30}


async def test_several_processes_keep_the_shares_together(store: Store, other_store: Store) -> None:
    await make_pool(store, "weighted", high=7, low=3)
    await fill(store, high=150, low=150)
    found: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:

        async def work(process: Store) -> None:
            for _ in range(50):
                found.update(job.queue for job in await take_for(process))

        nursery.start_soon(work, store)
        nursery.start_soon(work, other_store)
    assert found == {"high": 70, "low": 30}


async def test_concurrent_fetches_of_a_process_keep_the_shares(store: Store) -> None:
    await make_pool(store, "weighted", high=3, low=1)
    await fill(store, high=80, low=80)
    found: Counter[str] = Counter()

    async def work() -> None:
        for _ in range(10):
            found.update(job.queue for job in await take_for(store))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(work)
    assert found == {"high": 60, "low": 20}


async def test_a_queue_that_others_emptied_keeps_its_turn(store: Store) -> None:
    await make_pool(store, "weighted", a=1, b=100)
    await fill(store, a=1, b=5)
    state = await store.pools.get(store, "p")
    assert len(await fetch_for_pool(state, store, ["b"], 1, "w1", None)) == 1
    await take(store, "a")  # the depths that the process has do not show it
    assert await picked(store, 1) == {"b": 1}
    await fill(store, a=1)
    state.depths("").read_began = float("-inf")
    assert await picked(store, 2) == {"a": 1, "b": 1}


async def test_round_robin_is_the_same_for_every_queue(store: Store) -> None:
    await make_pool(store, "round-robin", a=1, b=1, c=1)
    await fill(store, a=40, b=40, c=2)
    assert await picked(store, 6) == {"a": 2, "b": 2, "c": 2}
    assert await picked(store, 2, count=10) == {"a": 10, "b": 10}
    await fill(store, c=10)
    store.pools._states["p"].depths("").read_began = float("-inf")
    assert await picked(store, 1, count=9) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("strategy", ["weighted", "least-loaded"])
async def test_jobs_that_others_run_are_not_planned(
    store: Store, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_fetch, "DEPTHS_S", 0)
    await make_pool(store, strategy, a=5, b=1)
    for _ in range(8):
        await put(store, "a", type="new")
    await fill(store, b=4)
    state = await store.pools.get(store, "p")
    old = pack_types(["mail.send"])
    counted, client = lossy(store)

    async def take_old(process: Store) -> list[str]:
        jobs = await fetch_for_pool(state, process, state.pool.queues, 1, "w1", None, "", old)
        return [job.queue for job in jobs]

    assert await take_old(store) == ["b"], "this one parks the new jobs"
    for _ in range(3):
        assert await take_old(counted) == ["b"]
    assert "fetch_full" not in client.calls, "no fetch looked at the queue of the new jobs"
    assert [job.queue for job in await take_for(store)] == ["a"]


async def test_least_loaded_fetches_from_the_deepest_queue(store: Store) -> None:
    await make_pool(store, "least-loaded", a=1, b=1, c=1)
    await fill(store, a=3, b=9, c=1)
    assert await picked(store, 6) == {"b": 6}
    assert await picked(store, 7) == {"b": 3, "a": 3, "c": 1}
    assert await take_for(store) == []


async def test_strict_keeps_the_order_of_the_queues(store: Store) -> None:
    await make_pool(store, "strict", b=1, a=1)
    await fill(store, a=3, b=3)
    assert [job.queue for job in await take_for(store, 4)] == ["b", "b", "b", "a"]


async def test_new_jobs_are_found_at_once(store: Store) -> None:
    await make_pool(store, "weighted", a=5, b=1)
    for queue in "abba":
        assert await take_for(store) == []
        await put(store, queue)
        assert [job.queue for job in await take_for(store)] == [queue]


async def test_a_pool_fetches_from_all_partitions(store: Store, db: Any) -> None:
    await spread(store, db, 3, "wide")
    await make_pool(store, "weighted", wide=1, other=1)
    await fill(store, other=30)
    for _ in range(30):
        await put(store, "wide")
    assert await picked(store, 20) == {"wide": 10, "other": 10}
    assert await picked(store, 5, count=100) == {"wide": 20, "other": 20}


async def test_paused_and_limited_queues_do_not_stop_the_others(store: Store) -> None:
    from ojs_cluster.core.rate_limit import RateLimits
    from ojs_cluster.store.features.rate_limits import rate_limits

    await make_pool(store, "round-robin", a=1, b=1, c=1)
    await fill(store, a=5, b=5, c=5)
    await pause_or_resume(store, "a", "pause")
    await rate_limits.set_queue_limits(store, "b", RateLimits(concurrency=1))
    assert await picked(store, 6) == {"b": 1, "c": 5}
    assert await take_for(store) == []


async def test_blocked_jobs_still_request_their_tokens(store: Store) -> None:
    """A queue of jobs that wait for a rate limit token has no depth, and is called all the same."""
    await make_pool(store, "round-robin", a=1, b=1)
    for _ in range(2):
        await put(store, "a", rate_limit={"key": "k", "concurrency": 1})
    assert len(await take_for(store)) == 1
    assert await take_for(store) == []


async def test_a_fetch_of_one_tenant_harms_the_shares_of_no_other(store: Store) -> None:
    await make_pool(store, "weighted", a=1, b=1)
    await fill(store, a=20, b=20)
    state = await store.pools.get(store, "p")
    body = b'{"type":"t","args":[],"options":{"queue":"b"},"meta":{"tenant_id":"acme"}}'
    await enqueue_many(store, [parse_job(body) for _ in range(3)])
    for _ in range(5):
        jobs = await fetch_for_pool(state, store, ["a", "b"], 1, "w1", None, "acme")
        assert {job.queue for job in jobs} <= {"b"}
        assert await picked(store, 2) in ({"a": 1, "b": 1}, {"a": 2})
    assert await fetch_for_pool(state, store, ["a", "b"], 1, "w1", None, "acme") == []
    assert await picked(store, 1, count=8) == {"a": 4, "b": 4}


async def test_a_quiet_worker_gets_no_job(store: Store) -> None:
    await make_pool(store, "round-robin", a=1, b=1)
    assert await take_for(store) == []
    await fill(store, a=1, b=1)
    await workers.send_directive(store, "w1", "quiet")
    with pytest.raises(WorkerIsQuiet):
        await take_for(store, 2)
    state = await store.pools.get(store, "p")
    assert len(await fetch_for_pool(state, store, ["a", "b"], 2, "w2", None)) == 2


async def test_a_cancelled_fetch_returns_its_jobs(store: Store, consistent: Any) -> None:
    await make_pool(store, "round-robin", a=1, b=1)
    await fill(store, a=2, b=2)
    with trio.CancelScope() as scope:
        scope.cancel()
        await take_for(store, 4)
    assert scope.cancelled_caught
    assert await picked(store, 1, count=4) == {"a": 2, "b": 2}
    consistent()


async def test_counts_are_summed_over_processes_until_the_pool_changes(
    store: Store, other_store: Store
) -> None:
    await make_pool(store, "weighted", a=3, b=1)
    await fill(store, a=9, b=9)
    for process in (store, other_store):
        for _ in range(4):
            await take_for(process)
        await process.pools.flush(process)
        await process.pools.flush(process)
    assert (await read_counts(store, ["p"]))["p"] == {"a": 6, "b": 2, "#": 8}
    await take_for(other_store)
    await make_pool(store, "weighted", a=1, b=1)
    await other_store.pools.flush(other_store)  # counted under the old configuration
    assert (await read_counts(store, ["p"]))["p"] == {}
    await pools.delete_pool(store, "p", allow)
    assert (await read_counts(store, ["p"]))["p"] == {}


async def test_another_process_learns_of_a_changed_pool(
    store: Store, other_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_pool(store, "strict", a=1)
    assert (await other_store.pools.get(other_store, "p")).pool.queues == ("a",)
    await make_pool(store, "strict", b=1)
    monkeypatch.setattr(pool_table, "REFRESH_S", 0.0)
    assert (await other_store.pools.get(other_store, "p")).pool.queues == ("b",)
    await pools.delete_pool(store, "p", allow)
    with pytest.raises(NotFound):
        await other_store.pools.get(other_store, "p")


async def test_an_unchanged_pool_keeps_its_positions(store: Store) -> None:
    await make_pool(store, "weighted", a=1, b=1)
    state = await store.pools.get(store, "p")
    await make_pool(store, "strict", name="q", a=1)
    assert await store.pools.get(store, "p") is state


async def test_a_damaged_record_harms_no_other_pool(store: Store, db: Any) -> None:
    await make_pool(store, "strict", a=1)
    db.hset(store.keys.meta.pools, "broken", "{")
    assert list((await pools.read_all(store)).records) == ["p"]
    await make_pool(store, "strict", name="broken", a=1)
    assert list((await pools.read_all(store)).records) == ["broken", "p"]
