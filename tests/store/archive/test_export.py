"""What an export reads: all pages, and of each job what belongs to it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import trio

from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.keys import KEYS_OF_JOBS
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.batch import enqueue_all
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.archive import export_archive
from tests.store.archives import DEAD, counted, emptied, export_text
from tests.store.cron.test_cron import definition
from tests.store.hot_queues import spread
from tests.store.shortcuts import active, nack, new_job, put, queues_in_other_shards, shard_of
from tests.store.unique_jobs import once
from tests.support.failing_process import dies_at
from tests.support.servers import observer


def lines(text: bytes, kind: str) -> list[dict[str, Any]]:
    return [line[kind] for line in map(json.loads, text.splitlines()) if kind in line]


async def test_all_pages_are_read_also_among_equal_scores(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_archive, "_PAGE", 3)
    for number in range(10):
        await put(store, f"q{number}")
        await cron.register(store, definition(f"c{number}", enabled=number % 2 == 0))
    with trio.fail_after(120):
        text = await export_text(store)
    assert len(lines(text, "job")) == 10
    assert sorted(line["name"] for line in lines(text, "queue")) == [f"q{n}" for n in range(10)]
    assert sorted(line["name"] for line in lines(text, "cron")) == [f"c{n}" for n in range(10)]


async def test_a_partitioned_queue_is_exported_with_its_whole_limit(store: Store, db: Any) -> None:
    await spread(store, db, 4)
    limits = RateLimits(concurrency=8)
    await rate_limits.set_queue_limits(store, "mail", limits)
    [line] = lines(await export_text(store), "queue")
    assert unpack_limits(line["limits"]) == limits


async def test_a_deleted_job_whose_id_stays_reserved_is_not_exported(store: Store, db: Any) -> None:
    job = await active(store, **DEAD)
    await nack(store, job)
    db.hset(shard_of(store).job(job.id), f.HIDDEN, 1)
    assert lines(await export_text(store), "job") == []


async def test_a_job_whose_lock_another_job_holds_is_exported_without_it(
    store: Store, db: Any
) -> None:
    job = await once(store)
    [held] = lines(await export_text(store), "job")
    assert held["holds_lock"] is True
    shard = store.keys.shard_of_fingerprint(held["unique"])
    db.hset(shard.lock(held["unique"]), "holder", "019461a8-1a2b-7003-8e4f-000000000001")
    [line] = lines(await export_text(store), "job")
    assert line["id"] == job.id
    assert "holds_lock" not in line


async def test_jobs_of_a_transaction_that_is_interrupted_meanwhile_are_exported_together(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [new_job("one"), new_job("two", unique={}), new_job("three")]
    exported = set()
    finish = export_archive._finish_replacements
    died, at = True, 0

    async def request(acting: Store) -> None:
        await enqueue_all(acting, jobs)

    async def interrupted(exporting: Store) -> None:
        nonlocal died
        await finish(exporting)
        died = await dies_at(exporting, at, True, request)

    monkeypatch.setattr(export_archive, "_finish_replacements", interrupted)
    while died:
        at += 1
        async with emptied(standalone) as store:
            exported.add(counted(await export_text(store)).get("available", 0))
    assert exported == {0, 3}


async def test_a_replacement_that_is_interrupted_meanwhile_leaves_a_job_in_the_file(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, prepared = export_archive._finish_replacements, 0
    died, at = True, 0

    async def request(acting: Store) -> None:
        [other] = queues_in_other_shards(acting, 1)
        await once(acting, other, on_conflict="replace")

    async def interrupted(exporting: Store) -> None:
        nonlocal died, prepared
        await finish(exporting)
        died = await dies_at(exporting, at, True, request)
        with observer(standalone) as db:
            prepared += any(db.hexists(key, f.TRANSACTION) for key in db.keys(KEYS_OF_JOBS))

    monkeypatch.setattr(export_archive, "_finish_replacements", interrupted)
    while died:
        at += 1
        async with emptied(standalone) as store:
            await once(store)
            assert counted(await export_text(store))["available"] >= 1
    assert prepared


async def test_an_abandoned_manual_run_changes_no_occurrence(
    standalone: Embedded,
) -> None:
    for at in itertools.count(1):
        async with emptied(standalone) as store:
            await cron.register(store, definition())
            [before] = lines(await export_text(store), "cron")

            async def trigger(acting: Store) -> None:
                await cron.trigger(acting, "daily")

            died = await dies_at(store, at, True, trigger)
            with observer(standalone) as db:
                [after] = lines(await export_text(store), "cron")
                assert after["next"] == before["next"], db.hgetall(store.keys.meta.cron("daily"))
        if not died:
            break
