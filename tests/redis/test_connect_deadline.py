"""``connect_timeout_s`` is one time for reaching a node and for the handshake, in virtual time."""

from __future__ import annotations

import ssl

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.redis import Address, ClientSettings
from ojs_cluster.redis import node_link as link_module
from ojs_cluster.redis.node_link import NodeLink
from ojs_cluster.redis.pubsub_connection import PubSubConnection
from ojs_cluster.redis.reply_waiters import CoarseClock
from ojs_cluster.redis.transport import Transport
from tests.redis.test_connection import MemoryTransport

ADDRESS = Address("node", 7000)
SETTINGS = ClientSettings(nodes=(ADDRESS,), connect_timeout_s=2.0)


@pytest.fixture(autouse=True)
def slow_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is reached after 1.5 s and then never says a word."""

    async def open_slowly(_address: Address, _tls: ssl.SSLContext | None) -> Transport:
        await trio.sleep(1.5)
        return MemoryTransport()

    monkeypatch.setattr(link_module, "open_transport", open_slowly)


async def test_a_link_gives_a_node_up_after_the_one_time_for_both(
    autojump_clock: MockClock,
) -> None:
    given_up: list[float] = []
    began = trio.current_time()

    async with trio.open_nursery() as nursery:

        def changed(_link: NodeLink) -> None:
            given_up.append(trio.current_time() - began)
            nursery.cancel_scope.cancel()

        link = NodeLink(ADDRESS, SETTINGS, None, CoarseClock(), changed)
        nursery.start_soon(link.run)
    assert given_up == [pytest.approx(2.0)]
    assert "no answer to the handshake" in str(link.last_error)


async def test_a_pubsub_connection_has_one_timeout_for_connecting_and_the_handshake(
    autojump_clock: MockClock,
) -> None:
    given_up: list[float] = []
    began = trio.current_time()

    async with trio.open_nursery() as nursery:

        def dropped(*_: object) -> None:
            given_up.append(trio.current_time() - began)
            nursery.cancel_scope.cancel()

        nursery.start_soon(PubSubConnection(ADDRESS, SETTINGS, None, dropped).run)
    assert given_up == [pytest.approx(2.0)]
