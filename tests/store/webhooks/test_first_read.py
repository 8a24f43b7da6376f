"""A process that starts while the master of the meta tag is away does not know the webhooks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground import versioned_table
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.open import open_store
from tests.scheduler.running import eventually
from tests.store.test_master_away import owner
from tests.store.webhook_jobs import subscribe
from tests.support.nodes import ApiNode
from tests.support.servers import own_server

LINE = "events of this process are not delivered to webhooks"


@pytest.fixture(autouse=True)
def patience() -> None:
    """The product's own times hold here."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    """Three masters; none is taken for dead while it is stopped."""
    with own_server(tmp_path, node_timeout_ms=120_000) as running:
        yield running


async def with_a_subscription(server: Embedded) -> EmbeddedNode:
    """Store a subscription; return the master that has it."""
    async with open_store(ClientSettings.from_url(server.url)) as store:
        await subscribe(store, "job.enqueued")
        return owner(server, store, store.keys.meta.slot)


async def started(store: Store, nursery: trio.Nursery) -> None:
    with trio.fail_after(60):
        await store.webhooks.start(store, nursery)


async def test_it_waits_for_its_first_read(
    server: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = await with_a_subscription(server)
    server.pause(meta)
    async with (
        open_store(ClientSettings.from_url(server.url)) as store,
        trio.open_nursery() as nursery,
    ):
        read = store.webhooks._copy.try_read

        async def resume_afterwards(reader: Runtime) -> None:
            await read(reader)
            server.resume(meta)

        monkeypatch.setattr(store.webhooks._copy, "try_read", resume_afterwards)
        await started(store, nursery)
        assert store.webhooks.selects("job.enqueued")
        assert store.webhooks.unread_s == 0
        nursery.cancel_scope.cancel()


async def test_after_a_limit_it_works_without_them_and_tells(
    server: Embedded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versioned_table, "FIRST_READ_S", 0.3)
    caplog.set_level(logging.WARNING, "ojs.store")
    meta = await with_a_subscription(server)
    server.pause(meta)
    async with (
        open_store(ClientSettings.from_url(server.url)) as store,
        trio.open_nursery() as nursery,
    ):
        await started(store, nursery)
        assert not store.webhooks.selects("job.enqueued")
        assert sum(LINE in record.getMessage() for record in caplog.records) == 1
        await eventually(lambda: store.webhooks.unread_s > 0.1)
        server.resume(meta)
        await eventually(lambda: store.webhooks.selects("job.enqueued"))
        counted_s = store.webhooks.unread_s
        assert counted_s > 0.1
        await store.webhooks.read(store)
        assert store.webhooks.unread_s == counted_s
        nursery.cancel_scope.cancel()


async def test_an_api_process_is_ready_after_the_limit(server: Embedded, tmp_path: Path) -> None:
    meta = await with_a_subscription(server)
    server.pause(meta)
    node = ApiNode("node", tmp_path, server.url, workers=1)
    try:
        await trio.to_thread.run_sync(node.start)
        assert (tmp_path / "node.log").read_text().count(LINE) == 1
    finally:
        node.stop()
        server.resume(meta)
