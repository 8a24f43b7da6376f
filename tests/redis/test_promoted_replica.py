"""A standalone server behind an address that follows the master: a Service, a proxy, a DNS name.

The address leads to the promoted replica, while connections to the old master stay open.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, Script, open_client
from ojs_cluster.redis.durability import Durability
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.redis.helpers import Proxy, eventually, in_thread, proxied, settings_for
from tests.support.nodes import ApiNode
from tests.support.servers import own_server, wait_until

ADD = Script("add", b"return redis.call('INCR', KEYS[1])")
CHANNEL = b"ojs:{0}:wake_channel"


@dataclass(slots=True)
class Pair:
    """A master and its replica."""

    master: EmbeddedNode
    replica: EmbeddedNode

    def swap(self) -> None:
        """Promote the replica; the old master follows it and keeps its connections."""
        self.promote()
        follow(self.replica, self.master)

    def promote(self) -> None:
        with self.replica.client() as admin:
            admin.replicaof("NO", "ONE")
        self.master, self.replica = self.replica, self.master


def follow(replica: EmbeddedNode, master: EmbeddedNode) -> None:
    with replica.client() as admin:
        admin.replicaof("127.0.0.1", str(master.port))

        def in_sync() -> bool:
            found = admin.info("replication")
            return bool(found.get("master_link_status") == "up")

        wait_until(in_sync, what="the replica follows its master")


@contextmanager
def two_servers(directory: Path) -> Iterator[tuple[Pair, Embedded]]:
    with (
        own_server(directory / "a", cluster=False) as first,
        own_server(directory / "b", cluster=False) as second,
    ):
        pair = Pair(first.nodes[0], second.nodes[0])
        follow(pair.replica, pair.master)
        yield pair, first


@asynccontextmanager
async def following(directory: Path) -> AsyncIterator[tuple[Pair, Proxy]]:
    """A pair behind a proxy that leads to the master until the test changes it."""
    with two_servers(directory) as (pair, first):
        async with proxied(first) as proxy:
            yield pair, proxy


def connected(proxy: Proxy) -> AbstractAsyncContextManager[Client]:
    """A client that knows the proxy's address only."""
    return open_client(settings_for(proxy.port))


async def add(client: Client, key: bytes = b"n") -> int:
    reply = await client.script(0, ADD, [key], [])
    assert isinstance(reply, int)
    return reply


async def test_callers_recover_when_the_address_leads_to_the_new_master(tmp_path: Path) -> None:
    async with (
        following(tmp_path) as (pair, proxy),
        open_client(settings_for(proxy.port)) as client,
    ):
        assert await add(client) == 1

        await in_thread(pair.swap)
        proxy.lead_to(pair.master.port)
        counts: list[int] = []

        async def one() -> None:
            counts.append(await add(client))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)

        assert sorted(counts) == list(range(2, 52))
        assert client.healthy
        with pair.master.client() as db:
            assert db.get("n") == b"51"


async def test_calls_wait_while_the_address_leads_to_the_old_master(tmp_path: Path) -> None:
    async with (
        following(tmp_path) as (pair, proxy),
        open_client(settings_for(proxy.port)) as client,
    ):
        await add(client)
        await in_thread(pair.swap)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, client)
            await eventually(lambda: not client.healthy, what="the replica is noticed")
            before = proxy.connections
            await eventually(lambda: proxy.connections > before, what="it is connected to again")
            assert not client.healthy
            proxy.lead_to(pair.master.port)
        assert client.healthy
        assert await add(client) == 3


async def test_an_idle_process_notices_and_is_unhealthy(tmp_path: Path) -> None:
    async with following(tmp_path) as (pair, proxy), connected(proxy) as client:
        await client.ping(60)
        assert client.healthy
        await in_thread(pair.swap)
        await client.ping(60)
        assert not client.healthy
        proxy.lead_to(pair.master.port)
        await eventually(lambda: client.healthy, what="it is connected to the new master")


async def test_a_server_that_is_promoted_where_it_stands_is_used_again(tmp_path: Path) -> None:
    async with (
        following(tmp_path) as (pair, proxy),
        open_client(settings_for(proxy.port)) as client,
    ):
        await add(client)
        await in_thread(pair.swap)
        await client.ping(60)
        assert not client.healthy
        await in_thread(pair.swap)
        assert await add(client) == 2


async def test_subscriptions_follow_to_the_new_master(tmp_path: Path) -> None:
    heard: list[bytes] = []
    gaps: list[int] = []
    async with (
        following(tmp_path) as (pair, proxy),
        open_client(settings_for(proxy.port)) as client,
    ):
        await client.subscribe(CHANNEL, 0, heard.append, lambda: gaps.append(1))
        # The old master is no replica of the new one: what is published there never reaches it.
        await in_thread(pair.promote)
        with pair.replica.client() as old:
            await in_thread(old.replicaof, "127.0.0.1", "1")
        proxy.lead_to(pair.master.port)
        await add(client)
        await eventually(lambda: bool(gaps), what="it is subscribed again")
        with pair.master.client() as db:
            await in_thread(db.execute_command, "SPUBLISH", CHANNEL, "q")
        await eventually(lambda: heard == [b"q"], what="the message arrives")


async def test_confirmed_writes_follow_too(tmp_path: Path) -> None:
    confirmed = {
        "durability": Durability.REPLICA,
        "probe_keys": ((0, b"mark"),),
        "durability_timeout_s": 20.0,
    }
    async with (
        following(tmp_path) as (pair, proxy),
        open_client(settings_for(proxy.port, **confirmed)) as client,
    ):
        assert await add(client) == 1
        await in_thread(pair.swap)
        proxy.lead_to(pair.master.port)
        assert await add(client) == 2
        with pair.replica.client() as db:
            assert db.get("n") == b"2"


async def test_a_process_that_starts_at_a_replica_waits_and_says_why(tmp_path: Path) -> None:
    with two_servers(tmp_path) as (pair, _):
        # Four seconds are enough to ask the replica for its role, also on a busy machine.
        settings = settings_for(pair.replica.port, call_timeout_s=4.0)
        with pytest.raises(BackendUnavailable) as caught:
            async with open_client(settings):
                raise AssertionError("opened")
        assert "is a replica" in str(caught.value.__cause__)


async def test_a_server_that_refuses_role_is_taken_for_a_master(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ojs.redis")
    with two_servers(tmp_path) as (pair, first):
        with pair.master.client() as admin:
            admin.execute_command("ACL", "SETUSER", "default", "-role")  # type: ignore[no-untyped-call]
        async with proxied(first) as proxy, connected(proxy) as client:
            assert await add(client) == 1
            await client.ping(60)
            assert client.healthy
            assert [text for text in caplog.messages if "refuses ROLE" in text]
            # What refuses a write is noticed without it.
            await in_thread(pair.swap)
            proxy.lead_to(pair.master.port)
            assert await add(client) == 2


async def test_ready_is_false_until_the_address_leads_to_a_master(tmp_path: Path) -> None:
    async with following(tmp_path) as (pair, proxy):
        node = ApiNode("node", tmp_path, f"redis://127.0.0.1:{proxy.port}", workers=1)
        try:
            await in_thread(node.start)
            await in_thread(pair.swap)
            await in_thread(wait_until, lambda: not node.is_ready())
            assert not await in_thread(node.is_ready)
            proxy.lead_to(pair.master.port)
            await in_thread(node.await_ready)
        finally:
            await in_thread(node.stop)
