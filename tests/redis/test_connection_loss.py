"""Connections that end, stall or answer too much, by a proxy that causes it."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from pathlib import Path

import pytest
import redis
import trio
import trio.testing

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, ClientSettings, ReplyTooLarge, Script, open_client
from ojs_cluster.redis.connection import RedisConnection
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import (
    Proxy,
    client_of,
    eventually,
    in_thread,
    proxied,
    settings_for,
    slot_of,
)
from tests.support.servers import own_server

BIG = b"x" * 300_000


async def test_connection_cut_in_mid_reply_leaves_outcome_unknown(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        await client.call(0, b"SET", b"k", BIG)
        proxy.cut_after(100_000)

        with pytest.raises(BackendUnavailable) as caught:
            await client.call(0, b"GET", b"k")

        assert caught.value.outcome == "unknown"
        assert await client.call(0, b"GET", b"k") == BIG
        assert proxy.connections >= 2


async def test_idempotent_call_is_repeated_after_a_cut_in_mid_reply(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        await client.call(0, b"SET", b"k", BIG)
        for cut in (1, 9, 65_536, len(BIG)):
            proxy.cut_after(cut)
            assert await client.call(0, b"GET", b"k", idempotent=True) == BIG


async def test_a_connection_that_has_just_ended_is_asked_nothing(backend: Embedded) -> None:
    # Of several start nodes a standalone server is asked for its role, too.
    nodes = ClientSettings.from_url(backend.url).nodes * 2
    async with client_of(backend, nodes=nodes) as client:
        router = client._router
        links = [router.link_to(address) for address in client.topology.masters]
        ended = [link.connection for link in links]
        for connection in ended:
            assert isinstance(connection, RedisConnection)
            connection.close("cut")
        assert not client.healthy
        with trio.move_on_after(0.01):
            await router._refresh()
        for link, connection in zip(links, ended, strict=True):
            link.connection = connection  # as in the moment before its tasks have ended
            for ask in (router._fetch_topology, router._fetch_role):
                with trio.move_on_after(0.01):
                    await ask(link)
        assert [connection.pending for connection in ended if connection is not None] == (
            [0] * len(ended)
        )


async def test_no_increment_is_applied_twice_while_connections_are_cut(
    standalone: Embedded,
) -> None:
    """Every call either counts once, or says that it does not know."""
    counts: dict[bytes, tuple[int, int]] = {}

    async def caller(client: Client, number: int) -> None:
        key, sure, unsure = b"n:%d" % number, 0, 0
        for _ in range(150):
            try:
                await client.call(0, b"INCR", key)
                sure += 1
            except BackendUnavailable as error:
                unsure += error.outcome == "unknown"
        counts[key] = (sure, unsure)

    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:

        async def saboteur() -> None:
            # The first cut is in the middle of a reply: all of them have four bytes by then.
            while True:
                proxy.cut_after(997)
                await eventually(lambda: proxy.cut_made)

        async with trio.open_nursery() as cutting:
            cutting.start_soon(saboteur)
            async with trio.open_nursery() as nursery:
                for number in range(32):
                    nursery.start_soon(caller, client, number)
            cutting.cancel_scope.cancel()

    assert sum(unsure for _, unsure in counts.values()) > 0, "the saboteur hit no caller"
    with standalone.nodes[0].client() as observer:
        for key, (sure, unsure) in counts.items():
            assert sure <= int(observer.get(key) or 0) <= sure + unsure


async def test_client_kill_is_survived_by_idempotent_callers(backend: Embedded) -> None:
    hits = 0

    async def caller(client: Client, number: int) -> None:
        key = b"k:%d" % number
        for step in itertools.count():
            if hits >= 5:
                return
            await client.call(slot_of(key), b"SET", key, step, idempotent=True)
            value = await client.call(slot_of(key), b"GET", key, idempotent=True)
            assert value == b"%d" % step

    def kill_all() -> int:
        """Cut all connections; returns how many of them were the client's."""
        hit = 0
        for node in backend.masters():
            with node.client() as observer:
                before = ours(observer)
                observer.execute_command(  # type: ignore[no-untyped-call]
                    "CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"
                )
                hit += len(before - ours(observer))
        return hit

    def ours(observer: redis.Redis) -> set[str]:
        return {one["id"] for one in observer.client_list() if one["name"] == "under-test"}

    async with (
        client_of(backend, client_name="under-test") as client,
        trio.open_nursery() as nursery,
    ):
        for number in range(32):
            nursery.start_soon(caller, client, number)
        with trio.fail_after(60):
            while hits < 5:
                hits += await in_thread(kill_all)
                await trio.sleep(0.05)


async def test_call_that_was_never_sent_waits_for_the_next_connection(
    standalone: Embedded,
) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        proxy.cut()
        await eventually(lambda: not client.healthy, what="the client noticed")

        assert await client.call(0, b"INCR", b"n") == 1


async def test_node_that_never_answers_is_given_up(standalone: Embedded) -> None:
    settings = functools.partial(settings_for, reply_timeout_s=5.0, call_timeout_s=600.0)
    async with proxied(standalone) as proxy, open_client(settings(proxy.port)) as client:
        proxy.stall()
        with pytest.raises(BackendUnavailable) as caught, trio.fail_after(60):
            await client.call(0, b"INCR", b"n")
        assert caught.value.outcome == "unknown"

        proxy.resume()
        assert await client.call(0, b"INCR", b"n") == 2


async def test_call_timeout_bounds_a_call_that_keeps_failing(standalone: Embedded) -> None:
    limits = {"reply_timeout_s": 1.0, "call_timeout_s": 5.0, "connect_timeout_s": 3.0}
    async with (
        proxied(standalone) as proxy,
        open_client(settings_for(proxy.port, **limits)) as client,
    ):
        proxy.stall()
        with pytest.raises(BackendUnavailable) as caught, trio.fail_after(60):
            await client.call(0, b"GET", b"n", idempotent=True)
        assert caught.value.outcome == "unknown"

        await eventually(lambda: not client.healthy, what="the connection was given up")
        with pytest.raises(BackendUnavailable) as caught, trio.fail_after(60):
            await client.call(0, b"INCR", b"n")
        assert caught.value.outcome == "not_applied"


async def test_a_script_sent_by_its_source_and_never_answered_may_have_been_applied(
    standalone: Embedded,
) -> None:
    """The node did answer the first try: it does not know the script."""
    count = Script("count", b"return redis.call('INCR', KEYS[1])")
    limits = {"reply_timeout_s": 600.0, "call_timeout_s": 5.0}
    with standalone.nodes[0].client() as admin:
        admin.script_flush()
    async with (
        proxied(standalone) as proxy,
        open_client(settings_for(proxy.port, **limits)) as client,
    ):
        proxy.stall_at(b"$4\r\nEVAL\r\n")
        with pytest.raises(BackendUnavailable) as caught, trio.fail_after(60):
            await client.script(0, count, [b"n"], [])
        assert caught.value.outcome == "unknown"

        proxy.resume()
        assert await client.call(0, b"GET", b"n") == b"1"


async def test_call_timeout_bounds_a_wait_behind_slow_replies(standalone: Embedded) -> None:
    """The node does answer, one reply at a time, so only the call's own limit can end it."""
    settings = functools.partial(settings_for, reply_timeout_s=600.0, call_timeout_s=5.0)
    async with proxied(standalone) as proxy, open_client(settings(proxy.port)) as client:
        proxy.stall()
        with pytest.raises(BackendUnavailable) as caught, trio.fail_after(60):
            await client.call(0, b"ECHO", b"late")
        assert caught.value.outcome == "unknown"

        proxy.resume()
        assert await client.call(0, b"ECHO", b"next") == b"next"
        assert proxy.connections == 1


async def test_reply_over_the_limit_is_refused_and_the_client_goes_on(
    standalone: Embedded,
) -> None:
    async with client_of(standalone, max_reply_bytes=128 * 1024) as client:
        await client.call(0, b"SET", b"big", BIG)
        for _ in range(100):
            await client.call(0, b"RPUSH", b"list", *[b"y" * 500] * 10)

        with pytest.raises(ReplyTooLarge):
            await client.call(0, b"GET", b"big")
        with pytest.raises(ReplyTooLarge):
            await client.call(0, b"LRANGE", b"list", 0, -1, idempotent=True)
        assert await client.call(0, b"GETRANGE", b"big", 0, 9) == b"x" * 10


async def test_many_small_replies_in_one_read_are_not_a_large_one(standalone: Embedded) -> None:
    async with client_of(standalone, max_reply_bytes=64 * 1024) as client:
        await client.call(0, b"SET", b"k", b"z" * 8_000)

        async def caller() -> None:
            for _ in range(20):
                assert await client.call(0, b"STRLEN", b"k") == 8_000
                assert len(await client.call(0, b"GET", b"k")) == 8_000  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(caller)


async def test_commands_in_flight_are_bounded_and_the_rest_wait_their_turn(
    standalone: Embedded,
) -> None:
    answered = 0

    async def caller(client: Client) -> None:
        nonlocal answered
        await client.call(0, b"ECHO", b"bounded")
        answered += 1

    settings = functools.partial(settings_for, max_in_flight=4)
    async with proxied(standalone) as proxy, open_client(settings(proxy.port)) as client:
        proxy.stall()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(caller, client)
            await eventually(lambda: proxy.received.count(b"bounded") == 4)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert proxy.received.count(b"bounded") == 4

            proxy.resume()
    assert answered == 50


async def test_closing_the_client_wakes_callers_outside_of_it(standalone: Embedded) -> None:
    outcomes: list[str] = []

    async def caller(client: Client) -> None:
        try:
            await client.call(0, b"ECHO", b"x")
        except BackendUnavailable as error:
            outcomes.append(error.outcome)

    async with proxied(standalone) as proxy, trio.open_nursery() as nursery:
        async with open_client(settings_for(proxy.port, max_in_flight=1)) as client:
            proxy.stall()
            for _ in range(2):
                nursery.start_soon(caller, client)
            await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(60):
            await eventually(lambda: len(outcomes) == 2)
            await caller(client)

    assert sorted(outcomes) == ["not_applied", "not_applied", "unknown"]


async def test_full_memory_is_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False, config={"maxmemory": "1"}) as server:
        async with client_of(server, call_timeout_s=600) as client:
            with trio.fail_after(60), pytest.raises(BackendUnavailable, match="OOM") as caught:
                await client.call(0, b"SET", b"k", 1)
            assert caught.value.outcome == "not_applied"
            assert await client.call(0, b"GET", b"k") is None


async def test_a_refusal_does_not_hide_that_an_earlier_try_was_sent(standalone: Embedded) -> None:
    """The first try is applied and its reply lost; then the server is full and refuses it."""
    async with (
        proxied(standalone) as proxy,
        open_client(settings_for(proxy.port, call_timeout_s=600)) as client,
        trio.open_nursery() as nursery,
    ):
        proxy.stall()
        outcomes: list[str] = []

        async def caller() -> None:
            with pytest.raises(BackendUnavailable, match="OOM") as caught:
                await client.call(0, b"SET", b"n", 1, idempotent=True)
            outcomes.append(caught.value.outcome)

        nursery.start_soon(caller)
        with standalone.nodes[0].client() as admin:
            await eventually(lambda: bool(admin.exists("n")), what="the first try is applied")
            admin.config_set("maxmemory", 1)
            try:
                proxy.cut()
                proxy.resume()
                await eventually(lambda: bool(outcomes), what="the second try is refused")
            finally:
                admin.config_set("maxmemory", 0)
        assert outcomes == ["unknown"]


async def test_paused_process_does_not_take_unread_replies_for_silence(
    standalone: Embedded,
) -> None:
    """Replies that came while this process stood still are answers, however late it is."""
    async with client_of(standalone, reply_timeout_s=4.0, call_timeout_s=60) as client:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, 0, b"INCR", b"n")
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                time.sleep(4.5)  # noqa: ASYNC251 - the pause of the whole process
        assert await client.call(0, b"INCR", b"n") == 3


async def test_loss_and_return_of_a_node_are_logged_once_each(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ojs.redis")
    async with proxied(standalone) as proxy:
        settings = settings_for(proxy.port, connect_timeout_s=3.0)
        async with open_client(settings) as client:
            await outage(proxy, client)

    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "is not connected: " in line]) == 1
    assert len([line for line in lines if line.endswith("is connected")]) == 2


async def test_each_loss_of_a_node_is_logged(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="ojs.redis")
    async with proxied(standalone) as proxy:
        settings = settings_for(proxy.port, connect_timeout_s=3.0)
        async with open_client(settings) as client:
            await outage(proxy, client)
            await outage(proxy, client)

    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "is not connected: " in line]) == 2


async def outage(proxy: Proxy, client: Client) -> None:
    """The node goes away, is tried again some times, and comes back."""
    proxy.stall()
    proxy.cut()
    connections = proxy.connections
    await eventually(lambda: proxy.connections >= connections + 3, what="some retries")
    proxy.resume()
    await eventually(lambda: client.healthy, what="the node is back")
