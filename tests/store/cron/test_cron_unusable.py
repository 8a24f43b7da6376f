"""A cron job whose job cannot be made: the occurrence is recorded as an error, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ojs_cluster.core.errors import NotFound, ValidationFailed
from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.open import open_store
from tests.store.cron.test_cron import QUEUE, definition, look
from tests.store.cron.test_cron_stalls import die_owing
from tests.store.shortcuts import HOUR, ack, take
from tests.support.invariants import InvariantReport
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_cron

UNUSABLE = {
    "text that is not stream-safe": {
        "args": ["\u0301" * 1000],
        "options": {"unique": {"keys": ["args"]}},
    },
    "a key that is not in args": {"args": [], "options": {"unique": {"args_keys": ["\ud800 id"]}}},
    "nothing": {},
}
"""Definitions that an earlier version, or another program, may have stored."""


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    yield
    consistent()


def _stored(kind: str) -> bytes:
    members = {"type": "report.make", **UNUSABLE[kind]} if UNUSABLE[kind] else {}
    return json.dumps(members).encode()


async def _register(store: Store, **members: Any) -> None:
    await cron.register(store, definition(expression="@every 1h", **members))


def _poison(store: Store, db: Any, kind: str = "nothing", field: str = "job") -> None:
    db.hset(store.keys.meta.cron("daily"), field, _stored(kind))


async def _fire(store: Store, db: Any) -> None:
    age_cron(db, store.keys.meta, "daily", HOUR + 1)
    await look(store)


async def _outcomes(store: Store) -> list[str]:
    return [past.outcome for past in await cron.history(store, "daily", 100)]


@pytest.mark.parametrize("kind", UNUSABLE)
async def test_an_occurrence_whose_job_cannot_be_made_is_refused_and_the_next_one_is_tried(
    store: Store, backend: Embedded, db: Any, kind: str
) -> None:
    await _register(store)
    _poison(store, db, kind)
    await _fire(store, db)

    [past] = await cron.history(store, "daily", 100)
    assert (past.outcome, past.job_id) == ("error", "")
    assert past.error
    record = await cron.get(store, "daily")
    assert record.next_ms is not None
    assert record.next_ms > past.occurrence_ms
    assert (record.firing, record.runs, record.last_ms) == (None, 0, None)
    # The next check is the next occurrence, not the end of a pause.
    assert db.zscore(store.keys.meta.crons, "daily") == record.next_ms

    # Another scheduler, which knows of nothing but Redis.
    async with open_store(patient_client(backend), prelude=PRELUDE) as restarted:
        await look(restarted)
        assert await _outcomes(restarted) == ["error"]
        await _fire(restarted, db)
        assert await _outcomes(restarted) == ["error", "error"]

    db.hset(store.keys.meta.cron("daily"), "job", definition().job)
    await _fire(store, db)
    assert await _outcomes(store) == ["fire", "error", "error"]
    assert len(await take(store, QUEUE, count=9)) == 1


async def test_an_occurrence_that_is_refused_is_an_event(store: Store, db: Any) -> None:
    await _register(store)
    _poison(store, db)
    await _fire(store, db)
    page = await read_events(store, EventFilter(types={"cron.skipped"}))
    [event] = [json.loads(event) for event in page.events]
    assert event["data"]["reason"] == "unusable_job"
    assert "active_job_id" not in event["data"]


async def test_a_refused_occurrence_cancels_no_earlier_run(store: Store, db: Any) -> None:
    await _register(store, overlap_policy="cancel_previous")
    await _fire(store, db)
    [first] = await take(store, QUEUE)
    _poison(store, db)
    await _fire(store, db)
    assert (await read_jobs.get(store, first.id)).state is State.ACTIVE
    assert await _outcomes(store) == ["error", "fire"]


@pytest.mark.parametrize("policy", ["cancel_previous", "enqueue"])
async def test_a_firing_whose_job_cannot_be_made_is_removed(
    store: Store, db: Any, policy: str
) -> None:
    """It delayed every later occurrence, permanently."""
    await _register(store, overlap_policy=policy)
    await _fire(store, db)
    [first] = await take(store, QUEUE)
    age_cron(db, store.keys.meta, "daily", HOUR + 1)
    await die_owing(store)
    _poison(store, db, field="firing_job")

    age_cron(db, store.keys.meta, "daily", 3000)
    await look(store)

    record = await cron.get(store, "daily")
    assert (record.firing, record.open_runs, record.held_runs, record.runs) == (
        None,
        (first.id,),
        (),
        1,
    )
    assert await _outcomes(store) == ["error", "fire"]
    assert (await read_jobs.get(store, first.id)).state is State.ACTIVE
    await ack(store, first)
    await _fire(store, db)
    assert await _outcomes(store) == ["fire", "error", "fire"]
    assert len(await take(store, QUEUE, count=9)) == 1


async def test_a_deleted_cron_job_ends_with_a_firing_that_cannot_be_delivered(
    store: Store, db: Any
) -> None:
    await _register(store)
    age_cron(db, store.keys.meta, "daily", HOUR + 1)
    await die_owing(store)
    _poison(store, db, field="firing_job")
    await cron.delete(store, "daily")
    age_cron(db, store.keys.meta, "daily", 3000)
    await look(store)
    assert not db.exists(store.keys.meta.cron("daily"), store.keys.meta.cron_history("daily"))
    with pytest.raises(NotFound):
        await cron.get(store, "daily")


async def test_a_manual_run_whose_job_cannot_be_made_is_refused_without_a_firing(
    store: Store, db: Any
) -> None:
    await _register(store)
    _poison(store, db, "text that is not stream-safe")
    with pytest.raises(ValidationFailed):
        await cron.trigger(store, "daily")
    assert (await cron.get(store, "daily")).firing is None
    assert await _outcomes(store) == []
