"""Masters whose clocks differ: a worker's record lies with one, its jobs with another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import (
    HOUR,
    MINUTE,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_job, age_worker

WORKER = "w1"

SKEW = """
local redis = (function(inner)
    local ms = string.find(KEYS[1] or '', '{%s}', 1, true) and %d or 0
    local function call(command, ...)
        local reply = inner.call(command, ...)
        if command ~= 'TIME' then return reply end
        local now = reply[1] * 1000 + math.floor(reply[2] / 1000) + ms
        return {string.format('%%.0f', math.floor(now / 1000)),
            string.format('%%.0f', now %% 1000 * 1000)}
    end
    return setmetatable({call = call}, {__index = inner})
end)(redis)
"""


@asynccontextmanager
async def skewed(backend: Embedded, shard: Shard, ms: int) -> AsyncIterator[Store]:
    """A store for which the clock of one shard's master differs by ``ms``."""
    prelude = PRELUDE + SKEW % (shard.tag, ms)
    async with open_store(patient_client(backend), prelude=prelude) as opened:
        yield opened


async def dead_worker(store: Store, db: Any) -> list[workers.DeadWorker]:
    """A worker that sent heartbeats steadily, and then none."""
    home = store.keys.shard_of_worker(WORKER)
    for _ in range(3):
        await heartbeat(store, Heartbeat(WORKER))
    age_worker(db, home, WORKER, HOUR)
    dead, _, _ = await workers.find_dead(store, home, 10)
    assert [worker.id for worker in dead] == [WORKER]
    return dead


def elsewhere(store: Store) -> str:
    """A queue in another shard than the worker's record."""
    home = store.keys.shard_of_worker(WORKER)
    return next(
        name for name in queues_in_other_shards(store, 2) if shard_of(store, name) is not home
    )


@pytest.mark.parametrize("behind_ms", [0, 2_000, 20_000, HOUR])
async def test_a_worker_that_came_back_keeps_its_job_though_a_clock_is_behind(
    store: Store, backend: Embedded, db: Any, behind_ms: int
) -> None:
    queue = elsewhere(store)
    shard = shard_of(store, queue)
    async with skewed(backend, shard, -behind_ms) as process:
        dead = await dead_worker(process, db)
        await put(process, queue)
        [job] = await take(process, queue, worker=WORKER)

        recovered, _ = await workers.recover(process, shard, dead)
        assert not recovered
        reply = await heartbeat(process, Heartbeat(WORKER, [job.id]))
        assert reply.extended == [job.id]


@pytest.mark.parametrize("ahead_ms", [-20_000, 0, 20_000])
async def test_a_dead_workers_job_is_recovered_though_clocks_differ(
    store: Store, backend: Embedded, db: Any, ahead_ms: int
) -> None:
    queue = elsewhere(store)
    shard = shard_of(store, queue)
    async with skewed(backend, shard, ahead_ms) as process:
        await put(process, queue)
        [job] = await take(process, queue, worker=WORKER)
        age_job(db, shard, job.id, MINUTE)
        dead = await dead_worker(process, db)

        recovered, _ = await workers.recover(process, shard, dead)
        assert recovered == {WORKER: 1}


async def test_with_a_clock_far_ahead_a_dead_workers_job_waits_for_its_lease(
    store: Store, backend: Embedded, db: Any
) -> None:
    queue = elsewhere(store)
    shard = shard_of(store, queue)
    async with skewed(backend, shard, HOUR) as process:
        await put(process, queue)
        [job] = await take(process, queue, worker=WORKER)
        dead = await dead_worker(process, db)
        assert not (await workers.recover(process, shard, dead))[0]

        age_job(db, shard, job.id, 3 * MINUTE)
        await reap_all(process, queue)
        age_job(db, shard, job.id, MINUTE)  # no worker can be kept from other jobs
        assert [again.id for again in await take(process, queue, worker="w2")] == [job.id]
