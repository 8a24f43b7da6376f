"""A bulk operation leaves alone jobs that have changed since it chose them, also by itself."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction
from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.delete_finished import delete_finished
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.features.bulk import candidates, choosing
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk_records.operation import Target, read_operation
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.ground import job_fields as fields
from tests.store.bulk.test_bulk import WAITING, begin, carry_out, dead
from tests.store.shortcuts import ack, foreign_id, home_id, nack, put, shard_of, take


async def changed_late(store: Store, action: BulkAction, change: Any, *states: State) -> str:
    """Choose the only job, change it, then apply the stored slice; return why that failed."""
    operation = await begin(store, action, *(states or DEFAULT_STATES[action]))
    found = None
    while found is None:
        assert operation.position is not None
        operation, found = await choosing.choose(store, operation, operation.position)
    await change()
    again = read_operation(
        operation.id,
        [
            *(b"action", action.value.encode(), b"state", b"running", b"version", b"1"),
            *(b"created", b"1", b"filter", b'{"states":["available"]}', b"slice", found.encode()),
        ],
    )
    assert again.slice == found
    [target] = again.slice.targets
    assert operation.matched == 1
    error = await apply(store, action, target)
    assert isinstance(error, Conflict)
    return error.message


async def test_a_purge_keeps_a_job_that_has_run_since_it_was_chosen(store: Store) -> None:
    job = await put(store)

    async def run() -> None:
        [taken] = await take(store)
        await ack(store, taken)

    await changed_late(store, BulkAction.PURGE, run)
    assert (await jobs.get(store, job.id)).state is State.COMPLETED


@pytest.mark.parametrize("action", [BulkAction.PURGE, BulkAction.DELETE])
@pytest.mark.parametrize("fails_again", [True, False])
async def test_a_dead_letter_that_was_retried_since_it_was_chosen_is_kept(
    store: Store, action: BulkAction, fails_again: bool
) -> None:
    job = await dead(store)

    async def retry() -> None:
        await dead_letters.retry(store, job.id)
        if fails_again:
            await nack(store, (await take(store))[0])

    reason = await changed_late(store, action, retry, State.DISCARDED)
    found = await jobs.get(store, job.id)
    assert ("was retried since" in reason) is fails_again
    assert found.state is (State.DISCARDED if fails_again else State.AVAILABLE)
    assert found.dead is fails_again


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("action", [BulkAction.PURGE, BulkAction.CANCEL, BulkAction.DELETE])
async def test_a_slice_that_is_applied_again_keeps_a_new_job_with_the_same_id(
    store: Store, db: Any, action: BulkAction, foreign: bool
) -> None:
    job_id = (foreign_id if foreign else home_id)(store)
    state = State.DISCARDED if action is BulkAction.DELETE else State.AVAILABLE
    retry = {"max_attempts": 1}
    created_ms = (await put(store, id=job_id, retry=retry)).created_ms - 1000
    db.hset(shard_of(store).job(job_id), fields.CREATED.decode(), created_ms)
    if action is BulkAction.DELETE:
        await nack(store, (await take(store))[0])
    target = Target(job_id, 0, state, created_ms)
    assert await apply(store, action, target) is None
    if action is BulkAction.CANCEL:
        await delete_finished(store, job_id)
    await put(store, id=job_id, retry=retry)
    if action is BulkAction.DELETE:
        await nack(store, (await take(store))[0])

    error = await apply(store, action, target)

    assert (error is None) is (action is not BulkAction.CANCEL)
    assert (await jobs.get(store, job_id)).state is state


@pytest.mark.parametrize("priority", [1, 90])
async def test_a_new_priority_counts_each_job_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, priority: int
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 2)
    made = [await put(store, priority=50) for _ in range(5)]
    same = await put(store, priority=priority)

    operation = await begin(
        store, BulkAction.PRIORITY, *WAITING, queue="mail", new_priority=priority
    )
    ended = await carry_out(store, operation)

    assert (ended.matched, ended.succeeded, ended.failed) == (5, 5, 0)
    for job in (*made, same):
        assert (await jobs.get(store, job.id)).priority == priority
