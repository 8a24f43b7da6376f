"""A backfill enqueues each occurrence once, and blocks no other request."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.backfill import backfill, occurrences
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.ground import job_fields as f
from tests.store.cron.test_cron import QUEUE, definition
from tests.store.shortcuts import take

DAY = 24 * 3_600_000


async def test_other_tasks_run_between_two_occurrences(store: Store) -> None:
    record, _ = await cron.register(store, definition(expression="0 * * * *"))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        found = await occurrences(record, 0, DAY, now_ms=DAY)
        nursery.cancel_scope.cancel()
    assert len(found) == 24
    assert turns > 20


@pytest.mark.parametrize(
    "unique", [{}, {"unique": {"keys": ["meta"], "meta_keys": ["cron_triggered_at"]}}]
)
async def test_the_id_of_an_ended_job_stays_taken(store: Store, unique: dict[str, Any]) -> None:
    record, _ = await cron.register(store, definition(options={"queue": QUEUE, **unique}))
    assert (await backfill(store, record, [DAY, 2 * DAY])).enqueued == 2
    jobs = await take(store, QUEUE, count=2)
    assert [job.fields.get(f.FIXED_ID) for job in jobs] == [b"1", b"1"]
    # The third one is enqueued on its own, because the batch fails at the others.
    done = await backfill(store, record, [DAY, 2 * DAY, 3 * DAY])
    assert (done.enqueued, done.existing) == (1, 2)
    [job] = await take(store, QUEUE)
    assert job.fields.get(f.FIXED_ID) == b"1"


async def test_a_refused_occurrence_is_an_error_until_its_id_is_free(store: Store) -> None:
    record, _ = await cron.register(store, definition())
    cron_store = RedisCronStore(store)
    assert await cron_store.forbid_id(cron_store.job_id(record, DAY))
    done = await backfill(store, record, [DAY, 2 * DAY])
    assert (done.enqueued, done.existing, list(done.errors)) == (1, 0, [DAY])
    assert "refused" in done.errors[DAY]
    again = await backfill(store, record, [DAY, 2 * DAY])
    assert (again.enqueued, again.existing, list(again.errors)) == (0, 1, [DAY])
