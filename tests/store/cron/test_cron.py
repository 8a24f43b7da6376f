"""Cron jobs on real servers: registration, firing, overlap policies and crashes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.cron.cron_job import CronDefinition, occurrence_job_id, parse_cron
from ojs_cluster.core.errors import BackendUnavailable, InvalidRequest, NotFound, ValidationFailed
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron import cron, firing, overlap
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.ground.sweep_result import SweepResult
from tests.store.shortcuts import DAY, HOUR, ack, envelope, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_cron

QUEUE = "reports"
_serial = itertools.count(1)


def definition(name: str = "daily", expression: str = "@daily", **members: Any) -> CronDefinition:
    body = {
        "name": name,
        "cron": expression,
        "type": "report.make",
        "options": {"queue": QUEUE},
        **members,
    }
    return parse_cron(json.dumps(body).encode())


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    """The indexes agree with the cron jobs after each test of this module.

    It must not ask for the store: pytest-trio never runs a fixture that needs one of trio's unless
    a test names it. All occurrences come at full hours, of which none may pass between two steps.
    """
    left_s = 3600 - time.time() % 3600
    if left_s < 30:
        time.sleep(left_s)
    yield
    consistent()


async def registered(store: Store, *args: Any, **members: Any) -> CronRecord:
    record, _ = await cron.register(store, definition(*args, **members))
    return record


async def fire(store: Store, db: Any, name: str = "daily", ms: int = DAY) -> SweepResult:
    """Let the next occurrence come, and do what the scheduler does until nothing is due.

    The calendar is not shifted with it, so each shift differs: an occurrence that came twice would
    be the same job.
    """
    age_cron(db, store.keys.meta, name, ms + next(_serial))
    return await look(store)


async def look(store: Store) -> SweepResult:
    with trio.fail_after(60):
        while True:
            result = await fire_due(RedisCronStore(store), 100)
            if not result.done:
                return result


async def waiting(store: Store) -> list[JobRecord]:
    return await take(store, QUEUE, count=100)


async def test_an_occurrence_enqueues_the_job_with_its_origin_in_its_meta(
    store: Store, db: Any
) -> None:
    await registered(store, args=[{"a": 1.0}], meta={"team": "x"}, priority=7)

    await fire(store, db)

    [job] = await waiting(store)
    seen = envelope(job)
    assert seen["type"] == "report.make"
    assert seen["args"] == [{"a": 1.0}]
    assert seen["priority"] == 7
    assert seen["meta"]["team"] == "x"
    assert seen["meta"]["cron_name"] == "daily"
    [past] = await cron.history(store, "daily", 10)
    assert seen["meta"]["cron_triggered_at"] == format_ms(past.occurrence_ms).decode()
    assert (past.outcome, past.job_id) == ("fire", job.id)
    record = await cron.get(store, "daily")
    assert (record.runs, record.firing) == (1, None)
    assert record.next_ms is not None
    assert record.next_ms % DAY == 0
    assert record.last_ms is not None


async def test_nothing_fires_before_its_time(store: Store) -> None:
    record = await registered(store)

    result = await look(store)

    assert result.next_ms == record.next_ms
    assert await waiting(store) == []


async def test_occurrences_that_were_missed_fire_once(store: Store, db: Any) -> None:
    await registered(store, expression="@every 1h", overlap_policy="allow")

    await fire(store, db, ms=3 * DAY)

    assert len(await waiting(store)) == 1
    record = await cron.get(store, "daily")
    assert record.next_ms is not None
    assert 0 < record.next_ms - (record.last_ms or 0) <= HOUR


async def test_two_leaders_at_once_fire_an_occurrence_once(
    store: Store, other_store: Store, db: Any
) -> None:
    names = [f"c{number}" for number in range(20)]
    for name in names:
        await registered(store, name=name)
        age_cron(db, store.keys.meta, name, DAY)

    async with trio.open_nursery() as nursery:
        for one in (store, other_store, store, other_store):
            nursery.start_soon(look, one)

    fired = [envelope(job)["meta"]["cron_name"] for job in await waiting(store)]
    assert sorted(fired) == sorted(names)
    for name in names:
        assert (await cron.get(store, name)).runs == 1


async def test_a_disabled_cron_job_has_no_next_occurrence_and_does_not_fire(
    store: Store, db: Any
) -> None:
    await registered(store)
    record = await cron.change(store, "daily", lambda old: replace(old, enabled=False))
    assert record.next_ms is None
    result = await fire_due(RedisCronStore(store), 10)
    assert (result.done, result.next_ms) == (0, None)

    record = await cron.change(store, "daily", lambda old: replace(old, enabled=True))

    assert record.next_ms is not None
    await fire(store, db)
    assert len(await waiting(store)) == 1


async def test_registering_again_replaces_the_definition_and_keeps_the_occurrence(
    store: Store, db: Any
) -> None:
    first = await registered(store, expression="@every 1h")
    age_cron(db, store.keys.meta, "daily", HOUR // 2)

    again, new = await cron.register(
        store, definition(expression="@every 1h", type="report.other", overlap_policy="allow")
    )

    assert not new
    assert again.next_ms == (first.next_ms or 0) - HOUR // 2
    assert (again.created_ms, again.overlap) == (first.created_ms, "allow")
    await fire(store, db, ms=HOUR // 2)
    assert [job.type for job in await waiting(store)] == ["report.other"]


async def test_a_new_schedule_counts_from_now(store: Store) -> None:
    await registered(store, expression="@yearly")

    record = await registered(store, expression="@hourly")

    assert record.next_ms is not None
    assert record.next_ms - record.updated_ms <= HOUR


async def test_the_number_of_cron_jobs_is_bounded(store: Store) -> None:
    small = replace(store, settings=replace(store.settings, max_crons=2))
    await registered(small, name="a")
    await registered(small, name="b")

    with pytest.raises(ValidationFailed):
        await registered(small, name="c")
    await registered(small, name="b", expression="@hourly")
    await cron.delete(small, "a")
    await registered(small, name="c")


async def test_a_schedule_without_an_occurrence_in_its_zone_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="no occurrence"):
        await registered(store, expression="30 2 * 3 SUN#2", timezone="America/New_York")


async def test_lists_are_in_name_order_and_can_be_of_the_enabled_only(store: Store) -> None:
    for name in ("c", "a", "b"):
        await registered(store, name=name, enabled=name != "a")

    async def names(**kwargs: Any) -> tuple[list[str], int]:
        found, total, _ = await cron.list_crons(store, **{"limit": 10, "offset": 0, **kwargs})
        return [one.name for one in found], total

    assert await names() == (["b", "c", "a"], 3)
    assert await names(enabled=True) == (["b", "c"], 2)
    assert await names(enabled=False) == (["a"], 1)
    assert await names(limit=1, offset=1) == (["c"], 3)
    # A page starts after a cron job that may be gone, also for a restricted reader.
    for within in (None, QueuePatterns(["*"])):
        assert await names(after=(0, "bb"), within=within) == (["c", "a"], 3)
        assert await names(after=(0, "c"), enabled=False, within=within) == (["a"], 1)
        assert await names(after=(0, "b"), enabled=True, within=within) == (["c"], 2)
        page = await cron.list_crons(store, limit=1, after=(0, "b"), within=within)
        assert page.last == (0, "c")
        assert (await cron.list_crons(store, limit=1, after=page.last, within=within)).last is None


async def test_deleting_ends_the_occurrences_and_leaves_no_key(store: Store, db: Any) -> None:
    await registered(store)
    await fire(store, db)

    dropped = await cron.delete(store, "daily")

    assert dropped.runs == 1
    meta = store.keys.meta
    keys = (meta.cron("daily"), meta.crons, meta.cron_names, meta.cron_history("daily"))
    assert db.exists(*keys[:1]) + db.exists(*keys[1:2]) == 0
    assert db.exists(keys[2]) + db.exists(keys[3]) == 0
    assert len(await waiting(store)) == 1
    with pytest.raises(NotFound):
        await cron.delete(store, "daily")
    with pytest.raises(NotFound):
        await cron.get(store, "daily")


# -- overlap --------------------------------------------------------------------------------------


async def test_skip_skips_occurrences_while_a_run_is_unfinished(store: Store, db: Any) -> None:
    await registered(store)
    await fire(store, db)
    [job] = await waiting(store)

    await fire(store, db)
    assert await waiting(store) == []
    await ack(store, job)
    await fire(store, db)

    assert len(await waiting(store)) == 1
    history = await cron.history(store, "daily", 10)
    assert [past.outcome for past in history] == ["fire", "skip", "fire"]
    assert history[1].job_id == job.id
    assert (await cron.get(store, "daily")).runs == 2


async def test_skip_counts_a_run_that_no_worker_has_taken_yet(store: Store, db: Any) -> None:
    await registered(store)
    await fire(store, db)
    await fire(store, db)

    assert len(await waiting(store)) == 1


async def test_allow_lets_runs_overlap(store: Store, db: Any) -> None:
    await registered(store, overlap_policy="allow")
    await fire(store, db)
    assert len(await waiting(store)) == 1
    await fire(store, db)
    assert len(await waiting(store)) == 1


async def test_cancel_previous_cancels_the_unfinished_run(store: Store, db: Any) -> None:
    await registered(store, overlap_policy="cancel_previous")
    await fire(store, db)
    [old] = await waiting(store)

    await fire(store, db)

    assert (await read_jobs.get(store, old.id)).state is State.CANCELLED
    [new] = await waiting(store)
    assert new.id != old.id


async def test_runs_that_wait_are_bounded_and_can_be_cleared_by_another_policy(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "MAX_WAITING_RUNS", 2)
    await registered(store, overlap_policy="enqueue")
    for _ in range(3):
        await fire(store, db)
    assert len((await cron.get(store, "daily")).open_runs) == 2

    await registered(store, overlap_policy="cancel_previous")
    await fire(store, db)

    assert len(await waiting(store)) == 1
    assert (await cron.get(store, "daily")).runs == 3


async def test_enqueue_keeps_every_run_and_runs_one_at_a_time(store: Store, db: Any) -> None:
    await registered(store, overlap_policy="enqueue")
    for _ in range(3):
        await fire(store, db)

    done = []
    for _ in range(3):
        [job] = await waiting(store)
        assert await waiting(store) == []
        await fire(store, db, ms=2000)
        assert await waiting(store) == []
        await ack(store, job)
        await fire(store, db, ms=2000)
        done.append(job.id)

    assert len(set(done)) == 3
    assert done == [past.job_id for past in reversed(await cron.history(store, "daily", 10))]
    assert (await cron.get(store, "daily")).held_runs == ()


async def test_a_held_run_is_released_though_a_failover_has_lost_its_occurrence(
    store: Store, db: Any
) -> None:
    meta = store.keys.meta
    await registered(store, overlap_policy="enqueue")
    await fire(store, db)
    age_cron(db, meta, "daily", DAY)
    before, due = db.hgetall(meta.cron("daily")), db.zscore(meta.crons, "daily")
    await look(store)
    [held] = (await cron.get(store, "daily")).held_runs
    db.delete(meta.cron("daily"))  # the claim of the second occurrence is forgotten
    db.hset(meta.cron("daily"), mapping=before)
    db.zadd(meta.crons, {"daily": due})
    [first] = await waiting(store)
    await ack(store, first)
    await look(store)

    assert [job.id for job in await waiting(store)] == [held]
    assert (await cron.get(store, "daily")).held_runs == ()


async def test_held_runs_outlive_their_cron_job(store: Store, db: Any) -> None:
    await registered(store, overlap_policy="enqueue")
    await fire(store, db)
    await fire(store, db)
    [first] = await waiting(store)

    await cron.delete(store, "daily")
    with pytest.raises(NotFound):
        await cron.get(store, "daily")
    assert await cron.list_crons(store, limit=10, offset=0) == ([], 0, None)
    await ack(store, first)
    await fire(store, db, ms=2000)

    assert len(await waiting(store)) == 1
    assert db.exists(store.keys.meta.cron("daily")) == 0
    assert db.zcard(store.keys.meta.crons) == 0


async def test_a_manual_run_does_not_move_the_occurrence(store: Store) -> None:
    before = await registered(store, enabled=True)

    after, job = await cron.trigger(store, "daily")
    _, second = await cron.trigger(store, "daily")

    assert after.next_ms == before.next_ms
    assert {job.id, second.id} == {one.id for one in await waiting(store)}
    assert [past.outcome for past in await cron.history(store, "daily", 10)] == ["manual", "manual"]


# -- crashes --------------------------------------------------------------------------------------


class Failing(RedisCronStore):
    """A scheduler that dies, or whose Redis dies, right before one of the steps."""

    at = "nothing"

    def _die(self, step: str) -> None:
        if step == self.at:
            raise BackendUnavailable("gone", outcome="not_applied")

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        self._die("enqueue")
        return await super().enqueue(job, store_before_ms, ignore_depth_bound=ignore_depth_bound)

    async def record_outcome(self, name: str, outcome: Any, *args: Any) -> None:
        self._die("record_outcome")
        await super().record_outcome(name, outcome, *args)

    async def cancel(self, job_id: str) -> None:
        self._die("cancel")
        await super().cancel(job_id)


@pytest.mark.parametrize("step", ["cancel", "enqueue", "record_outcome"])
async def test_a_firing_that_was_interrupted_is_finished_once(
    store: Store, db: Any, step: str
) -> None:
    await registered(store, overlap_policy="cancel_previous")
    await fire(store, db)
    [old] = await waiting(store)
    age_cron(db, store.keys.meta, "daily", DAY)
    dying = type("Dying", (Failing,), {"at": step})(store)

    if step == "record_outcome":
        with pytest.raises(BackendUnavailable):
            await fire_due(dying, 10)
    else:
        await fire_due(dying, 10)
    pending = (await cron.get(store, "daily")).firing
    assert pending is not None
    # The firing has the job of the definition at that time, not of the present one.
    await registered(store, type="report.other", options={"queue": "elsewhere"})
    await fire(store, db, ms=3000)

    [new] = await waiting(store)
    assert (new.id, new.type) == (pending.job_id, "report.make")
    assert (await read_jobs.get(store, old.id)).state is State.CANCELLED
    assert await take(store, "elsewhere") == []
    assert (await cron.get(store, "daily")).runs == 2


async def test_a_manual_run_that_is_claimed_but_not_stored_is_no_refusal(
    store: Store, db: Any
) -> None:
    record = await registered(store)
    dying = type("Dying", (Failing,), {"at": "enqueue"})(store)

    with pytest.raises(BackendUnavailable) as refused:
        await firing.run_manually(dying, record)

    assert refused.value.outcome == "unknown"
    await fire(store, db, ms=3000)
    assert len(await waiting(store)) == 1


async def test_a_firing_may_be_delivered_any_number_of_times(store: Store, db: Any) -> None:
    await registered(store)
    age_cron(db, store.keys.meta, "daily", DAY)
    dying = type("Dying", (Failing,), {"at": "record_outcome"})(store)
    with pytest.raises(BackendUnavailable):
        await fire_due(dying, 10)
    stale = await cron.get(store, "daily")

    for _ in range(3):
        await firing.deliver(RedisCronStore(store), stale)

    assert len(await waiting(store)) == 1


async def test_an_occurrence_waits_while_the_firing_before_it_is_undelivered(
    store: Store, db: Any
) -> None:
    await registered(store, expression="@every 1h", overlap_policy="allow")
    away = type("Dying", (Failing,), {"at": "enqueue"})(store)
    for _ in range(5):
        age_cron(db, store.keys.meta, "daily", 5 * HOUR)
        await fire_due(away, 10)
    assert await waiting(store) == []

    await fire(store, db, ms=HOUR)

    # The firing, and one run for all occurrences missed since.
    assert len(await waiting(store)) == 2


async def test_a_cron_job_that_fails_does_not_stop_others(store: Store, db: Any) -> None:
    await registered(store, name="broken")
    await registered(store, name="sound")
    db.hset(store.keys.meta.cron("broken"), "timezone", "Mars/Base")
    for name in ("broken", "sound"):
        age_cron(db, store.keys.meta, name, DAY)

    await look(store)

    assert [envelope(job)["meta"]["cron_name"] for job in await waiting(store)] == ["sound"]


async def test_an_occurrence_has_the_same_job_id_in_every_process(store: Store) -> None:
    record = await registered(store)
    shard = store.keys.shard_of_queue(QUEUE)

    ids = {RedisCronStore(store).job_id(record, 1_700_000_000_000) for _ in range(3)}

    assert ids == {occurrence_job_id("daily", 1_700_000_000_000, shard.index, len(store.keys))}
    assert store.keys.shard_of_id(ids.pop()) is shard


# -- events ---------------------------------------------------------------------------------------


async def events(store: Store, kind: str) -> list[dict[str, Any]]:
    page = await read_events(store, EventFilter(types={kind}))
    assert (await read_events(store, EventFilter(types={kind}), after=page.cursor)).events == []
    return [json.loads(event) for event in page.events]


async def test_firing_and_skipping_emit_events(store: Store, db: Any) -> None:
    await registered(store, timezone="Europe/Berlin")
    await fire(store, db, ms=2 * DAY)  # a local day may have 25 hours
    await fire(store, db, ms=2 * DAY)  # a local day may have 25 hours
    [job] = await waiting(store)

    [fired] = await events(store, "cron.triggered")
    [skipped] = await events(store, "cron.skipped")

    assert fired["subject"] == "daily"
    assert fired["data"] | {"scheduled_time": "", "actual_time": ""} == {
        "cron_name": "daily",
        "cron_expression": "@daily",
        "timezone": "Europe/Berlin",
        "queue": QUEUE,
        "job_type": "report.make",
        "job_id": job.id,
        "run_count": 1,
        "scheduled_time": "",
        "actual_time": "",
    }
    assert skipped["data"]["reason"] == "overlap_skip"
    assert skipped["data"]["active_job_id"] == job.id


async def test_an_occurrence_that_a_clock_change_removed_is_an_event(store: Store, db: Any) -> None:
    record = await registered(store, timezone="America/New_York")
    db.hset(store.keys.meta.cron(record.name), "gap", 1_772_953_200_000)

    await fire(store, db, ms=2 * DAY)  # a local day may have 25 hours

    [skipped] = await events(store, "cron.skipped")
    assert skipped["data"]["reason"] == "dst_skip"
    assert skipped["data"]["scheduled_time"] == "2026-03-08T07:00:00.000Z"
    assert len(await events(store, "cron.triggered")) == 1
