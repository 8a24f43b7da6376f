"""Bulk operations on the jobs that a search finds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.bulk import candidates, choosing, execution
from ojs_cluster.store.features.bulk_records.operation import BulkState
from tests.store.bulk.test_bulk import WAITING, begin, carry_out
from tests.store.shortcuts import active, nack, put, queues_in_other_shards, take


async def put_job(store: Store, queue: str, user: int, **options: Any) -> JobRecord:
    body = {"type": "t", "args": [{"user": user}], "options": {"queue": queue, **options}}
    return await enqueue(store, parse_job(json.dumps(body).encode()))


async def states(store: Store, *jobs: JobRecord) -> list[State]:
    return [(await read_jobs.get(store, job.id)).state for job in jobs]


async def test_the_content_of_jobs_is_compared_in_all_shards(store: Store) -> None:
    wanted, others = [], []
    for queue in queues_in_other_shards(store, 3):
        wanted += [await put_job(store, queue, 42, tags=["new"])]
        wanted += [await put_job(store, queue, 42, tags=["new"], pending=True)]
        others += [await put_job(store, queue, 4, tags=["new"])]
        others += [await put_job(store, queue, 42)]
        others += [await put_job(store, f"{queue}x", 42, tags=["new"])]
        await take(store, f"{queue}x")
    query = "args.user:42 tag:ne*"

    counted = await begin(store, BulkAction.CANCEL, *WAITING, query=query, dry_run=True)
    counted = await carry_out(store, counted)
    done = await carry_out(store, await begin(store, BulkAction.CANCEL, *WAITING, query=query))

    assert (counted.matched, counted.succeeded) == (6, 0)
    assert (done.state, done.matched, done.succeeded) == (BulkState.COMPLETED, 6, 6)
    assert await states(store, *wanted) == [State.CANCELLED] * 6
    assert State.CANCELLED not in await states(store, *others)


async def test_small_fields_are_compared_without_reading_the_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("a whole job is read")

    monkeypatch.setattr(choosing, "_with_content", refuse)
    held = await active(store, "mail")
    low, high = await put(store, "mail", priority=1), await put(store, "mail", priority=9)
    again = await active(store, "other")
    await nack(store, again)
    for query, job in (
        ("priority:>5", high),
        (f"worker:{held.worker_id} state:active", held),
        ("attempt:>0 queue:other", again),
    ):
        operation = await begin(store, BulkAction.CANCEL, *WAITING, State.ACTIVE, query=query)
        assert (await carry_out(store, operation)).matched == 1, query
        assert await states(store, job) == [State.CANCELLED]
    assert await states(store, low) == [State.AVAILABLE]


async def test_an_operation_on_ids_compares_the_search_too(store: Store) -> None:
    jobs = [await put_job(store, "mail", number) for number in (1, 2)]
    ids = [job.id for job in jobs]
    operation = await begin(store, BulkAction.CANCEL, *WAITING, ids=ids, query="args.user:2")
    assert (await carry_out(store, operation)).matched == 1
    assert await states(store, *jobs) == [State.AVAILABLE, State.CANCELLED]


async def test_a_slice_ends_after_enough_bytes_although_it_has_found_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 1)
    for _ in range(3):
        await put(store, "bulk")
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="bulk", query="tag:a")
    for max_bytes, examined in ((1, 1), (2**30, 3)):
        monkeypatch.setattr(choosing, "_MAX_BYTES", max_bytes)
        operation = await execution.advance(store, operation, 1)
        assert (operation.examined, operation.matched) == (examined, 0)


async def test_another_process_continues_with_the_same_search(store: Store) -> None:
    queues = queues_in_other_shards(store, 2)
    jobs = [await put(store, queue, tags=["a"]) for queue in queues for _ in range(2)]
    operation = await begin(store, BulkAction.CANCEL, *WAITING, query="tag:a")
    while operation.succeeded == 0:  # the first process ends after its first slice
        operation = await execution.advance(store, operation, 1)
    assert not operation.ended
    done = await carry_out(store, operation)
    assert (done.matched, done.succeeded) == (4, 4)
    assert await states(store, *jobs) == [State.CANCELLED] * 4


@pytest.mark.parametrize("query", ["colour:red", 'type:"open', 7])
def test_a_damaged_search_is_found(query: object) -> None:
    with pytest.raises(ValueError, match="damaged"):
        Selection.of_members({"states": ["available"], "query": query})


@pytest.mark.parametrize(
    "name",
    ["priority", "since_ms", "until_ms", "older_than_ms", "error_since_ms", "error_until_ms"],
)
def test_a_stored_condition_of_zero_is_kept(name: str) -> None:
    stored = Selection.of_members({"states": ["available"], name: 0}).members()
    assert json.loads(json.dumps(stored)) == {"states": ["available"], name: 0}
