"""Many cron jobs that are due at one moment: few calls for all, and each as if it were alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits.depth_bounds import set_bound
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from tests.store.shortcuts import DAY, ack, envelope, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_cron

QUEUE = "reports"
_serial = itertools.count(1)


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    yield
    consistent()


async def registered(store: Store, name: str, **members: Any) -> None:
    # An interval, so that no occurrence is due by itself while the test runs.
    body = {"name": name, "cron": "@every 24h", "type": "make", "options": {"queue": QUEUE}}
    await cron.register(store, parse_cron(json.dumps({**body, **members}).encode()))


async def many(store: Store, count: int, **members: Any) -> list[str]:
    names = [f"c{number:03}" for number in range(count)]
    for name in names:
        await registered(store, name, **members)
    return names


def come(store: Store, db: Any, names: list[str]) -> None:
    shift = DAY + next(_serial)
    for name in names:
        age_cron(db, store.keys.meta, name, shift)


async def look(store: RedisCronStore) -> None:
    with trio.fail_after(60):
        while (await fire_due(store, 500)).done:
            pass


def scripts_run(db: Any) -> int:
    return int(db.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


async def outcomes(store: Store, name: str) -> list[str]:
    return [past.outcome for past in await cron.history(store, name, 9)]


async def test_each_fires_once_with_history_and_the_next_occurrence(store: Store, db: Any) -> None:
    names = await many(store, 60)
    for occurrence in (1, 2):
        come(store, db, names)
        await look(RedisCronStore(store))

        jobs = await take(store, QUEUE, count=100)
        assert sorted(envelope(job)["meta"]["cron_name"] for job in jobs) == names
        for job in jobs:
            await ack(store, job)
        for name in names:
            record = await cron.get(store, name)
            assert (record.runs, record.firing, len(record.open_runs)) == (occurrence, None, 1)
            assert record.next_ms is not None
            assert await outcomes(store, name) == ["fire"] * occurrence


async def test_the_number_of_calls_does_not_grow_with_the_cron_jobs(store: Store, db: Any) -> None:
    names = await many(store, 50)
    calls = []
    for count in (10, 50):
        for _ in range(2):  # the first one registers the queue
            come(store, db, names[:count])
            before = sum(scripts_run(node) for node in nodes_of(db))
            await look(RedisCronStore(store))
            calls.append(sum(scripts_run(node) for node in nodes_of(db)) - before)
            for job in await take(store, QUEUE, count=100):
                await ack(store, job)
    assert calls[3] <= calls[1] + 2


def nodes_of(db: Any) -> list[Any]:
    nodes = getattr(db, "get_primaries", None)
    return [db.get_redis_connection(node) for node in nodes()] if nodes else [db]


async def test_what_is_not_plain_is_decided_as_if_it_were_alone(store: Store, db: Any) -> None:
    plain = await many(store, 5)
    await registered(store, "busy", overlap_policy="skip")
    await registered(store, "replaced", overlap_policy="cancel_previous")
    await registered(store, "held", overlap_policy="enqueue")
    odd = ["busy", "replaced", "held"]
    come(store, db, odd)
    await look(RedisCronStore(store))
    first = {envelope(job)["meta"]["cron_name"] for job in await take(store, QUEUE, count=9)}
    assert first == set(odd)
    await registered(store, "unique", unique={"key": ["type"], "on_conflict": "reject"})
    await registered(store, "damaged")
    db.hset(store.keys.meta.cron("damaged"), "job", "{}")
    come(store, db, [*plain, *odd, "unique", "damaged"])

    await look(RedisCronStore(store))

    for name in plain:
        assert await outcomes(store, name) == ["fire"]
    assert await outcomes(store, "busy") == ["skip", "fire"]
    assert await outcomes(store, "replaced") == ["fire", "fire"]
    assert await outcomes(store, "held") == ["fire", "fire"]
    assert len((await cron.get(store, "held")).held_runs) == 1
    assert await outcomes(store, "unique") == ["fire"]
    assert await outcomes(store, "damaged") == ["error"]


async def test_a_full_queue_refuses_only_what_does_not_fit(store: Store, db: Any) -> None:
    names = await many(store, 6)
    await set_bound(store, QUEUE, 4)
    come(store, db, names)

    await look(RedisCronStore(store))

    results = [(await outcomes(store, name))[0] for name in names]
    assert sorted(results) == ["error", "error", "fire", "fire", "fire", "fire"]
    assert len(await take(store, QUEUE, count=9)) == 4


async def test_a_lost_reply_of_the_jobs_leads_to_no_second_job(store: Store, db: Any) -> None:
    class Deaf(RedisCronStore):
        async def enqueue_each(self, jobs: Any, store_before_ms: int) -> set[str]:
            await super().enqueue_each(jobs, store_before_ms)
            return set()

    names = await many(store, 4)
    come(store, db, names)

    await look(Deaf(store))

    jobs = await take(store, QUEUE, count=9)
    assert sorted(envelope(job)["meta"]["cron_name"] for job in jobs) == names
    assert (await cron.get(store, names[0])).firing is None


async def test_a_shard_that_is_away_delays_only_its_own(store: Store, db: Any) -> None:
    class Away(RedisCronStore):
        async def enqueue(
            self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool
        ) -> str:
            raise BackendUnavailable("gone", outcome="not_applied")

        async def enqueue_each(self, jobs: Any, store_before_ms: int) -> set[str]:
            here = [job for job in jobs if job.queue == QUEUE]
            return await super().enqueue_each(here, store_before_ms)

    names = await many(store, 4)
    await registered(store, "away", options={"queue": "away"})
    come(store, db, [*names, "away"])

    await fire_due(Away(store), 100)

    for name in names:
        assert (await cron.get(store, name)).firing is None
    assert (await cron.get(store, "away")).firing is not None
    age_cron(db, store.keys.meta, "away", 60_000)
    await look(RedisCronStore(store))
    assert (await cron.get(store, "away")).firing is None
    assert len(await take(store, "away", count=9)) == 1
