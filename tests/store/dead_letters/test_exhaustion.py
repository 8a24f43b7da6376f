"""What becomes of jobs without a decision of their own after their last attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.queues.exhaustion import get_on_exhaustion, set_on_exhaustion
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.workers import DeadWorker
from tests.store.archives import emptied, export_text, import_text
from tests.store.shortcuts import HOUR, QUEUE, active, nack, reap_all, shard_of
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

FAILURE = parse_failure(b'{"message":"no"}')
Check = Callable[[], InvariantReport]


async def _dead(store: Store) -> list[str]:
    return [job.id for job in (await dead_letters.list_dead_letters(store, limit=10))[0]]


async def _fail(store: Store, db: Any, how: str) -> str:
    job = await active(store, max_attempts=1)
    if how == "nack":
        await nack(store, job)
    elif how == "nack_many":
        await nack_many(store, [Nack(job.id, job.lease_id, FAILURE, requeue=False)], worker_id="w1")
    elif how == "lost lease":
        age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store)
    else:
        await workers.recover(store, shard_of(store), [DeadWorker("w1", 2**52)])
    return job.id


@pytest.mark.parametrize("how", ["nack", "nack_many", "lost lease", "dead worker"])
@pytest.mark.parametrize("by", ["server", "queue"])
async def test_every_way_to_fail_obeys(
    store: Store, db: Any, how: str, by: str, consistent: Check
) -> None:
    if by == "server":
        store = replace(store, settings=replace(store.settings, on_exhaustion="dead_letter"))
    else:
        await set_on_exhaustion(store, QUEUE, "dead_letter")
    failed = await _fail(store, db, how)
    assert await _dead(store) == [failed]
    consistent()


async def test_a_job_that_was_stored_before_the_change_obeys(store: Store) -> None:
    job = await active(store, max_attempts=1)
    await set_on_exhaustion(store, QUEUE, "dead_letter")
    await nack(store, job)
    assert await _dead(store) == [job.id]


async def test_an_explicit_discard_overrides_the_queue(store: Store) -> None:
    await set_on_exhaustion(store, QUEUE, "dead_letter")
    await nack(store, await active(store, retry={"max_attempts": 1, "on_exhaustion": "discard"}))
    assert await _dead(store) == []


async def test_a_queue_keeps_its_decision_after_its_import(backend: Embedded, store: Store) -> None:
    await set_on_exhaustion(store, QUEUE, "dead_letter")
    text = await export_text(store)
    async with emptied(backend) as restored:
        await import_text(restored, text)
        assert await get_on_exhaustion(restored, QUEUE) == "dead_letter"
