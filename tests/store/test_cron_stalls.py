"""Cron jobs when a leader stalls, or a reply of Redis gets lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.states import State
from ojs_cluster.store import cron, jobs
from ojs_cluster.store.context import Store
from ojs_cluster.store.cron_book import StoreBook
from ojs_cluster.store.cron_fire import deliver, fire_due
from ojs_cluster.store.retention import purge_due
from tests.store.jobs import DAY, MINUTE, ack, shard_of, take
from tests.store.test_cron import definition, look
from tests.support.lossy import lossy
from tests.support.mortal import dies_at
from tests.support.timeshift import age_cron, age_job


async def come(store: Store, db: Any) -> None:
    """Bring the next tick."""
    age_cron(db, store.keys.meta, "daily", DAY + 1)


async def recover(store: Store, db: Any) -> None:
    """What the next leader does: take up what is owed once its time has come, and look on."""
    age_cron(db, store.keys.meta, "daily", 3000)
    await look(store)


async def fire(store: Store) -> None:
    await fire_due(StoreBook(store), 10)


async def test_a_leader_that_stalls_does_not_run_a_tick_again_when_its_retention_is_over(
    store: Store, db: Any
) -> None:
    store = replace(store, settings=replace(store.settings, retention_completed_ms=1000))
    await cron.register(store, definition())
    await come(store, db)
    at = 1
    while (stalled := await cron.get(store, "daily")).owed is None:
        assert await dies_at(store, at, True, fire)
        at += 1
    await recover(store, db)
    [job] = await take(store, "reports")
    await ack(store, job)
    shard = shard_of(store, "reports")

    age_job(db, shard, job.id, MINUTE)
    await purge_due(store, shard, 10)
    assert await deliver(StoreBook(store), stalled) == job.id  # it is there, and stays as it is
    assert (await jobs.get(store, job.id)).state is State.COMPLETED

    age_job(db, shard, job.id, 2 * MINUTE)
    await purge_due(store, shard, 10)
    with pytest.raises(Conflict, match="too late"):
        await deliver(StoreBook(store), replace(stalled, read_ms=stalled.read_ms - 3 * MINUTE))
    assert await take(store, "reports") == []


async def test_a_lost_reply_to_a_registration_does_not_move_its_tick(store: Store) -> None:
    before, _ = await cron.register(store, definition(expression="@every 1h"))
    deaf, client = lossy(store, "cron_put", times=1)

    after, _ = await cron.register(deaf, definition(expression="@every 1h"))

    assert client.lost == ["cron_put"]
    assert after.next_ms == before.next_ms
