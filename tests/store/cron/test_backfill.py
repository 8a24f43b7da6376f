"""A backfill enqueues each occurrence once, and blocks no other request."""

from __future__ import annotations

import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.cron import cron
from ojs_cluster.store.cron.backfill import occurrences
from tests.store.cron.test_cron import definition

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
        found = await occurrences(record, 0, DAY)
        nursery.cancel_scope.cancel()
    assert len(found) == 24
    assert turns > 20
