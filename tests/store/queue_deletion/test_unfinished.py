"""The janitor ends drains of deletions that have ended or died, and restores removed defaults."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.features.bulk import execution
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.queue_deletion import deletion
from ojs_cluster.store.features.queue_drains import drains
from ojs_cluster.store.features.queue_drains.unfinished import MAX_REQUEST_MS
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.features.retention.retention import retire_queues
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults, get_defaults
from tests.store.hot_queues import spread
from tests.store.queue_deletion.test_deletion import begin, lose
from tests.store.queues.test_lifecycle import before
from tests.store.shortcuts import QUEUE, home_id, put, shard_of
from tests.support.timeshift import age_drain


async def status(store: Store) -> str:
    """Let the janitor visit the queues, then return the status of ``QUEUE``."""
    await retire_queues(store)
    return (await queues.get_stats(store, QUEUE)).status


async def removed_defaults(store: Store) -> str:
    """Stop a deletion after it has removed the defaults of ``QUEUE``; return its token."""
    await lifecycle.create_queue(store, QUEUE, accept_existing=True)
    await change_defaults(store, QUEUE, {"default_timeout": 7})
    token = drains.new_drain_token((await queues.get_stats(store, QUEUE)).now_ms)
    await drains.begin_drain(store, QUEUE, token)
    with pytest.raises(BackendUnavailable):
        await lifecycle.delete_drained(before(store, "delete_queue", 1, lose), QUEUE, token)
    assert (await get_defaults(store, QUEUE)).empty
    return token


@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_drain_that_begins_after_the_end_of_its_operation_does_not_stay(
    store: Store, other_store: Store, db: Any, partitions: int
) -> None:
    await put(store)
    shards = await spread(store, db, partitions)

    async def end() -> None:  # as the scheduler does when the request takes too long
        await execution.run_due(other_store)

    await begin(before(store, "pause_queue", 0, end))  # and then the process dies
    assert await status(store) == "draining"
    age_drain(db, shards[0], QUEUE, MAX_REQUEST_MS)

    assert await status(store) == "active"
    assert not any(db.hexists(shard.queue_counters(QUEUE), "draining") for shard in shards)


async def test_a_request_that_stalls_until_the_scheduler_ends_its_operation_drains_nothing(
    store: Store, other_store: Store
) -> None:
    await put(store)
    operation_id = home_id(store)

    async def end() -> None:
        while not (await operations.get(other_store, operation_id)).ended:
            await execution.run_due(other_store)

    stalling = before(store, "pause_queue", 0, end)
    with pytest.raises(BackendUnavailable):
        await deletion.begin_deletion(stalling, operation_id, QUEUE, "", delay_ms=1)

    assert (await queues.get_stats(store, QUEUE)).status == "active"


async def test_a_drain_whose_reply_was_lost_is_not_late_when_it_is_repeated(store: Store) -> None:
    await put(store)
    now_ms = (await queues.get_stats(store, QUEUE)).now_ms
    token = drains.new_drain_token(now_ms)
    await drains.begin_drain(store, QUEUE, token, now_ms + 3_600_000)

    await drains.begin_drain(store, QUEUE, token, 1)

    assert (await queues.get_stats(store, QUEUE)).status == "draining"


async def test_the_drain_of_a_running_deletion_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "new_drain_token", lambda _now_ms: "1-of-long-ago")
    await put(store)
    await begin(store)
    assert await status(store) == "draining"


@pytest.mark.parametrize("drained", [False, True])
async def test_a_deletion_that_died_leaves_the_drain_of_an_operator_and_the_defaults(
    store: Store, db: Any, drained: bool
) -> None:
    if drained:
        await pauses.pause_or_resume(store, QUEUE, "drain")
    await removed_defaults(store)
    assert await status(store) == "draining"
    assert (await get_defaults(store, QUEUE)).empty  # the request may still be there
    age_drain(db, shard_of(store), QUEUE, MAX_REQUEST_MS)

    assert await status(store) == ("draining" if drained else "active")
    assert (await get_defaults(store, QUEUE)).default_timeout == 7
    assert not db.hexists(shard_of(store).queue_counters(QUEUE), "deleting")


async def test_defaults_are_restored_although_the_process_died_after_the_drain(
    store: Store, db: Any
) -> None:
    token = await removed_defaults(store)
    with pytest.raises(BackendUnavailable):
        await drains.end_drain(before(store, "write_record", 0, lose), QUEUE, token)

    assert await status(store) == "active"
    assert (await get_defaults(store, QUEUE)).default_timeout == 7
    assert not db.hexists(shard_of(store).queue_counters(QUEUE), "removed_defaults")


async def test_a_token_of_an_earlier_version_is_as_old_as_the_drain(store: Store, db: Any) -> None:
    await put(store)
    await drains.begin_drain(store, QUEUE, "0123456789abcdef")
    assert await status(store) == "draining"
    db.hincrby(shard_of(store).queue_counters(QUEUE), "draining", -MAX_REQUEST_MS)
    assert await status(store) == "active"


async def test_a_deletion_by_an_earlier_version_goes_on_in_a_queue_drained_long_ago(
    store: Store, db: Any
) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await pauses.pause_or_resume(store, QUEUE, "drain")
    db.hincrby(shard_of(store).queue_counters(QUEUE), "draining", -2 * MAX_REQUEST_MS)
    await drains.begin_drain(store, QUEUE, "0123456789abcdef")
    assert await status(store) == "draining"
    assert await lifecycle.delete_drained(store, QUEUE, "0123456789abcdef")
