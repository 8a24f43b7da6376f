"""A bounded queue announces that it is nearly full, and that it is not any more, once each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.ground.process_state import noticed
from ojs_cluster.store.operators.pressure.pressure import check_due, check_pressure
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import QUEUE, active, nack, put, take, until
from tests.store.workflow_jobs import group, step


async def announced(store: Store) -> list[tuple[str, int, int]]:
    page = await read_events(store, EventFilter(types=("backpressure.*",)), limit=100)
    events = [orjson.loads(event) for event in page.events]
    assert {event["subject"] for event in events} <= {QUEUE}
    return [
        (event["type"].partition(".")[2], event["data"]["depth"], event["data"]["bound"])
        for event in events
    ]


async def check_all(store: Store, db: Any) -> None:
    """Run the scheduler's step as it does two seconds later."""
    key = store.keys.meta.pressured_queues
    for name in db.zrange(key, 0, -1):
        db.zadd(key, {name: 1})
    await check_due(store)


async def test_each_crossing_is_announced_once(store: Store, other_store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, DepthBound(4, threshold=0.5))
    await put(store)
    await put(store)
    await check_pressure(store, QUEUE)
    assert await announced(store) == []

    await put(store)
    await until(lambda: announced(store), bool)
    await check_pressure(other_store, QUEUE)
    await check_all(store, db)
    assert await announced(store) == [("warning", 3, 4)]

    await take(store)  # the depth is exactly that of the threshold
    await check_all(store, db)
    assert await announced(store) == [("warning", 3, 4)]
    [held] = await take(store)
    await check_all(other_store, db)
    await check_all(store, db)
    assert await announced(store) == [("warning", 3, 4), ("cleared", 1, 4)]
    assert not db.exists(store.keys.meta.pressured_queues)

    await nack(store, held)
    await put(store)
    await check_pressure(store, QUEUE)
    assert (await announced(store))[2:] == [("warning", 3, 4)]


async def test_an_empty_queue_is_below_a_threshold_of_0(store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, DepthBound(4, threshold=0))
    await put(store)
    await check_pressure(store, QUEUE)
    await take(store)
    await check_all(store, db)
    assert await announced(store) == [("warning", 1, 4), ("cleared", 0, 4)]


@pytest.mark.parametrize("how", ["unbounded", "another threshold"])
async def test_a_change_of_the_bound_clears_the_warning(store: Store, db: Any, how: str) -> None:
    await depth_bounds.set_bound(store, QUEUE, 1)
    await active(store, "other")
    job = await put(store)
    await check_pressure(store, QUEUE)
    bound = None if how == "unbounded" else DepthBound(9, threshold=0.9)
    await depth_bounds.set_bound(store, QUEUE, bound)
    await check_all(store, db)
    size = 0 if how == "unbounded" else 9
    assert await announced(store) == [("warning", 1, 1), ("cleared", 1, size)]
    await cancel(store, job.id)


async def test_the_partitions_of_a_queue_count_together(store: Store, db: Any) -> None:
    first, second, third = await spread(store, db, 3)
    await depth_bounds.set_bound(store, QUEUE, DepthBound(9, threshold=0.6))
    for _ in range(3):
        await put_into(store, first)  # this partition is full
    await check_pressure(store, QUEUE)
    assert await announced(store) == []
    for shard in (second, second, third):
        await put_into(store, shard)
    await check_pressure(store, QUEUE)
    assert await announced(store) == [("warning", 6, 9)]


async def test_a_rise_right_after_a_check_is_announced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticed, "GAP_S", 0.3)
    await depth_bounds.set_bound(store, QUEUE, DepthBound(4, threshold=0.5))
    await store.pressure.notice(store, [QUEUE])
    await put(store)
    await put(store)
    await put(store)  # this process has just checked the queue
    await until(lambda: announced(store), lambda events: events == [("warning", 3, 4)])


async def test_a_check_that_hangs_does_not_stop_those_of_other_queues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticed, "GAP_S", 0.05)
    checked = trio.Event()

    async def check(_store: Store, queue: str) -> None:
        if queue == "away":
            await trio.sleep_forever()
        checked.set()

    await noticed.NoticedPressure(check).notice(store, ["away", "near"])
    with trio.fail_after(30):
        await checked.wait()


async def test_a_failed_check_is_repeated_for_a_bounded_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticed, "GAP_S", 0.01)
    checked: Counter[str] = Counter()

    async def check(_store: Store, queue: str) -> None:
        checked[queue] += 1
        if queue == "away" or checked[queue] == 1:
            raise BackendUnavailable("no answer", outcome="not_applied")
        if checked[queue] == 2:
            await trio.sleep_forever()

    async def succeed() -> bool:
        return True

    await noticed.NoticedPressure(check).notice(store, ["away", "back"])
    await until(lambda: store.background.once("pressure", succeed, 30), bool)  # no check is left
    assert checked == {"away": 5, "back": 3}


async def test_the_failures_of_a_queue_that_is_noticed_meanwhile_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticed, "GAP_S", 0.01)
    checks = 0

    async def check(_store: Store, queue: str) -> None:
        nonlocal checks
        checks += 1
        if checks < 5:  # another request stores a job
            await pressure.notice(store, [queue])
        raise BackendUnavailable("no answer", outcome="not_applied")

    async def succeed() -> bool:
        return True

    pressure = noticed.NoticedPressure(check)
    await pressure.notice(store, ["away"])
    await until(lambda: store.background.once("pressure", succeed, 30), bool)  # no check is left
    assert checks == 5


async def test_a_write_in_several_steps_announces_it(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, DepthBound(4, threshold=0.5))
    await group(store, step(), step(), step())
    await until(lambda: announced(store), lambda events: events == [("warning", 3, 4)])
