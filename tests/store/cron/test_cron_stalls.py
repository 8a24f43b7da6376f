"""Cron jobs when a leader stalls, or a reply of Redis gets lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import deliver, fire_due, run_manually
from ojs_cluster.store.features.retention.retention import purge_due
from tests.store.cron.test_cron import definition, look
from tests.store.shortcuts import DAY, MINUTE, ack, clock_ms, shard_of, take
from tests.support.failing_process import dies_at
from tests.support.lossy import lossy
from tests.support.timeshift import age_cron, age_job


async def come(store: Store, db: Any) -> None:
    """Make the next occurrence due."""
    age_cron(db, store.keys.meta, "daily", DAY + 1)


async def recover(store: Store, db: Any) -> None:
    """Do what the next leader does: deliver the firing when it is due, and check again."""
    age_cron(db, store.keys.meta, "daily", 3000)
    await look(store)


async def die_owing(store: Store) -> CronRecord:
    """A leader dies right after it has claimed the occurrence."""
    at = 1
    while (claimed := await cron.get(store, "daily")).firing is None:
        assert await dies_at(store, at, True, fire)
        at += 1
    return claimed


async def fire(store: Store) -> None:
    await fire_due(RedisCronStore(store), 10)


async def test_a_leader_that_stalls_does_not_run_an_occurrence_again_when_its_retention_is_over(
    store: Store, db: Any
) -> None:
    store = replace(store, settings=replace(store.settings, retention_completed_ms=1000))
    await cron.register(store, definition())
    await come(store, db)
    stalled = await die_owing(store)
    await recover(store, db)
    [job] = await take(store, "reports")
    await ack(store, job)
    shard = shard_of(store, "reports")

    age_job(db, shard, job.id, MINUTE)
    await purge_due(store, shard, 10)
    assert (
        await deliver(RedisCronStore(store), stalled) == job.id
    )  # it is there, and stays as it is
    assert (await read_jobs.get(store, job.id)).state is State.COMPLETED

    age_job(db, shard, job.id, 2 * MINUTE)
    await purge_due(store, shard, 10)
    with pytest.raises(Conflict, match="too late"):
        await deliver(RedisCronStore(store), replace(stalled, read_ms=stalled.read_ms - 3 * MINUTE))
    assert await take(store, "reports") == []


async def test_a_lost_reply_to_a_registration_does_not_move_its_occurrence(store: Store) -> None:
    before, _ = await cron.register(store, definition(expression="@every 1h"))
    deaf, client = lossy(store, "cron_register", times=1)

    after, _ = await cron.register(deaf, definition(expression="@every 1h"))

    assert client.lost == ["cron_register"]
    assert after.next_ms == before.next_ms


@pytest.mark.parametrize("by_hand", [False, True])
async def test_an_unconfirmed_run_keeps_its_firing_until_it_is_delivered_again(
    store: Store, db: Any, by_hand: bool
) -> None:
    """A failover may still lose the job: the firing remains."""
    record, _ = await cron.register(store, definition())
    if not by_hand:
        await come(store, db)
    with require_durability(Durability.REPLICA) as request:
        if by_hand:
            await run_manually(RedisCronStore(store), record)
        else:
            await fire(store)

    assert request.unconfirmed_reason is not None
    pending = (await cron.get(store, "daily")).firing
    assert pending is not None
    assert (await read_jobs.get(store, pending.job_id)).state is State.AVAILABLE
    await recover(store, db)
    assert (await cron.get(store, "daily")).firing is None
    assert [job.id for job in await take(store, "reports", count=9)] == [pending.job_id]


async def fail(store: Store, db: Any, pause_ms: int) -> None:
    """Let a check fail, and compare for how long it is postponed."""
    meta, pending = store.keys.meta, (await cron.get(store, "daily")).firing
    before = await clock_ms(store, meta.slot)
    await RedisCronStore(store).record_outcome("daily", "failed", pending.job_id if pending else "")
    not_before = int(db.hget(meta.cron("daily"), "not_before"))
    assert before + pause_ms <= not_before <= await clock_ms(store, meta.slot) + pause_ms


async def test_a_failure_after_a_success_is_postponed_as_briefly_as_the_first(
    store: Store, db: Any
) -> None:
    await cron.register(store, definition())
    await come(store, db)
    await die_owing(store)
    for pause_ms in (500, 1000, 2000):
        await fail(store, db, pause_ms)
    await recover(store, db)
    assert len(await take(store, "reports")) == 1
    await fail(store, db, 500)


async def test_a_check_of_held_runs_that_succeeds_ends_the_failures_before_it(
    store: Store, db: Any
) -> None:
    await cron.register(store, definition(overlap_policy="enqueue"))
    for _ in range(2):
        await come(store, db)
        await look(store)
    assert len((await cron.get(store, "daily")).held_runs) == 1
    for pause_ms in (500, 1000, 2000):
        await fail(store, db, pause_ms)
    await recover(store, db)
    assert db.hmget(store.keys.meta.cron("daily"), "failures", "not_before") == [None, None]
    await fail(store, db, 500)

    await come(store, db)
    await RedisCronStore(store).record_outcome("daily", "checked", "")
    await fail(store, db, 1000)  # the occurrence, which the same check handles after the held runs
