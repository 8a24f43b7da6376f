"""The effect of a tunnel on its connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ojs_cluster.server.embedded.servers import Embedded
from tests.chaos.tunnel import OUTER, Tunnels, can_tunnel
from tests.support.servers import wait_until

pytestmark = pytest.mark.skipif(not can_tunnel(), reason=f"{OUTER} is not an address here")


@pytest.fixture
def tunnels(standalone: Embedded) -> Iterator[Tunnels]:
    running = Tunnels([standalone.nodes[0].port])
    yield running
    running.close()


@pytest.fixture
def client(standalone: Embedded, tunnels: Tunnels) -> Iterator[redis.Redis]:
    port = standalone.nodes[0].port
    never = Retry(NoBackoff(), 0)
    with redis.Redis(host=OUTER, port=port, socket_timeout=60, retry=never) as connected:
        assert connected.ping()
        yield connected


def test_a_tunnel_forwards_all_bytes(client: redis.Redis) -> None:
    client.set("large", "x" * 1_000_000)
    assert client.get("large") == b"x" * 1_000_000


@pytest.mark.parametrize("command", ["cut", "close"])
def test_cut_connections_are_reopened(
    standalone: Embedded, tunnels: Tunnels, client: redis.Redis, command: str
) -> None:
    port = standalone.nodes[0].port
    # Use one connection: a pool silently replaces a connection that was cut.
    connection = client.connection_pool.get_connection()
    tunnels.tell(command, port, 1)
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    client.connection_pool.release(connection)
    if command == "close":
        with pytest.raises(redis.ConnectionError):
            client.ping()
        tunnels.tell("heal", port)
    assert client.ping()


def test_a_silent_tunnel_keeps_its_connections_and_forwards_nothing(
    standalone: Embedded, tunnels: Tunnels, client: redis.Redis
) -> None:
    port = standalone.nodes[0].port
    tunnels.tell("silence", port)
    connection = client.connection_pool.get_connection()
    connection.send_command("SET", "silenced", 1)  # type: ignore[no-untyped-call]
    assert not connection.can_read(timeout=0.3)
    with standalone.nodes[0].client() as direct:
        assert not direct.exists("silenced")
        tunnels.tell("heal", port)
        wait_until(lambda: bool(direct.exists("silenced")), what="the command arrives")
    assert connection.read_response() == b"OK"
    client.connection_pool.release(connection)


def test_a_slow_tunnel_delays_all_bytes(
    standalone: Embedded, tunnels: Tunnels, client: redis.Redis
) -> None:
    tunnels.tell("slow", standalone.nodes[0].port, 500)
    connection = client.connection_pool.get_connection()
    connection.send_command("PING")  # type: ignore[no-untyped-call]
    assert not connection.can_read(timeout=0.2)
    assert connection.read_response() == b"PONG"
    client.connection_pool.release(connection)


@pytest.mark.parametrize(
    ("direction", "arrives"), [("both", False), ("requests", False), ("replies", True)]
)
def test_a_half_open_connection_loses_what_it_carries_and_new_ones_do_not(
    standalone: Embedded, tunnels: Tunnels, client: redis.Redis, direction: str, arrives: bool
) -> None:
    port = standalone.nodes[0].port
    connection = client.connection_pool.get_connection()
    tunnels.tell("lose", port, direction)
    key = f"lost-{direction}"
    connection.send_command("SET", key, 1)  # type: ignore[no-untyped-call]
    assert not connection.can_read(timeout=0.3)
    with standalone.nodes[0].client() as direct:
        if arrives:
            wait_until(lambda: bool(direct.exists(key)), what="the command arrives")
        assert bool(direct.exists(key)) == arrives
    tunnels.tell("heal", port)
    assert not connection.can_read(timeout=0.3)
    connection.disconnect()  # type: ignore[no-untyped-call]
    client.connection_pool.release(connection)
    assert client.ping()
