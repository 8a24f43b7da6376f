"""Data of development versions before 0.1, which recorded the same layout number."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.keys import SHARD_KEYS, Meta, Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.migrations import layout, unnumbered
from ojs_cluster.store.operators.migrations.layout import UnusableBackend
from tests.store.shortcuts import put
from tests.support.patience import patient_client


async def refusal(backend: Embedded) -> str:
    """Return why a process does not start; '' when it starts."""
    try:
        async with open_store(patient_client(backend)) as store:
            while store.layout.unread:  # of masters that were slow to answer
                if name := await unnumbered.read_unread(store):
                    return name
            return ""
    except UnusableBackend as error:
        return str(error)


@pytest.mark.parametrize("tag", ["shard", "meta"])
async def test_each_key_of_an_unnumbered_version_is_found(
    backend: Embedded, store: Store, db: Any, tag: str
) -> None:
    tags: dict[str, Shard | Meta] = {"shard": store.keys.shard(0), "meta": store.keys.meta}
    prefix = tags[tag].schema.decode().removesuffix("schema")
    for name in unnumbered._KEYS.split():
        key = prefix + name
        db.set(key, "1")
        store.layout.unread = [tags[tag]]
        found = ""
        while store.layout.unread and not found:
            found = await unnumbered.read_unread(store)
        assert found == key
        db.delete(key)
    db.set(prefix + "ev", "1")
    assert prefix + "ev" in await refusal(backend)


@pytest.mark.parametrize("record", unnumbered._RECORDS)
async def test_a_field_of_an_unnumbered_version_is_found(
    backend: Embedded, store: Store, db: Any, record: str
) -> None:
    index, prefix, *fields = record.split()
    tag = "meta" if index.startswith("cron") else store.keys.shard(0).tag
    for field in fields:
        db.zadd(f"ojs:{{{tag}}}:{index}", {"name": 1})
        db.hset(f"ojs:{{{tag}}}:{prefix}name", field, "1")
        assert f"ojs:{{{tag}}}:{prefix}name {field}" in await refusal(backend)
        db.delete(f"ojs:{{{tag}}}:{prefix}name")


async def test_a_queue_of_an_unnumbered_version_is_found(
    backend: Embedded, store: Store, db: Any
) -> None:
    await put(store, "mail")
    assert not await refusal(backend)
    db.hset(store.keys.shard_of_queue("mail").queue_counters("mail"), "came", 1)
    assert "c:mail came" in await refusal(backend)


async def test_damaged_indexes_and_records_are_not_of_an_unnumbered_version(
    backend: Embedded, store: Store, db: Any
) -> None:
    await put(store, "mail")
    shard, meta = store.keys.shard(0), store.keys.meta
    db.set(shard.workflows, "x")
    db.zadd(shard.workers, {"w": 1})
    db.set(shard.worker("w"), "x")
    db.delete(meta.queues)
    db.set(meta.queues, "x")
    assert not await refusal(backend)


async def test_a_shard_that_did_not_answer_is_read_later(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "REPORT_S", 0.01)
    shard = store.keys.shard(3)
    store.layout.unread = [shard]
    db.set(shard.prefix + b"ev", "x")
    with trio.fail_after(60):
        reason = await layout.wait_until_outdated(store)
    assert "export it with the version that wrote it" in str(reason)


def test_no_name_of_an_unnumbered_version_is_in_use() -> None:
    assert not set(unnumbered._KEYS.split()) & {*SHARD_KEYS, "queues", "partitions", "audit"}
