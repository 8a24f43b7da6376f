"""Last ended jobs of a type in a queue: completed, discarded and dead ones of the same time."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.queue_defaults import POLICY
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.search import last_ended
from ojs_cluster.store.features.search.last_ended import read_last_ended
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults
from tests.store.shortcuts import DAY, QUEUE, ack, nack, put, shard_of, take
from tests.support.timeshift import age_job


async def ended(store: Store, end: str, *, type: str = "mail.send", queue: str = QUEUE) -> str:
    """Let a job complete, or be discarded, or become a dead letter."""
    exhausted = "dead_letter" if end == "dead" else "discard"
    retry = {"max_attempts": 1, "on_exhaustion": exhausted}
    await put(store, queue, type=type, retry=retry)
    (job,) = await take(store, queue)
    await (ack(store, job) if end == "completed" else nack(store, job))
    return job.id


async def read(store: Store, limit: int = 50) -> tuple[list[str], bool]:
    last = await read_last_ended(store, QUEUE, "mail.send", limit)
    return [job.id for job in last.jobs], last.is_cut


async def test_ends_of_all_kinds_come_in_their_order(store: Store, db: Any) -> None:
    ids = []
    for days, end in enumerate(("completed", "dead", "completed", "discarded", "completed")):
        ids.append(await ended(store, end))
        age_job(db, shard_of(store), ids[-1], (5 - days) * DAY)
    await ended(store, "completed", type="mail.other")
    assert await read(store) == (ids, False)
    assert await read(store, limit=2) == (ids[-2:], False)


@pytest.mark.parametrize("holder", [QUEUE, POLICY])
async def test_no_kind_reaches_back_further_than_another_is_kept(
    store: Store, db: Any, holder: str
) -> None:
    for end in ("dead", "discarded"):
        age_job(db, shard_of(store), await ended(store, end), 8 * DAY)
    old = await ended(store, "discarded")
    age_job(db, shard_of(store), old, 2 * DAY)
    assert await read(store) == ([old], False), "completed jobs are kept for 7 days"
    await change_defaults(store, holder, {"retention": {"completed": "P1D"}})
    await store.queue_defaults.read(store)
    new = await ended(store, "completed")
    assert await read(store) == ([new], False)


@pytest.mark.parametrize("others", ["completed", "discarded", "dead"])
async def test_jobs_that_were_not_examined_leave_no_gap(
    store: Store, monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    monkeypatch.setattr(last_ended, "BUDGET", 4)
    monkeypatch.setattr(last_ended, "BATCH", 2)
    for end in ("completed", "discarded", "dead"):
        await ended(store, end)
    for _ in range(5):
        await ended(store, others, type="mail.other")
    assert await read(store) == ([], True)
    last = await ended(store, "completed")
    assert await read(store) == ([last], True)
