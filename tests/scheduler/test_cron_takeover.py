"""Cron over real processes: leaders are killed while occurrences come every second."""

from __future__ import annotations

import json
from datetime import datetime

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.features.cron import cron
from tests.scheduler.running import eventually, leader_of, schedulers, store_at

BODY = {
    "name": "ticker",
    "cron": "* * * * * *",
    "type": "tick.tock",
    "overlap_policy": "allow",
    "options": {"queue": "ticks"},
}


async def runs(store: Store) -> int:
    return (await cron.get(store, "ticker")).runs


async def test_no_occurrence_fires_twice_while_leaders_are_killed(backend: Embedded) -> None:
    async with store_at(backend.url) as store:
        async with schedulers(backend.url, 3, lease_ttl_ms=1500) as running:
            await cron.register(store, parse_cron(json.dumps(BODY).encode()))
            alive = list(running)
            while alive:
                first = await leader_of(alive)
                seen = await runs(store)

                async def went_on(seen: int = seen) -> bool:
                    return await runs(store) >= seen + 3

                await eventually(went_on, what="occurrences under this leader")
                alive.remove(first)
                first.kill()
        history = await cron.history(store, "ticker", 100)
        jobs = await fetch(store, ["ticks"], count=1000, worker_id="w", visibility_timeout_ms=None)

    recorded_ms = [past.occurrence_ms for past in reversed(history)]
    assert recorded_ms == sorted(set(recorded_ms))
    assert all(at_ms % 1000 == 0 for at_ms in recorded_ms)
    triggered = [json.loads(job.json())["meta"]["cron_triggered_at"] for job in jobs]
    fired = sorted(round(datetime.fromisoformat(text).timestamp() * 1000) for text in triggered)
    assert fired == sorted(set(fired))
    assert len(fired) >= 8
    # The history keeps the last hundred, which a slow machine may exceed.
    kept = [at_ms for at_ms in fired if at_ms >= recorded_ms[0]]
    # The last leader may have been killed between claim and delivery: that firing remains.
    assert kept in (recorded_ms, recorded_ms[:-1])


async def test_a_cron_job_registered_while_the_scheduler_sleeps_is_on_time(
    backend: Embedded,
) -> None:
    async with (
        store_at(backend.url) as store,
        schedulers(backend.url, 1, max_sleep_ms=15_000) as running,
    ):
        await leader_of(running)
        await cron.register(store, parse_cron(json.dumps({**BODY, "cron": "@every 1s"}).encode()))

        async def fired() -> bool:
            return await runs(store) > 0

        await eventually(fired, what="the first occurrence")
        [first] = (await cron.history(store, "ticker", 100))[-1:]
    # Without the announcement the idle loop would check after fifteen seconds.
    assert first.at_ms - first.occurrence_ms < 12_000
