"""A migration: when it begins, and how it ends, while jobs run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.migrations.execution import GRACE_MS, migrate
from ojs_cluster.store.operators.migrations.layout import report
from tests.store.migrations.renaming import (
    AFTER,
    BEFORE,
    EARLIER,
    MIGRATES,
    READS_BOTH,
    migrate_all,
    of_version,
)
from tests.store.migrations.scan import scan_keys
from tests.store.shortcuts import ack, put, take
from tests.support.invariants import InvariantReport
from tests.support.servers import hashes

Check = Callable[[], InvariantReport]
QUEUES = ("a", "b", "c", "d")


async def fill(store: Store, db: Any, count: int) -> None:
    """Create jobs with the field of the old layout."""
    for number in range(count):
        job = await put(store, QUEUES[number % len(QUEUES)])
        db.hset(store.keys.shard_of_id(job.id).job(job.id), BEFORE, job.id)


def age(db: Any, store: Store, ms: int) -> None:
    """Shift the times of the record into the past."""
    schema = store.keys.meta.schema
    for name, value in db.hgetall(schema).items():
        if name.startswith(b"seen:") or name == b"watched_since":
            db.hset(schema, name, int(value) - ms)


def stored_version(db: Any, store: Store) -> int:
    return int(db.hget(store.keys.meta.schema, "version"))


async def test_it_waits_until_no_earlier_version_has_run_for_a_while(store: Store, db: Any) -> None:
    new = of_version(store, MIGRATES)
    await report(of_version(store, EARLIER))
    await migrate(new)
    age(db, store, GRACE_MS * 2)
    await report(of_version(store, EARLIER))
    result = await migrate(new)
    assert stored_version(db, store) == 1
    assert 0 < (result.next_ms or 0) <= GRACE_MS

    age(db, store, GRACE_MS)
    await migrate(new)
    assert stored_version(db, store) == 2
    assert b"seen:1" not in db.hgetall(store.keys.meta.schema)


async def test_a_version_that_reads_the_new_layout_delays_nothing(store: Store, db: Any) -> None:
    await migrate(of_version(store, MIGRATES))
    age(db, store, GRACE_MS)
    await report(of_version(store, READS_BOTH))
    await migrate(of_version(store, MIGRATES))
    assert stored_version(db, store) == 2


async def test_silence_during_an_outage_is_no_proof(store: Store, db: Any) -> None:
    new = of_version(store, MIGRATES)
    await migrate(new)
    age(db, store, GRACE_MS * 2)
    db.hincrby(store.keys.meta.schema, "watched_at", -GRACE_MS)
    await migrate(new)
    assert stored_version(db, store) == 1


async def test_it_begins_only_when_the_operator_allows_it(store: Store, db: Any) -> None:
    new = of_version(store, MIGRATES)
    await migrate(new, may_begin=False, grace_ms=0)
    assert stored_version(db, store) == 1
    await migrate(new, grace_ms=0)
    assert stored_version(db, store) == 2
    while new.layout.record.position == 0:  # one that runs goes on
        await migrate(new, may_begin=False)
    assert new.layout.record.is_migrating


async def test_a_version_that_cannot_migrate_leaves_it_to_another(store: Store, db: Any) -> None:
    await fill(store, db, 4)
    await migrate(of_version(store, MIGRATES), grace_ms=0)
    before = db.hget(store.keys.meta.schema, "position")
    result = await migrate(of_version(store, READS_BOTH))
    assert (result.done, result.next_ms) == (0, None)
    assert db.hget(store.keys.meta.schema, "position") == before


async def test_every_record_is_changed_while_two_versions_serve(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    """``other_store`` is of the release before, which reads both layouts."""
    await fill(store, db, 40)
    completed = 0

    async def serve() -> None:
        nonlocal completed
        for _ in range(20):
            await put(other_store, QUEUES[1])
            for job in await take(other_store, *QUEUES, count=2):
                await ack(other_store, job.id, result=b"1")
                completed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        record = await migrate_all(of_version(store, MIGRATES))

    jobs = hashes(db, "ojs:*:j:*")
    assert sum(AFTER in job for job in jobs.values()) == 40
    assert not [key for key, job in jobs.items() if BEFORE in job]
    assert (record.oldest, record.version, record.changed) == (2, 2, 40)
    assert completed == 40
    copies = {tuple(db.hmget(shard.schema, "version", "oldest")) for shard in store.keys}
    assert copies == {(b"2", b"2")}
    consistent()


async def test_two_leaders_do_no_harm(store: Store, other_store: Store, db: Any) -> None:
    await fill(store, db, 30)
    async with trio.open_nursery() as nursery:
        for each in (store, other_store):
            nursery.start_soon(migrate_all, of_version(each, MIGRATES))
    jobs = hashes(db, "ojs:*:j:*").values()
    assert [AFTER in job and BEFORE not in job for job in jobs] == [True] * 30


async def test_a_scan_starts_again_on_another_server(store: Store, db: Any) -> None:
    shard: Shard = store.keys.shard_of_queue("a")
    made = {shard.job((await put(store, "a")).id) for _ in range(5)}
    found: set[bytes] = set()
    cursor: bytes | None = b"another-server 123456"
    while cursor is not None:
        keys, cursor = await scan_keys(store, shard.slot, shard.prefix + b"j:*", cursor)
        found.update(keys)
    assert found == made


async def test_operators_see_how_far_it_is(store: Store, db: Any) -> None:
    assert store.layout.record.started_ms is None
    await fill(store, db, 8)
    new = of_version(store, MIGRATES)
    await migrate(new, grace_ms=0)
    for _ in range(5):
        await migrate(new)
    await report(store)
    running = store.layout.record
    assert running.is_migrating
    assert 0 < running.progress < 1
    await migrate_all(new)
    await report(store)
    ended = store.layout.record
    assert (ended.is_migrating, ended.progress, ended.changed) == (False, 1.0, 8)
    assert (ended.started_ms or 0) <= (ended.finished_ms or 0)
