"""All workers at once: counted by status, and sent a directive."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workers import workers
from tests.store.shortcuts import MINUTE, put, take
from tests.store.workers.test_workers import beat
from tests.support.timeshift import age_worker


async def test_all_workers_get_a_directive_and_it_is_removed_again(
    store: Store,
) -> None:
    names = [f"w{n}" for n in range(9)]
    for name in names:
        await beat(store, name)

    assert await workers.send_directive_to_all(store, "quiet") == (9, 0)
    await put(store)
    for name in names:
        assert await take(store, worker=name) == []
        assert (await beat(store, name)).state == "quiet"
    assert await workers.send_directive_to_all(store, "running") == (9, 0)
    assert len(await take(store, worker="w3")) == 1


async def test_a_directive_to_all_stops_in_time_and_reports_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DIRECTIVE_DEADLINE_S", 0.0)
    await beat(store)
    assert await workers.send_directive_to_all(store, "quiet") == (0, 1)
    assert (await workers.get(store, "w1")).directive == ""


async def test_a_count_by_status_counts_each_worker_once(store: Store, db: Any) -> None:
    for name in ("runs", "told", "says", "ends", "gone"):
        await beat(store, name, state="quiet" if name == "says" else "running")
    await workers.send_directive(store, "told", "quiet")
    await workers.send_directive(store, "gone", "quiet")
    await workers.send_directive(store, "ends", "terminate")
    age_worker(db, store.keys.shard_of_worker("gone"), "gone", MINUTE)
    await take(store, worker="fetches")
    age_worker(db, store.keys.shard_of_worker("fetches"), "fetches", MINUTE)

    counts, total = await workers.count_by_status(store)
    assert (counts, total) == ({"running": 2, "quiet": 2, "terminate": 1, "stale": 1}, 6)
