"""Whose clock counts: Redis's, whatever the processes believe."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.search.last_ended import read_last_ended
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.operators.dashboard.marks import Mark, add_mark, read_marks
from ojs_cluster.store.operators.operations.audit import (
    AuditFilter,
    AuditStream,
    append_entries,
    read_entries,
)
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
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


@pytest.mark.parametrize("days", [-200, 200])
async def test_a_wrong_clock_of_a_process_hides_nothing_that_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    real_s, real_ns = time.time, time.time_ns
    now_ms = real_ns() // 1_000_000
    await put(store, type="mail.send")
    (job,) = await take(store)
    await ack(store, job)
    await add_mark(store, Mark("m", "v2", now_ms))
    await append_entries(store, AuditStream.CHANGES, [b'{"action":"a"}'], "batch")

    monkeypatch.setattr("time.time", lambda: real_s() + days * DAY / 1000)
    monkeypatch.setattr("time.time_ns", lambda: real_ns() + days * DAY * 1_000_000)
    assert [each.id for each in (await read_last_ended(store, QUEUE, "mail.send", 9)).jobs] == [
        job.id
    ]
    assert [mark.id for mark in await read_marks(store)] == ["m"]
    assert len((await read_entries(store, AuditFilter(), limit=9)).entries) == 1
