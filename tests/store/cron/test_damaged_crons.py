"""Cron jobs whose stored fields another program has damaged: lists, deletion and registration."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from tests.store.cron.test_cron import QUEUE, definition, look
from tests.store.cron.test_cron_stalls import die_owing
from tests.store.shortcuts import HOUR, take
from tests.support.timeshift import age_cron

DAMAGES: tuple[dict[str, bytes | None], ...] = (
    {"firing_occurrence": None},
    {"firing_occurrence": b"x"},
    {"firing_job": None},
    {"firing_cancels": b"\xff"},
    {"firing_held": None},
    {"firing": b"\xff"},
    {"next_maintenance": b"x"},
    {"open_runs": b"\xff"},
)


async def _with_damaged_firing(store: Store, db: Any, damage: dict[str, bytes | None]) -> None:
    await cron.register(store, definition(expression="@every 1h"))
    age_cron(db, store.keys.meta, "daily", HOUR + 1)
    await die_owing(store)
    for field, value in damage.items():
        if value is None:
            db.hdel(store.keys.meta.cron("daily"), field)
        else:
            db.hset(store.keys.meta.cron("daily"), field, value)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_one_with_a_damaged_firing_is_deleted_whole(
    store: Store, db: Any, damage: dict[str, bytes | None]
) -> None:
    await _with_damaged_firing(store, db, damage)
    await cron.delete(store, "daily")
    meta = store.keys.meta
    assert not db.exists(meta.cron("daily"), meta.crons, meta.cron_names)


async def test_a_deleted_one_whose_firing_is_damaged_later_is_removed(
    store: Store, db: Any
) -> None:
    await _with_damaged_firing(store, db, {})
    await cron.delete(store, "daily")
    meta = store.keys.meta
    db.hdel(meta.cron("daily"), "firing_occurrence")
    age_cron(db, meta, "daily", 3000)
    await look(store)
    assert not db.exists(meta.cron("daily"), meta.crons)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_registration_removes_a_damaged_firing(
    store: Store, db: Any, damage: dict[str, bytes | None], deleted: bool
) -> None:
    await _with_damaged_firing(store, db, damage)
    if deleted:
        db.hset(store.keys.meta.cron("daily"), "deleted", 1)
    record, _ = await cron.register(store, definition(expression="@every 1h"))
    assert (record.fault, record.firing) == (None, None)
    age_cron(db, store.keys.meta, "daily", HOUR + 1)
    await look(store)
    assert len(await take(store, QUEUE, count=9)) == 1


@pytest.mark.parametrize("wrong_type", [False, True])
async def test_a_damaged_one_is_missing_from_filtered_lists(
    store: Store, db: Any, wrong_type: bool
) -> None:
    await cron.register(store, definition())
    await cron.register(store, definition(name="other"))
    key = store.keys.meta.cron("daily")
    if wrong_type:
        db.delete(key)
        db.set(key, "x")
    else:
        db.hset(key, mapping={"queue": b"\xff", "tenant": b"\xff"})
    listed = await cron.list_crons(store, limit=9, within=QueuePatterns([QUEUE]))
    assert [each.name for each in listed.entries] == ["other"]
    assert not (await cron.list_crons(store, limit=9, tenant="acme")).entries


async def test_one_whose_key_has_another_type_is_postponed_and_counts_once(
    store: Store, db: Any
) -> None:
    await cron.register(store, definition(expression="@every 1h"))
    meta = store.keys.meta
    db.delete(meta.cron("daily"))
    db.set(meta.cron("daily"), "x")
    db.zadd(meta.crons, {"daily": 1})
    await look(store)
    assert db.zscore(meta.crons, "daily") > 1
    await cron.register(store, definition(expression="@every 1h"))
    await cron.delete(store, "daily")
    with pytest.raises(NotFound):
        await cron.get(store, "daily")


async def test_a_refused_firing_of_a_cron_job_that_counts_again_leaves_no_negative_number(
    store: Store, db: Any
) -> None:
    await _with_damaged_firing(store, db, {})
    db.hset(store.keys.meta.cron("daily"), "runs", 0)
    record = await cron.get(store, "daily")
    assert record.firing is not None
    await RedisCronStore(store).record_outcome("daily", "refused", record.firing.job_id)
    assert (await cron.get(store, "daily")).runs == 0


async def test_a_negative_number_of_runs_is_no_damage(store: Store, db: Any) -> None:
    await cron.register(store, definition())
    db.hset(store.keys.meta.cron("daily"), mapping={"runs": -1, "created": 1})
    record, is_new = await cron.register(store, definition())
    assert (is_new, record.created_ms) == (False, 1)
