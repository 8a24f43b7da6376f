"""Defaults of queues for their jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import exhaustion
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state import queue_defaults as records
from tests.store.shortcuts import DAY, HOUR, QUEUE, ack, active, nack, put, shard_of, until
from tests.support.invariants import InvariantReport

Check = Callable[[], InvariantReport]
RETENTION = {"completed": "PT2H", "discarded": "PT3H", "cancelled": "PT4H"}


async def change(store: Store, **members: Any) -> None:
    await records.change_defaults(store, QUEUE, members)
    await store.queue_defaults.read(store)


async def until_applied(store: Store, applied: object) -> None:
    async def has_defaults() -> bool:
        return QUEUE in store.queue_defaults.by_queue

    await until(has_defaults, lambda has: has is applied)


def kept_ms(store: Store, db: Any, job_id: str) -> float:
    seconds, micros = db.time()
    until: float = db.zscore(shard_of(store).finished, job_id)
    return until - float(seconds * 1000 + micros / 1000)


async def test_a_finished_job_is_kept_as_long_as_its_queue_said(
    store: Store, db: Any, consistent: Check
) -> None:
    before = await active(store)
    await change(store, retention=RETENTION)
    await ack(store, before)  # the first ack of a minute takes the full path, the next does not
    completed = await active(store)
    await ack(store, completed)
    discarded = await active(store, max_attempts=1)
    await nack(store, discarded)
    cancelled = await put(store)
    await cancel(store, cancelled.id)
    await exhaustion.set_on_exhaustion(store, QUEUE, "dead_letter")
    dead = await active(store, max_attempts=1)
    await nack(store, dead)
    removed = await put(store)
    await purges.purge(store, QUEUE)
    await change(store, retention=None)
    for job, hours in ((completed, 2), (discarded, 3), (cancelled, 4)):
        assert kept_ms(store, db, job.id) == pytest.approx(hours * HOUR, abs=60_000)
    assert kept_ms(store, db, before.id) > 5 * HOUR
    assert kept_ms(store, db, dead.id) > DAY
    assert not db.exists(shard_of(store).job(removed.id))
    consistent()


async def test_another_process_applies_a_change_and_a_deletion(
    store: Store, other_store: Store
) -> None:
    async with trio.open_nursery() as nursery:
        await other_store.queue_defaults.start(other_store, nursery)
        await lifecycle.create_queue(store, QUEUE)
        await records.change_defaults(store, QUEUE, {"default_timeout": 9})
        await until_applied(other_store, True)
        assert (await put(other_store)).fields[f.TIMEOUT] == b"9000"
        await purges.purge(store, QUEUE)
        await lifecycle.delete_queue(store, QUEUE)
        await until_applied(other_store, False)
        assert f.TIMEOUT not in (await put(other_store)).fields
        nursery.cancel_scope.cancel()


async def test_concurrent_changes_of_several_members_are_all_kept(
    store: Store, other_store: Store
) -> None:
    async with trio.open_nursery() as nursery:
        for process, member in ((store, "default_timeout"), (other_store, "visibility_timeout")):
            for seconds in (1, 2, 3):
                members = {member: seconds}
                nursery.start_soon(records.change_defaults, process, QUEUE, members)
    found = await records.get_defaults(store, QUEUE)
    assert None not in (found.default_timeout, found.visibility_timeout)


async def test_a_damaged_record_counts_as_none_and_the_number_of_queues_is_bounded(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for record in (b"{", b'{"default_timeout":-1}', b'{"retention":{"x":"P1D"}}'):
        db.hset(store.keys.meta.queue_defaults, mapping={QUEUE: record, "#": hash(record)})
        await store.queue_defaults.read(store)
        assert store.queue_defaults.by_queue == {}
    monkeypatch.setattr(records, "MAX_QUEUES", 1)
    with pytest.raises(InvalidRequest):
        await records.change_defaults(store, "other", {"default_timeout": 1})
    await change(store, default_timeout=1)  # replaces the damaged record
    record = await records.read_record(store, QUEUE)
    assert await records.remove_record(store, QUEUE, record)
    assert (await records.get_defaults(store, QUEUE)).empty
