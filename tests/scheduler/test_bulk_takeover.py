"""Bulk operations over real processes: leaders die in the middle of one."""

from __future__ import annotations

import signal
import time

import trio

from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkState
from tests.scheduler.running import eventually, schedulers, store_at
from tests.store.shortcuts import new_job

JOBS = 3000
LIMIT_S = 240.0


async def changed(store: Store, operation_id: str) -> int:
    return (await operations.get(store, operation_id)).succeeded


async def test_every_job_is_changed_and_counted_once_while_leaders_are_killed(
    backend: Embedded,
) -> None:
    operation_id = new_job_id(0, 64, time.time_ns() // 1_000_000)
    async with store_at(backend.url) as store:
        for _ in range(JOBS // 500):
            await enqueue_many(store, [new_job(f"q{number % 10}") for number in range(500)])
        states = (State.AVAILABLE, State.SCHEDULED)
        # Each leader kills itself: a kill from here may come after the end of the operation.
        dying = schedulers(backend.url, 2, lease_ttl_ms=1500, dies_after=JOBS // 3)
        async with dying as running, trio.open_nursery() as nursery:
            await operations.create(store, operation_id, BulkAction.CANCEL, Selection(states))
            nursery.cancel_scope.deadline = trio.current_time() + LIMIT_S
            for one in running:
                nursery.start_soon(one.process.wait)
        assert {one.process.returncode for one in running} == {-signal.SIGKILL}
        assert 0 < await changed(store, operation_id) < JOBS

        async def over() -> bool:
            return (await operations.get(store, operation_id)).ended

        async with schedulers(backend.url, 1, lease_ttl_ms=1500):
            await eventually(over, within_s=LIMIT_S, what="the end under the last leader")
        ended = await operations.get(store, operation_id)
        counts = [(await get_stats(store, f"q{number}")).counts for number in range(10)]

    assert (ended.state, ended.matched) == (BulkState.COMPLETED, JOBS)
    assert (ended.succeeded, ended.failed) == (JOBS, 0)
    assert sum(count[State.CANCELLED] for count in counts) == JOBS
