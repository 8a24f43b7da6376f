"""Cron jobs when the acting process dies between any two commands, or Redis's replies get lost."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.states import State
from ojs_cluster.store import cron, jobs
from ojs_cluster.store.context import Store
from ojs_cluster.store.cron_book import StoreBook
from ojs_cluster.store.cron_fire import deliver, fire_due
from ojs_cluster.store.record import JobRecord
from ojs_cluster.store.retention import purge_due
from tests.store.jobs import DAY, MINUTE, ack, envelope, shard_of, take
from tests.store.test_cron import definition, look
from tests.support.invariants import Census
from tests.support.lossy import lossy
from tests.support.mortal import dies_at
from tests.support.timeshift import age_cron, age_job

_serial = itertools.count(1)
QUEUES = ("reports", "elsewhere")


async def fired_while_active(store: Store, db: Any, policy: str) -> JobRecord:
    """A cron job whose first run is active, and whose next tick has come."""
    await cron.register(store, definition(overlap_policy=policy))
    await come(store, db)
    await look(store)
    [first] = await take(store, "reports", count=9)
    await come(store, db)
    return first


async def come(store: Store, db: Any, ms: int = DAY) -> None:
    """Bring the next tick, which differs from all before it, or the next upkeep."""
    age_cron(db, store.keys.meta, "daily", ms + next(_serial))


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
    assert await dies_at(store, 3, False, fire)
    stalled = await cron.get(store, "daily")
    assert stalled.owed is not None
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


async def gone(store: Store) -> bool:
    try:
        await cron.get(store, "daily")
    except NotFound:
        return True
    return False


Operation = Callable[[Store], Awaitable[object]]


async def every_death(
    store: Store, applied: bool, before: Callable[[], Awaitable[object]], operation: Operation
) -> Any:
    """Yield after each death, one command later each time, until the operation survives."""
    at, died = 1, True
    while died:
        await before()
        died = await dies_at(store, at, applied, operation)
        yield at
        at += 1
    assert at > 3


@pytest.mark.parametrize("applied", [False, True])
async def test_a_leader_may_die_at_any_command_of_a_firing(
    store: Store, db: Any, consistent: Callable[[], Census], applied: bool
) -> None:
    first: JobRecord | None = None

    async def prepare() -> None:
        nonlocal first
        first = await fired_while_active(store, db, "cancel_previous")

    async for at in every_death(store, applied, prepare, fire):
        await recover(store, db)
        assert first is not None
        [second] = await take(store, "reports", count=9)
        assert (await jobs.get(store, first.id)).state is State.CANCELLED, at
        record = await cron.get(store, "daily")
        assert (record.runs, record.owed) == (2, None), at
        assert len(await cron.history(store, "daily", 9)) == 2, at
        await ack(store, second)
        await cron.drop(store, "daily")
    assert db.zcard(store.keys.meta.crons) == 0
    consistent()


@pytest.mark.parametrize("applied", [False, True])
async def test_a_leader_may_die_at_any_command_of_letting_a_run_go(
    store: Store, db: Any, consistent: Callable[[], Census], applied: bool
) -> None:
    async def prepare() -> None:
        first = await fired_while_active(store, db, "enqueue")
        await look(store)
        assert await take(store, "reports") == []
        await ack(store, first)
        await come(store, db, 2000)

    async for at in every_death(store, applied, prepare, fire):
        await recover(store, db)
        [second] = await take(store, "reports", count=9)
        assert (await cron.get(store, "daily")).held == (), at
        await ack(store, second)
        await cron.drop(store, "daily")
    consistent()


@pytest.mark.parametrize("applied", [False, True])
async def test_a_process_may_die_at_any_command_of_a_run_by_hand(
    store: Store, db: Any, consistent: Callable[[], Census], applied: bool
) -> None:
    async def prepare() -> None:
        await cron.register(store, definition())

    async for at in every_death(
        store, applied, prepare, lambda mortal: cron.trigger(mortal, "daily")
    ):
        await recover(store, db)
        runs = (await cron.get(store, "daily")).runs
        made = await take(store, "reports", count=9)
        assert len(made) == runs, at  # all of it happened, or nothing
        for job in made:
            assert envelope(job)["meta"]["cron_name"] == "daily"
            await ack(store, job)
        assert (await cron.get(store, "daily")).owed is None
        await cron.drop(store, "daily")
    consistent()


@pytest.mark.parametrize("what", ["register", "drop"])
@pytest.mark.parametrize("applied", [False, True])
async def test_a_process_may_die_at_any_command_of_a_change(
    store: Store, db: Any, applied: bool, what: str
) -> None:
    operations: dict[str, Operation] = {
        "register": lambda mortal: cron.register(mortal, definition(expression="@hourly")),
        "drop": lambda mortal: cron.drop(mortal, "daily"),
    }
    at, died = 1, True
    while died:
        await cron.register(store, definition())
        died = await dies_at(store, at, applied, operations[what])
        at += 1
        if not await gone(store):
            assert db.zcard(store.keys.meta.crons) == 1
            await cron.drop(store, "daily")
        assert db.keys(b"ojs:{meta}:cron*") == []


@pytest.mark.parametrize("script", ["cron_claim", "cron_settle", "enqueue", "cancel", "cron_due"])
async def test_a_lost_reply_doubles_no_firing(
    store: Store, db: Any, consistent: Callable[[], Census], script: str
) -> None:
    first = await fired_while_active(store, db, "cancel_previous")
    deaf, client = lossy(store, script, times=1)

    await fire_due(StoreBook(deaf), 10)
    await recover(store, db)

    assert client.lost == [script]
    assert len(await take(store, "reports", count=9)) == 1
    assert (await jobs.get(store, first.id)).state is State.CANCELLED
    assert (await cron.get(store, "daily")).runs == 2
    consistent()


async def test_a_lost_reply_to_a_registration_does_not_move_its_tick(store: Store, db: Any) -> None:
    before, _ = await cron.register(store, definition(expression="@every 1h"))
    deaf, _ = lossy(store, "cron_put", times=1)

    after, _ = await cron.register(deaf, definition(expression="@every 1h"))

    assert after.next_ms == before.next_ms
