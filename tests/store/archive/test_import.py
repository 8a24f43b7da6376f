"""Where an import stores jobs, and what it leaves as it is."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.engine.tenants.tenant_counts import read_states
from ojs_cluster.store.features.progress.progress import Report, report_progress
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.operators.archive import import_archive
from ojs_cluster.store.operators.archive.archive import parse
from ojs_cluster.store.operators.archive.import_archive import restore_job, target_shard
from ojs_cluster.store.operators.archive.line_values import InvalidLine, JobLine
from tests.store.archives import emptied, export_text, import_text
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, active, foreign_id, id_in, put, shard_of, take, until
from tests.store.tenants.shortcuts import put_for
from tests.store.workflow_jobs import chain, step
from tests.support.servers import flush, observer


async def exported_job(store: Store, **members: Any) -> JobLine:
    """Return the line of a job of an installation that is then emptied."""
    await put(store, **members)
    text = await export_text(store)
    [raw] = [raw for raw in text.splitlines() if raw.startswith(b'{"job"')]
    line = parse(raw)
    assert isinstance(line, JobLine)
    return line


async def test_an_import_keeps_the_partitions_of_a_queue(store: Store, db: Any) -> None:
    await spread(store, db, 2)
    await put(store)
    text = await export_text(store)
    await set_partitions(store, QUEUE, 4)
    await import_text(store, text)
    assert store.partitions.entries()[QUEUE].count == 4


async def test_a_job_goes_into_no_partition_that_is_about_to_close(store: Store, db: Any) -> None:
    shards = await spread(store, db, 4)
    for shard in shards:
        await put(store, id=id_in(shard.index))
    await set_partitions(store, QUEUE, 2)
    assert store.partitions.layout(QUEUE).open_count == 4
    others = [shard for shard in store.keys if shard not in shards]
    found = {(await target_shard(store, QUEUE, id_in(shard.index))).index for shard in others}
    assert found == {shard.index for shard in shards[:2]}


async def test_a_job_with_a_declared_limit_goes_into_partition_0(
    backend: Embedded, store: Store
) -> None:
    for _ in range(8):
        await put(store, rate_limit={"max_per_second": 2})
    text = await export_text(store)
    async with emptied(backend, 20) as target:
        with observer(backend) as db:
            [first, *_] = await spread(target, db, 4)
            await import_text(target, text)
            assert db.zcard(first.queue_available(QUEUE)) == 8
            assert db.hget(first.queue_counters(QUEUE), "declared_at") is not None


async def test_the_progress_of_an_attempt_that_did_not_happen_is_forgotten(
    backend: Embedded, store: Store
) -> None:
    job = await active(store)
    await report_progress(store, job.id, Report(0.5), worker_id=None, lease_id=None)
    text = await export_text(store)
    assert b'"progress":' in text
    async with emptied(backend) as target:
        await import_text(target, text)
        assert (await read_jobs.get(target, job.id)).progress is None
        [again] = await take(target)
        assert again.progress is None


async def test_an_import_wakes_a_waiting_fetch(backend: Embedded, store: Store) -> None:
    line = await exported_job(store)
    flush(backend)
    async with emptied(backend) as target:
        shard, heard = shard_of(target), list[bytes]()
        await target.redis.subscribe(shard.wake_channel, shard.slot, heard.append, lambda: None)
        assert await restore_job(target, line) == "created"
        await target.redis.call(shard.slot, "SPUBLISH", shard.wake_channel, "the end")

        async def messages() -> list[bytes]:
            return heard

        await until(messages, lambda found: b"the end" in found)
        assert heard == [QUEUE.encode(), b"the end"]


async def test_imported_jobs_count_for_their_tenant(backend: Embedded, store: Store) -> None:
    await put_for(store, "acme")
    await put_for(store, "acme", scheduled_at="+PT1H")
    before = await read_states(store, ["acme"])
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)
        assert await read_states(target, ["acme"]) == before


async def test_a_job_is_not_stored_after_its_claim_has_expired(
    backend: Embedded, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_archive, "_CLAIM_MS", 0)
    line = await exported_job(store, id=foreign_id(store))
    async with emptied(backend) as target:
        with pytest.raises(InvalidLine, match="run the import again"):
            await restore_job(target, line)


async def test_an_id_that_is_reserved_for_a_missing_job_is_reported(
    backend: Embedded, store: Store
) -> None:
    line = await exported_job(store, id=foreign_id(store))
    async with emptied(backend) as target:
        owner, shard = target.keys.shard_of_id(line.id), shard_of(target)
        other = next(each for each in target.keys if each not in (owner, shard))
        await import_archive._claim_alias(target, line.id, other)
        with pytest.raises(InvalidLine, match="run the import again"):
            await restore_job(target, line)


async def test_steps_that_run_again_have_ids_of_the_shards_of_their_queues(
    backend: Embedded, store: Store
) -> None:
    made = await chain(store, *(step("a", f"q{number}") for number in range(6)))
    lines = (await export_text(store)).splitlines(keepends=True)
    without = b"".join(line for line in lines if not line.startswith(b'{"job"'))
    async with emptied(backend, 20) as target:
        await import_text(target, without)
        jobs = (await read_workflows.get(target, made.id)).plan.jobs
        shards = [target.keys.shard_of_id(job.job_id) for job in jobs]
        assert shards == [shard_of(target, f"q{number}") for number in range(6)]
