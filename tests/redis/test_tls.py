"""``rediss://`` against a server that was built with TLS."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, ClientSettings, Script, open_client
from ojs_cluster.server.embedded.ports import reserve_any
from ojs_cluster.server.embedded.servers import Embedded, find_server
from tests.redis.helpers import eventually, in_thread, key_on, slot_of
from tests.support.certificates import OPENSSL, make_certificates
from tests.support.servers import own_server, wait_until

SERVERS = [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]


@dataclass(frozen=True)
class Secure:
    """A server with TLS that requires client certificates."""

    server: Embedded
    port: int
    files: Path

    def url(self, *, ca: str = "ca", client: str | None = "client", extra: str = "") -> str:
        """A URL that names the certificates."""
        url = f"rediss://127.0.0.1:{self.port}/?ssl_ca_certs={self.files / ca}.crt{extra}"
        if client is not None:
            url += f"&ssl_certfile={self.files / client}.crt&ssl_keyfile={self.files / client}.key"
        return url

    def observer(self) -> redis.Redis:
        """redis-py's client, by TLS."""
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            ssl=True,
            ssl_ca_certs=str(self.files / "ca.crt"),
            ssl_certfile=str(self.files / "client.crt"),
            ssl_keyfile=str(self.files / "client.key"),
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Run a server with TLS."""
    if OPENSSL is None or not SERVERS:
        pytest.skip("needs openssl and a redis-server or valkey-server on PATH")
    directory = tmp_path_factory.mktemp("tls")
    make_certificates(directory)
    reserved = reserve_any()
    config = {
        "tls-port": str(reserved.port),
        "tls-cert-file": str(directory / "server.crt"),
        "tls-key-file": str(directory / "server.key"),
        "tls-ca-cert-file": str(directory / "ca.crt"),
    }
    binary = find_server(SERVERS[0])
    with Embedded(
        directory / "data", binary=binary, cluster=False, append_only=False, config=config
    ) as server:
        yield Secure(server, reserved.port, directory)
    reserved.release()


@pytest.fixture(scope="module")
def secure_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, Secure]]:
    """Run a cluster of three masters that have a TLS port beside the plain one."""
    if OPENSSL is None or not SERVERS:
        pytest.skip("needs openssl and a redis-server or valkey-server on PATH")
    directory = tmp_path_factory.mktemp("tls-cluster")
    make_certificates(directory)
    config = {
        "tls-cert-file": str(directory / "server.crt"),
        "tls-key-file": str(directory / "server.key"),
        "tls-ca-cert-file": str(directory / "ca.crt"),
    }
    with own_server(directory / "data", config=config, choice=SERVERS[0]) as servers:
        reserved = [reserve_any() for _ in servers.nodes]
        ports = [port.port for port in reserved]
        for node, port in zip(servers.nodes, ports, strict=True):
            with node.client() as client:
                client.config_set("tls-port", port)
        secure = Secure(servers, ports[0], directory)

        def told() -> set[int]:
            with secure.observer() as client:
                return {row[2][1] for row in client.execute_command("CLUSTER", "SLOTS")}

        wait_until(lambda: told() == set(ports), timeout_s=60, what="all know the TLS ports")
        yield servers, secure
    for reservation in reserved:
        reservation.release()


async def test_every_node_of_a_cluster_is_reached_by_tls(
    secure_cluster: tuple[Embedded, Secure],
) -> None:
    servers, secure = secure_cluster
    script = Script("count", b"return redis.call('INCR', KEYS[1])")
    keys = [key_on(servers, index) for index in range(3)]
    heard: list[bytes] = []

    async with open_client(ClientSettings.from_url(secure.url())) as client:
        plain = {node.port for node in servers.nodes}
        assert len(client.topology.masters) == 3
        assert not {address.port for address in client.topology.masters} & plain
        for key in keys:
            slot = slot_of(key)
            assert await client.call(slot, b"INCR", key) == 1
            assert await client.script(slot, script, [key], []) == 2
            await client.subscribe(key, slot, heard.append, lambda: None)
            await client.call(slot, b"SPUBLISH", key, key)
        await eventually(lambda: sorted(heard) == sorted(keys))
        for node in servers.nodes:
            with node.client() as observer:
                lines = observer.client_list(_type="normal")
            assert any(int(line["laddr"].rpartition(":")[2]) not in plain for line in lines)


async def test_commands_and_messages_pass_through_tls(secure: Secure) -> None:
    heard: list[bytes] = []
    value = b"t" * 500_000

    async def caller(client: Client, number: int) -> None:
        for step in range(30):
            token = b"%d:%d" % (number, step)
            assert await client.call(0, b"ECHO", token) == token

    async with open_client(ClientSettings.from_url(secure.url())) as client:
        assert await client.call(0, b"SET", b"k", value) == b"OK"
        assert await client.call(0, b"GET", b"k") == value
        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(caller, client, number)
        await client.subscribe(b"ch", 0, heard.append, lambda: None)
        await client.call(0, b"SPUBLISH", b"ch", b"hello")
        await eventually(lambda: heard == [b"hello"])


async def test_killed_tls_connections_are_replaced(secure: Secure) -> None:
    gaps: list[int] = []

    def kill_all() -> None:
        with secure.server.nodes[0].client() as observer:
            for kind in ("NORMAL", "PUBSUB"):
                observer.execute_command(  # type: ignore[no-untyped-call]
                    "CLIENT", "KILL", "TYPE", kind, "SKIPME", "YES"
                )

    async with open_client(ClientSettings.from_url(secure.url())) as client:
        await client.subscribe(b"ch", 0, lambda _: None, lambda: gaps.append(1))
        for kills in range(1, 4):
            await in_thread(kill_all)
            assert await client.call(0, b"ECHO", b"x", idempotent=True) == b"x"
            await eventually(lambda kills=kills: len(gaps) >= kills)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ({"ca": "stranger"}, "certificate verify failed"),
        ({"client": None}, ""),  # the server hangs up; how it says so depends on its version
    ],
)
async def test_wrong_or_missing_certificate_is_refused(
    secure: Secure, url: dict[str, str], reason: str
) -> None:
    settings = ClientSettings.from_url(secure.url(**url), call_timeout_s=6.0)
    with pytest.raises(BackendUnavailable) as caught:
        async with open_client(settings):
            raise AssertionError("opened")
    assert reason in str(caught.value.__cause__)


async def test_hostname_is_checked_unless_switched_off(secure: Secure) -> None:
    by_name = secure.url().replace("127.0.0.1", "localhost")
    with pytest.raises(BackendUnavailable) as caught:
        async with open_client(ClientSettings.from_url(by_name, call_timeout_s=6.0)):
            raise AssertionError("opened")
    assert "localhost" in str(caught.value.__cause__)

    for extra in ("&ssl_check_hostname=false", "&ssl_cert_reqs=none"):
        async with open_client(ClientSettings.from_url(by_name + extra)) as client:
            assert await client.call(0, b"PING") == b"PONG"


async def test_unreadable_certificate_file_says_so_at_once(secure: Secure) -> None:
    settings = ClientSettings.from_url("rediss://127.0.0.1/?ssl_ca_certs=/nowhere.pem")
    with pytest.raises((OSError, ssl.SSLError)):
        async with open_client(settings):
            raise AssertionError("opened")


async def test_plain_client_on_a_tls_port_is_refused(secure: Secure) -> None:
    settings = ClientSettings.from_url(f"redis://127.0.0.1:{secure.port}", call_timeout_s=2.0)
    with pytest.raises(BackendUnavailable):
        async with open_client(settings):
            raise AssertionError("opened")
