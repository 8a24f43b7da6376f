"""What a deletion does to one job, to the target and to its own record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import fair_share, pauses
from ojs_cluster.store.features.bulk import execution
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkState, QueueDeletion, Target, Walk
from ojs_cluster.store.features.queue_deletion import deletion
from ojs_cluster.store.features.queue_deletion.change_job import discard_job, move_job
from ojs_cluster.store.features.queue_deletion.deletion import (
    DeletionStep,
    begin_deletion,
    open_target,
)
from ojs_cluster.store.features.queue_deletion.ending import after_walk
from ojs_cluster.store.features.queue_drains.drains import restore_defaults_of
from ojs_cluster.store.features.queue_drains.unfinished import end_unfinished_deletion
from tests.store.queue_deletion.test_deletion import begin, carry_out
from tests.store.shortcuts import QUEUE, active, home_id, put, queues_in_other_shards, shard_of


async def test_the_partitions_of_the_target_have_its_settings_before_a_job(
    store: Store, db: Any
) -> None:
    await put(store)
    [target] = queues_in_other_shards(store, 1)
    await pauses.pause_or_resume(store, target, "pause")
    await depth_bounds.set_bound(store, target, DepthBound(9, "reject", 0.5))
    await fair_share.set_fair_share(store, target, on=True)
    await open_target(store, QueueDeletion(QUEUE, "1-token", target))
    fields = db.hgetall(shard_of(store).queue_counters(target))
    assert {b"paused", b"bound", b"fair"} <= fields.keys()


async def test_a_later_job_with_the_id_is_another_job(store: Store) -> None:
    job = await put(store)
    with pytest.raises(NotFound):
        await move_job(store, job.id, QUEUE, "target", job.created_ms - 1)
    with pytest.raises(NotFound):
        await discard_job(store, job.id, QUEUE, job.created_ms - 1)
    found = await read_jobs.get(store, job.id)
    assert (found.queue, found.state) == (QUEUE, State.AVAILABLE)


async def test_a_repeated_move_returns_the_moved_job(store: Store) -> None:
    job = await put(store)
    for _ in range(2):
        moved = await move_job(store, job.id, QUEUE, "target", job.created_ms)
        assert (moved.id, moved.queue) == (job.id, "target")


async def test_an_active_job_is_not_moved(store: Store) -> None:
    job = await active(store)
    with pytest.raises(Conflict):
        await move_job(store, job.id, QUEUE, "target", job.created_ms)
    assert (await read_jobs.get(store, job.id)).queue == QUEUE


async def test_a_new_target_is_listed_before_it_has_jobs(store: Store, db: Any) -> None:
    await put(store)
    await begin(store, "target")
    assert db.zscore(store.keys.meta.queues, "target") is not None


async def test_a_deletion_that_cannot_drain_its_queue_stops(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="not_applied")

    await put(store)
    operation_id = home_id(store)
    monkeypatch.setattr(deletion, "begin_drain", away)
    with pytest.raises(BackendUnavailable):
        await begin_deletion(store, operation_id, QUEUE, "")
    assert (await operations.get(store, operation_id)).state is BulkState.STOPPING


async def test_a_walk_that_has_changed_jobs_is_not_stuck(store: Store) -> None:
    await put(store)
    operation = replace(await begin(store), succeeded=5, walk=Walk(changed_before=4, stuck=2))
    again, _ = after_walk(operation, DeletionStep.WAITING_JOBS)
    assert (again.state, again.walk.stuck) == (BulkState.RUNNING, 0)
    failed, _ = after_walk(replace(operation, succeeded=4), DeletionStep.WAITING_JOBS)
    assert failed.state is BulkState.FAILED


async def test_a_job_that_a_later_walk_discards_is_no_failure(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    async def refuses_once(store: Store, action: BulkAction, target: Target, **how: Any) -> Any:
        if not refused:
            refused.append(target.job_id)
            return Conflict("the job is active")
        return await apply(store, action, target, **how)

    monkeypatch.setattr(execution, "apply", refuses_once)
    job = await put(store)
    ended = await carry_out(store, db, await begin(store))
    assert refused == [job.id]
    assert (ended.state, ended.succeeded, ended.failures) == (BulkState.COMPLETED, 1, ())


async def test_defaults_that_another_deletion_has_removed_are_not_restored(
    store: Store, db: Any
) -> None:
    key = shard_of(store).queue_counters(QUEUE)
    await put(store)
    await begin(store)
    token = db.hget(key, "deleting").decode()
    removed = b'2-other|{"default_timeout":7}'
    db.hset(key, "removed_defaults", removed)
    await restore_defaults_of(store, QUEUE, token)
    assert db.hget(key, "removed_defaults") == removed
    db.hdel(key, "deleting")
    assert not await end_unfinished_deletion(store, QUEUE)
    assert db.hget(key, "removed_defaults") == removed
