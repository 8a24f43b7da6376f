"""Background work on jobs, without any request, on real servers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

import pytest
import trio

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.exposition import exposition
from ojs_cluster.http.messages import Request
from ojs_cluster.keys import SHARD_KEYS, type_of_key
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.scheduler_http import scheduler_families
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.read_jobs import get
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_scheduler.main import run_scheduler
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import ElectionStats, Stats
from tests.scheduler.running import all_in, eventually, put, redis_ms, state_of, store_at
from tests.support.servers import all_keys, observer
from tests.support.timeshift import age_worker

UNASKED_MS = 12_000
"""Lateness of a deadline that was announced is far below this on any machine; without word of it a
shard sleeps for ``QUIET``."""
QUIET = SchedulerSettings(max_sleep_ms=15_000)


@asynccontextmanager
async def served(
    backend: Embedded,
    store_settings: StoreSettings | None = None,
    settings: SchedulerSettings | None = None,
) -> AsyncIterator[tuple[Store, Stats]]:
    """Open a store with a leading scheduler beside it."""
    stats = Stats()
    async with store_at(backend.url, store_settings) as store, trio.open_nursery() as nursery:
        run = settings or SchedulerSettings()
        nursery.start_soon(lambda: run_scheduler(store, run, stats=stats))
        await eventually(lambda: _leads_all(stats.election), what="it leads")
        yield store, stats
        nursery.cancel_scope.cancel()


def _leads_all(election: ElectionStats) -> bool:
    return 0 < election.shards == len(election.led_shards)


async def test_a_policy_that_may_evict_jobs_is_reported_while_it_lasts(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SchedulerSettings(janitor_sleep_ms=200)
    with standalone.nodes[0].client() as node:
        try:
            async with served(standalone, settings=settings) as (store, stats):
                loop = stats.loop("eviction")
                await eventually(lambda: loop.steps > 1, what="checked")
                assert not loop.failing
                node.config_set("maxmemory-policy", "allkeys-lru")
                await eventually(lambda: bool(loop.failing), what="seen")
                ids = await put(store, 1, scheduled_at="+PT0.1S")
                await eventually(lambda: all_in(store, ids, State.AVAILABLE), what="work goes on")
                node.config_set("maxmemory-policy", "noeviction")
                await eventually(lambda: not loop.failing, what="seen again")
        finally:
            node.config_set("maxmemory-policy", "noeviction")
    fails = [
        vars(r) for r in caplog.records if r.getMessage() == "sweep of a shard fails, will retry"
    ]
    (found,) = [fail for fail in fails if fail["loop"] == "eviction"]
    assert "maxmemory-policy allkeys-lru" in str(found["error"])


async def test_due_jobs_become_available_without_a_fetch(backend: Embedded) -> None:
    async with served(backend, settings=QUIET) as (store, _):
        late = await put(store, 3, "later", scheduled_at="+PT1S")
        soon = await put(store, 3, "sooner", scheduled_at="+PT0.2S")
        await eventually(lambda: all_in(store, late + soon, State.AVAILABLE), what="available")
        for job_id in late + soon:
            job = await get(store, job_id)
            assert job.due_ms is not None
            assert 0 <= int(job.fields[f.ENQUEUED]) - job.due_ms < UNASKED_MS


async def test_work_planned_before_the_scheduler_started_is_found(backend: Embedded) -> None:
    async with store_at(backend.url) as store:
        jobs = await put(store, 5, scheduled_at="+PT0.1S")
    async with served(backend) as (store, _):
        await eventually(lambda: all_in(store, jobs, State.AVAILABLE), what="available")


async def test_a_quarantined_job_is_counted(backend: Embedded) -> None:
    async with store_at(backend.url) as store:
        failing, well = await put(store, 2, scheduled_at="+PT0.1S")
        with observer(backend) as db:
            db.hset(store.keys.shard_of_id(failing).job(failing), f.PRIORITY, "high")
    async with served(backend) as (store, stats):
        await eventually(lambda: all_in(store, [well], State.AVAILABLE), what="the other goes on")
        await eventually(lambda: stats.loop("promote").quarantined == 1, what="counted")
    request = Request("GET", "/metrics")
    told = (await exposition(request, scheduler_families(stats))).body.decode()
    assert 'ojs_scheduler_quarantined_total{loop="promote"} 1' in told


async def test_a_lost_lease_is_reaped_without_a_fetch(backend: Embedded) -> None:
    async with served(backend, settings=QUIET) as (store, _):
        ids = await put(store, 3)
        jobs = await fetch(store, ["q"], count=3, worker_id="w", visibility_timeout_ms=700)
        assert len(jobs) == 3
        await eventually(lambda: all_in(store, ids, State.AVAILABLE), what="reaped")
        for job in jobs:
            after = await get(store, job.id)
            assert 0 <= int(after.fields[f.ENQUEUED]) - int(job.fields[f.DEADLINE]) < UNASKED_MS
            assert after.attempt == 1


async def test_an_execution_timeout_ends_an_attempt_that_heartbeats(backend: Embedded) -> None:
    async with served(backend) as (store, _):
        (job_id,) = await put(store, 1, timeout_ms=1000)
        await fetch(store, ["q"], count=1, worker_id="w")
        async with trio.open_nursery() as nursery:

            async def beat() -> None:
                while True:
                    await heartbeat(store, Heartbeat("w", (job_id,)))
                    await trio.sleep(0.1)

            nursery.start_soon(beat)

            async def timed_out() -> bool:
                return await state_of(store, job_id) is not State.ACTIVE

            await eventually(timed_out, what="the attempt ended")
            nursery.cancel_scope.cancel()
        job = await get(store, job_id)
        assert job.state in (State.RETRYABLE, State.AVAILABLE)
        assert b'"code":"timeout"' in job.json()


async def test_waiting_jobs_expire_without_a_request(backend: Embedded) -> None:
    async with served(backend) as (store, _):
        waiting = await put(store, 2, expires_at="+PT0.5S")
        scheduled = await put(store, 2, scheduled_at="+PT60S", expires_at="+PT0.5S")
        await eventually(
            lambda: all_in(store, waiting + scheduled, State.DISCARDED), what="expired"
        )
        assert await fetch(store, ["q"], count=4, worker_id="w") == []


async def test_a_dead_workers_jobs_are_recovered_long_before_their_leases_end(
    backend: Embedded,
) -> None:
    # Three of these intervals make a worker dead: the one that lives may stall for a minute.
    settings = StoreSettings(heartbeat_interval_ms=20_000)
    pace = SchedulerSettings(max_sleep_ms=500)
    async with served(backend, settings, pace) as (store, _), trio.open_nursery() as nursery:
        ids = [job_id for i in range(6) for job_id in await put(store, 2, f"q{i}")]
        queues = [f"q{i}" for i in range(6)]
        mine = await fetch(store, queues, count=9, worker_id="dies", visibility_timeout_ms=600_000)
        others = await fetch(
            store, queues, count=3, worker_id="lives", visibility_timeout_ms=600_000
        )
        assert len(mine) + len(others) == len(ids)

        async def live() -> None:
            while True:
                await heartbeat(store, Heartbeat("lives"))
                await trio.sleep(0.1)

        nursery.start_soon(live)
        for _ in range(4):
            await heartbeat(store, Heartbeat("dies", tuple(job.id for job in mine)))
            await trio.sleep(0.1)
        with observer(backend) as redis:
            age_worker(redis, store.keys.shard_of_worker("dies"), "dies", 61_000)
        lost = [job.id for job in mine]
        await eventually(lambda: all_in(store, lost, State.AVAILABLE), what="recovered")
        assert await all_in(store, [job.id for job in others], State.ACTIVE)
        assert b'"code":"worker_lost"' in (await get(store, lost[0])).json()
        shard = store.keys.shard_of_worker("dies")

        async def recovery_finished() -> bool:
            return await store.redis.call(shard.slot, "ZCARD", shard.lost_workers) == 0

        await eventually(recovery_finished, what="its recovery is finished")
        nursery.cancel_scope.cancel()


async def test_after_retention_no_key_of_a_job_remains(backend: Embedded) -> None:
    settings = StoreSettings(retention_completed_ms=300)
    pace = SchedulerSettings(janitor_sleep_ms=200, janitor_batch=2)
    async with served(backend, settings, pace) as (store, _):
        ids = await put(store, 7)
        for job in await fetch(store, ["q"], count=7, worker_id="w"):
            await ack(store, job.id, worker_id="w", lease_id=job.lease_id, result=b"{}")

        def gone() -> bool:
            return not any(job_id.encode() in key for key in all_keys(backend) for job_id in ids)

        await eventually(gone, what="purged")
        with pytest.raises(NotFound):
            await get(store, ids[0])
        shard = store.keys.shard_of_queue("q")
        with observer(backend) as redis:
            assert redis.zcard(shard.finished.decode()) == 0


async def test_an_idle_leader_costs_redis_next_to_nothing(backend: Embedded) -> None:
    async with served(backend) as (_, stats):
        await eventually(
            lambda: all(
                stats.loop(name).steps >= 64
                for name in ("promote", "reap", "dead_workers", "purge", "tidy")
            ),
            what="each loop checked each shard once",
        )

        async def quiet() -> bool:
            before = steps()
            await trio.sleep(3)
            return steps() == before

        def steps() -> dict[str, int]:
            """The loop over the table of partitions is one call every few seconds, busy or not."""
            loops = stats.loops.items()
            return {name: loop.steps for name, loop in loops if name != "partitions"}

        # Shards are checked every ten seconds; between two rounds there is no call.
        await eventually(quiet, within_s=120, what="three seconds without a step")


async def test_keys_of_wrong_types_in_one_shard_and_under_the_meta_tag_stop_no_other_shard(
    backend: Embedded,
) -> None:
    async with served(backend) as (store, stats):
        failing, meta = store.keys.shard_of_queue("failing"), store.keys.meta
        assert store.keys.shard_of_queue("q") is not failing
        jobs = await put(store, 6, scheduled_at="+PT0.1S")
        await eventually(lambda: all_in(store, jobs, State.AVAILABLE), what="the loops run")
        later = await put(store, 3, scheduled_at="+PT3S")
        taken = await fetch(store, ["q"], count=3, worker_id="w", visibility_timeout_ms=3000)
        of_meta = {getattr(meta, each.name) for each in fields(meta) if each.type == "bytes"}
        with observer(backend) as db:
            for key in {getattr(failing, name) for name in SHARD_KEYS} | of_meta - {meta.schema}:
                db.delete(key)
                db.lpush(key, "x") if type_of_key(key) == b"string" else db.set(key, "x")
        await eventually(lambda: bool(stats.loop("promote").failing), what="it is noticed")
        ids = [job.id for job in taken]
        await eventually(lambda: all_in(store, later + ids, State.AVAILABLE), what="others go on")
        loops = [stats.loop("promote"), stats.loop("reap")]
        # The shard may not have been reaped since, and a step of another one may have failed once.
        await eventually(
            lambda: all(loop.failing == {failing.index} for loop in loops), what="only it fails"
        )


async def test_one_shard_that_cannot_be_worked_on_does_not_stop_the_others(
    backend: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ojs.scheduler")
    async with served(backend) as (store, stats):
        failing = store.keys.shard_of_queue("failing")
        assert store.keys.shard_of_queue("q") is not failing
        # A key of another type: every promote of this shard fails with WRONGTYPE.
        await store.redis.call(failing.slot, "SET", failing.due, "broken")
        await store.redis.call(
            failing.slot, "SPUBLISH", failing.schedule_channel, str(await redis_ms(store))
        )
        await eventually(
            lambda: stats.loop("promote").failing == {failing.index}, what="it is reported"
        )
        jobs = await put(store, 3, scheduled_at="+PT0.2S")
        await eventually(lambda: all_in(store, jobs, State.AVAILABLE), what="others go on")
        assert failing.index not in stats.loop("reap").failing
        await store.redis.call(failing.slot, "DEL", failing.due)
        await eventually(lambda: not stats.loop("promote").failing, what="it recovers")
    # Another shard's step may have failed for a moment on a busy machine.
    reports = [
        record.getMessage()
        for record in caplog.records
        if (getattr(record, "loop", ""), getattr(record, "shard", -1)) == ("promote", failing.index)
    ]
    assert reports == ["sweep of a shard fails, will retry", "sweep of a shard succeeds again"]
