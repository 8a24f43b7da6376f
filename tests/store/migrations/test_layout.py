"""Which layouts of the data a process serves, at its start and while it runs."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.keys import Meta
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.layout_record import LayoutRecord
from ojs_cluster.store.ground.process_state.migration import Layouts
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.migrations import layout
from ojs_cluster.store.operators.migrations.layout import (
    UnusableBackend,
    report,
    wait_until_outdated,
)
from tests.store.migrations.renaming import (
    EARLIER,
    LATER,
    MIGRATES,
    READS_BOTH,
    RENAME,
    migrate_all,
    of_version,
)
from tests.store.shortcuts import put
from tests.support.patience import patient_client


async def opens(backend: Embedded, layouts: Layouts) -> bool:
    """Return whether a process of this version starts."""
    try:
        async with open_store(patient_client(backend), layouts=layouts):
            return True
    except UnusableBackend:
        return False


async def test_saved_searches_of_an_earlier_version_expire(backend: Embedded, db: Any) -> None:
    searches = Meta().searches
    month_ms = 30 * 86_400_000
    for known_ms in (month_ms, month_ms // 2):  # a later start does not put the end off
        if known_ms == month_ms:
            db.hset(searches, "failed", '{"name":"failed","query":"state:discarded","saved_ms":1}')
        else:
            db.pexpire(searches, known_ms)
        async with open_store(patient_client(backend)):
            with trio.fail_after(60):
                while db.pttl(searches) < 0:  # noqa: ASYNC110 - a task of the store
                    await trio.sleep(0.01)
        assert known_ms - 600_000 < db.pttl(searches) <= known_ms


async def until_seen(store: Store, db: Any) -> None:
    """Wait for the first report of a process with layout 1."""
    with trio.fail_after(60):
        while not db.hexists(store.keys.meta.schema, "seen:1"):  # noqa: ASYNC110 - another process
            await trio.sleep(0.01)


async def test_an_empty_cluster_gets_the_layout_that_its_first_process_writes(
    backend: Embedded, db: Any
) -> None:
    async with open_store(patient_client(backend), layouts=MIGRATES) as store:
        assert store.layout.record.version == 2
        assert db.hget(store.keys.meta.schema, "version") == b"2"
    assert not await opens(backend, EARLIER)
    assert await opens(backend, READS_BOTH)
    assert await opens(backend, LATER)


async def test_of_two_versions_on_an_empty_cluster_one_records_its_layout(
    backend: Embedded, db: Any
) -> None:
    found: dict[int, bool] = {}

    async def start(layouts: Layouts) -> None:
        found[layouts.written] = await opens(backend, layouts)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, EARLIER)
        nursery.start_soon(start, LATER)
    recorded = int(db.hget(b"ojs:{meta}:schema", "version"))
    assert found == {1: recorded == 1, 2: recorded == 2}


async def test_a_release_without_the_old_layout_starts_when_the_migration_is_complete(
    backend: Embedded, store: Store, db: Any
) -> None:
    await put(store)
    assert not await opens(backend, LATER)
    db.hset(store.keys.meta.schema, mapping={"version": 2, "oldest": 1, "position": 3})
    with pytest.raises(UnusableBackend, match=r"records of layout 1, .*layouts from 2 on"):
        async with open_store(patient_client(backend), layouts=LATER):
            pass
    await migrate_all(of_version(store, MIGRATES))
    assert await opens(backend, LATER)
    assert not await opens(backend, EARLIER)


async def test_a_running_process_learns_that_it_cannot_serve_the_data(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "REPORT_S", 0.01)
    reasons: list[UnusableBackend] = []

    async def wait() -> None:
        reasons.append(await wait_until_outdated(store))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await until_seen(store, db)
        assert not reasons
        db.hset(store.keys.meta.schema, mapping={"version": 2, "oldest": 1})
    assert "has layout 2, and this version serves layouts up to 1" in str(reasons[0])


async def test_a_deleted_record_ends_no_process(store: Store, db: Any) -> None:
    db.delete(store.keys.meta.schema)
    assert await report(store) is None
    assert not db.exists(store.keys.meta.schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"oldest": 2},
        {"written": 2},
        {"written": 2, "newest": 2},
        {"newest": 3, "written": 3, "migrations": (RENAME,)},
    ],
)
def test_layouts_without_a_way_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="layout"):
        Layouts(**wrong)


def test_a_damaged_number_of_a_migration_stops_no_process() -> None:
    names = (b"oldest", b"position", b"changed", b"started", b"finished")
    record = LayoutRecord.from_fields(
        {b"version": b"2", b"shards": b"4", **dict.fromkeys(names, b"x")}
    )
    assert record == LayoutRecord(version=2, shards=4, oldest=2)
