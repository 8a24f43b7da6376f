"""Servers that cannot be used: unreachable, silent, or refusing us."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import (
    Address,
    AuthenticationFailed,
    ClientSettings,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
    open_client,
)
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.call_retry import CallRetry
from ojs_cluster.redis.errors import ReplyLost
from ojs_cluster.redis.node_link import check_handshake_error
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import key_on, settings_for, silent_listener, slot_of
from tests.support.servers import own_server


async def test_nobody_listens() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        async with open_client(settings_for(1, call_timeout_s=3.0)):
            raise AssertionError("opened")
    assert caught.value.outcome == "not_applied"
    assert "127.0.0.1:1" in str(caught.value.__cause__)


async def test_server_that_accepts_and_stays_silent() -> None:
    with silent_listener() as port, pytest.raises(BackendUnavailable) as caught:
        async with open_client(settings_for(port, call_timeout_s=6.0, connect_timeout_s=0.5)):
            raise AssertionError("opened")
    assert "handshake" in str(caught.value.__cause__)


async def test_server_that_speaks_another_protocol() -> None:
    async def http(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad DurableWork\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, http, listeners)
        with pytest.raises(BackendUnavailable) as caught:
            async with open_client(settings_for(port, call_timeout_s=5.0)):
                raise AssertionError("opened")
        nursery.cancel_scope.cancel()
    assert "protocol error" in str(caught.value.__cause__)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b"])
async def test_impossible_host_name_is_one_more_unreachable_node(host: str) -> None:
    settings = ClientSettings(nodes=(Address(host, 6379),), call_timeout_s=0.3)
    with trio.fail_after(120), pytest.raises(BackendUnavailable) as caught:
        async with open_client(settings):
            raise AssertionError("opened")
    assert caught.value.outcome == "not_applied"


async def test_database_number_on_a_cluster_is_refused(cluster: Embedded) -> None:
    settings = ClientSettings.from_url(f"redis://{cluster.nodes[0].address}/2")
    with pytest.raises(NoSuchDatabase):
        async with open_client(settings):
            raise AssertionError("opened")


async def test_database_number_that_a_server_does_not_have_is_refused(
    standalone: Embedded,
) -> None:
    settings = ClientSettings.from_url(f"{standalone.url}/3000")
    with pytest.raises(NoSuchDatabase, match="no database 3000"):
        async with open_client(settings):
            raise AssertionError("opened")


FULL = "ERR max number of clients reached"
FULL_CLUSTER = "ERR max number of clients + cluster connections reached"
NO_PASSWORD = "ERR AUTH <password> called without any password configured for the default user"


@pytest.mark.parametrize(
    ("command", "reply", "meaning"),
    [
        ((b"AUTH", "pw"), "WRONGPASS invalid username-password pair", AuthenticationFailed),
        ((b"AUTH", "pw"), NO_PASSWORD, AuthenticationFailed),
        ((b"CLIENT", b"SETNAME", "x"), "NOAUTH Authentication required.", AuthenticationFailed),
        ((b"SELECT", 2), "NOPERM no permissions to run 'select'", AuthenticationFailed),
        ((b"SELECT", 2), "ERR SELECT is not allowed in cluster mode", NoSuchDatabase),
        ((b"SELECT", 2), "ERR DB index is out of range", NoSuchDatabase),
        ((b"AUTH", "pw"), FULL, ConnectFailed),
        ((b"SELECT", 2), FULL, ConnectFailed),
        ((b"CLIENT", b"SETNAME", "x"), FULL_CLUSTER, ConnectFailed),
        ((b"SELECT", 2), "ERR upstream is away", ConnectFailed),
        ((b"AUTH", "pw"), "LOADING Redis is loading the dataset in memory", ConnectFailed),
        ((b"CLIENT", b"SETNAME", "x"), "ERR unknown command", ConnectFailed),
    ],
)
def test_only_what_is_about_credentials_is_taken_for_that(
    command: tuple[bytes | str | int, ...], reply: str, meaning: type[Exception]
) -> None:
    with pytest.raises(meaning) as caught:
        check_handshake_error("node:1", command, RedisReplyError(reply))
    assert type(caught.value) is meaning


async def test_a_server_that_is_full_has_not_refused_the_password(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server:
        settings = settings_for(server.nodes[0].port, password="pw", call_timeout_s=1.0)
        with server.nodes[0].client() as admin:
            admin.config_set("requirepass", "pw")
            admin.config_set("maxclients", 1)
            for _ in range(5):
                with pytest.raises(BackendUnavailable):
                    async with open_client(settings):
                        raise AssertionError("opened")
            admin.config_set("maxclients", 100)
        async with open_client(replace(settings, call_timeout_s=60.0)) as client:
            assert await client.call(0, b"PING") == b"PONG"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cluster whose default user has a password, and with a second user."""
    directory: Path = tmp_path_factory.mktemp("guarded")
    with own_server(directory) as servers:
        for node in servers.nodes:
            with node.client() as admin:
                admin.execute_command("ACL", "SETUSER", "ann", "on", ">ann-pw", "~*", "&*", "+@all")  # type: ignore[no-untyped-call]
                admin.config_set("requirepass", "default-pw")
        yield servers


@pytest.mark.parametrize("credentials", [":default-pw@", "ann:ann-pw@", "default:default-pw@"])
async def test_right_credentials_open_every_node(guarded: Embedded, credentials: str) -> None:
    url = guarded.url.replace("redis://", f"redis://{credentials}")
    async with open_client(ClientSettings.from_url(url)) as client:
        replies = await client.call_masters(b"PING")
        assert list(replies.values()) == [b"PONG"] * 3
        await client.subscribe(b"ch", 0, lambda _: None, lambda: None)


@pytest.mark.parametrize("credentials", ["", ":wrong@", "ann:default-pw@", "bob:ann-pw@"])
async def test_wrong_credentials_fail_at_once_and_are_not_shown(
    guarded: Embedded, credentials: str
) -> None:
    url = guarded.url.replace("redis://", f"redis://{credentials}")
    with trio.fail_after(60), pytest.raises(AuthenticationFailed) as caught:
        async with open_client(ClientSettings.from_url(url, call_timeout_s=600)):
            raise AssertionError("opened")
    assert "-pw" not in str(caught.value)
    assert "wrong" not in str(caught.value).lower().replace("wrongpass", "")


@pytest.mark.parametrize(("lost_before", "outcome"), [(False, "not_applied"), (True, "unknown")])
def test_a_refused_write_whose_first_try_was_lost_may_have_been_applied(
    lost_before: bool, outcome: str
) -> None:
    retry = CallRetry(idempotent=True)
    if lost_before:
        retry.after_failure(ReplyLost("the connection ended"))
    assert retry.writes_refused(RedisReplyError("OOM command not allowed")).outcome == outcome


async def test_one_node_that_refuses_us_alone_keeps_nobody_from_the_others(
    tmp_path: Path,
) -> None:
    with own_server(tmp_path) as servers:
        with servers.nodes[0].client() as admin:
            admin.config_set("requirepass", "not-rotated-yet")
        settings = ClientSettings.from_url(servers.url, connect_timeout_s=3.0)
        async with open_client(settings) as client:
            for index in (1, 2):
                key = key_on(servers, index)
                assert await client.call(slot_of(key), b"SET", key, b"x") == b"OK"
            assert not client.healthy


async def test_user_with_few_rights_can_work(tmp_path: Path) -> None:
    rights = ["+@read", "+@write", "+@scripting", "+@pubsub", "-client"]
    with own_server(tmp_path, cluster=False) as server:
        await set_user(server, [*rights, "+cluster|slots"])
        async with open_client(few_rights(server, call_timeout_s=60.0)) as client:
            assert await client.call(0, b"INCR", b"n") == 1
            await client.subscribe(b"ch", 0, lambda _: None, lambda: None)


async def test_missing_right_to_the_topology_is_named(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server:
        await set_user(server, ["+@read"])
        with pytest.raises(AclDenied) as caught:
            async with open_client(few_rights(server, call_timeout_s=60.0)):
                raise AssertionError("opened")
    assert "run ACL SETUSER few +cluster|slots there" in str(caught.value)


def few_rights(server: Embedded, *, call_timeout_s: float) -> ClientSettings:
    """Settings of a user made by ``set_user``."""
    url = server.url.replace("redis://", "redis://few:pw@")
    return ClientSettings.from_url(url, call_timeout_s=call_timeout_s)


async def set_user(server: Embedded, rights: list[str]) -> None:
    """Make a user with exactly these rights."""
    with server.nodes[0].client() as admin:
        admin.execute_command(  # type: ignore[no-untyped-call]
            "ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", *rights
        )
