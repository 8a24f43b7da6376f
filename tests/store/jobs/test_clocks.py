"""Whose clock counts: Redis's, whatever the processes believe."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.workers.heartbeat import Heartbeat, heartbeat
from tests.store.shortcuts import DAY, HOUR, active, promote_all, put, reap_all, shard_of
from tests.support.invariants import InvariantReport

Check = Callable[[], InvariantReport]


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_wrong_clock_of_a_process_moves_no_deadline(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, consistent: Check, days: int
) -> None:
    wrong = time.time_ns() + days * DAY * 1_000_000
    shard = shard_of(store)
    with monkeypatch.context() as patched:
        patched.setattr("time.time_ns", lambda: wrong)
        held = await active(store, timeout_ms=2 * HOUR)
        due = await put(store, scheduled_at="+PT1H", expires_at="+PT2H")
        beat = await heartbeat(store, Heartbeat("w1", (held.id,)))
        assert (await promote_all(store)).done == 0
        assert (await reap_all(store)).done == 0

    now = round(time.time() * 1000)
    expected = {shard.active: 120_000, shard.execution_deadlines: 2 * HOUR}
    for index, ms in expected.items():
        assert db.zscore(index, held.id) == pytest.approx(now + ms, abs=100_000)
    for index, ms in {shard.due: HOUR, shard.expiring: 2 * HOUR}.items():
        assert db.zscore(index, due.id) == pytest.approx(now + ms, abs=100_000)
    assert beat.extended == [held.id]
    assert due.created_ms == pytest.approx(now, abs=100_000)
    consistent()
