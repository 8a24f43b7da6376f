"""Sharded pub/sub: messages, gaps, and subscriptions that follow their slots."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, RedisReplyError, open_client
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import (
    client_of,
    eventually,
    in_thread,
    key_on,
    proxied,
    settings_for,
    slot_of,
)
from tests.redis.slots import Mover
from tests.support.servers import own_server


class Ear:
    """A subscriber that records every message."""

    def __init__(self, client: Client, channel: bytes) -> None:
        self.messages: list[bytes] = []
        self.gaps = 0
        self.channel = channel
        self.slot = slot_of(channel)
        self._client = client

    async def open(self) -> None:
        await self._client.subscribe(self.channel, self.slot, self.messages.append, self._gap)

    async def say(self, message: bytes) -> int:
        """Publish; returns the number of receivers on the node that serves the channel."""
        reply = await self._client.call(self.slot, b"SPUBLISH", self.channel, message)
        assert isinstance(reply, int)
        return reply

    def _gap(self) -> None:
        self.gaps += 1


def kill_pubsub(backend: Embedded) -> None:
    """Cut every pub/sub connection at its server."""
    for node in backend.masters():
        with node.client() as observer:
            observer.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")  # type: ignore[no-untyped-call]


async def test_messages_arrive_in_order_at_their_channel_only(backend: Embedded) -> None:
    async with client_of(backend) as client:
        ears = [Ear(client, b"channel:%d" % n) for n in range(12)]
        for ear in ears:
            await ear.open()
        for step in range(20):
            for ear in ears:
                assert await ear.say(b"%s %d" % (ear.channel, step)) == 1
        await eventually(lambda: all(len(ear.messages) == 20 for ear in ears))

        for ear in ears:
            assert ear.messages == [b"%s %d" % (ear.channel, step) for step in range(20)]
            assert ear.gaps == 0


async def test_published_right_after_subscribe_returned_is_heard(backend: Embedded) -> None:
    async with client_of(backend) as client:
        for n in range(50):
            ear = Ear(client, b"c:%d" % n)
            await ear.open()
            assert await ear.say(b"first") == 1


async def test_unsubscribed_channel_is_silent_and_can_be_opened_again(backend: Embedded) -> None:
    async with client_of(backend) as client:
        ear = Ear(client, b"on-off")
        for _ in range(5):
            await ear.open()
            await ear.say(b"on")
            await eventually(lambda: len(ear.messages) > 0)
            await client.unsubscribe(ear.channel)
            ear.messages.clear()
            await ear.say(b"off")
        await eventually_receivers(ear, 0)
        assert ear.messages == []
        assert ear.gaps == 0
        await client.unsubscribe(b"never subscribed")


async def eventually_receivers(ear: Ear, count: int) -> None:
    """Publish until the server counts ``count`` receivers."""
    with trio.fail_after(60):
        while await ear.say(b"?") != count:  # noqa: ASYNC110 - the server has no event for it
            await trio.sleep(0.01)


async def test_second_subscription_of_a_channel_is_refused(standalone: Embedded) -> None:
    async with client_of(standalone) as client:
        await Ear(client, b"twice").open()
        with pytest.raises(ValueError, match="already"):
            await Ear(client, b"twice").open()


async def test_killed_connection_is_replaced_and_the_gap_told(backend: Embedded) -> None:
    async with client_of(backend) as client:
        ears = [Ear(client, b"channel:%d" % n) for n in range(12)]
        for ear in ears:
            await ear.open()
        for kills in (1, 2):
            await in_thread(kill_pubsub, backend)
            await eventually(lambda kills=kills: all(ear.gaps == kills for ear in ears))  # type: ignore[misc]
            # Told after the new subscription is in force: nothing said from now on is missed.
            for ear in ears:
                assert await ear.say(b"again") == 1


async def test_silent_server_is_noticed_and_the_gap_told(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy:
        settings = settings_for(proxy.port, reply_timeout_s=5.0)
        async with open_client(settings) as client:
            ear = Ear(client, b"quiet")
            await ear.open()
            before = proxy.connections
            await trio.sleep(6.0)
            assert (proxy.connections, ear.gaps) == (before, 0), (
                "an idle connection counted as dead"
            )

            proxy.stall()
            await eventually(lambda: proxy.connections > before)
            proxy.resume()
            await eventually(lambda: ear.gaps == 1)
            assert await ear.say(b"x") == 1


async def test_subscription_that_nobody_confirms_ends_with_the_calls_time(
    standalone: Embedded,
) -> None:
    settings = functools.partial(settings_for, call_timeout_s=5.0)
    async with proxied(standalone) as proxy, open_client(settings(proxy.port)) as client:
        proxy.stall()
        ear = Ear(client, b"late")
        with pytest.raises(BackendUnavailable) as caught:
            await ear.open()
        assert caught.value.outcome == "not_applied"

        proxy.resume()
        await eventually(lambda: client.healthy)
        await eventually_receivers(ear, 0)
        await ear.open()
        assert await ear.say(b"now") == 1


async def test_forbidden_channel_is_refused_at_once(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server:
        with server.nodes[0].client() as admin:
            admin.execute_command(  # type: ignore[no-untyped-call]
                "ACL", "SETUSER", "ann", "on", ">pw", "~*", "resetchannels", "&ok", "+@all"
            )
        port = server.nodes[0].port
        async with open_client(settings_for(port, username="ann", password="pw")) as client:
            await Ear(client, b"ok").open()
            with pytest.raises(RedisReplyError) as caught:
                await Ear(client, b"secret").open()
            assert caught.value.code == "NOPERM"
            assert await Ear(client, b"ok").say(b"x") == 1


async def test_a_revoked_channel_is_requested_with_growing_delays_until_it_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ojs.redis")
    with own_server(tmp_path, cluster=False) as server, server.nodes[0].client() as admin:

        def acl(*rules: str) -> None:
            admin.execute_command("ACL", "SETUSER", "ann", *rules)  # type: ignore[no-untyped-call]

        def refused() -> int:
            calls = admin.info("commandstats").get("cmdstat_ssubscribe", {})
            return int(calls.get("rejected_calls", 0))

        acl("on", ">pw", "~*", "&*", "+@all")
        port = server.nodes[0].port
        async with open_client(settings_for(port, username="ann", password="pw")) as client:
            ears = [Ear(client, b"channel:%d" % n) for n in range(8)]
            for ear in ears:
                await ear.open()
            acl("resetchannels")  # the server hangs up, too
            await eventually(lambda: refused() >= 2 * len(ears))
            before = refused()
            await trio.sleep(2)
            # Delays of 0.1 s and more, doubling: about four in two seconds.
            assert refused() - before <= 8 * len(ears)
            acl("allchannels")
            await eventually(lambda: all(ear.gaps >= 1 for ear in ears))
            for ear in ears:
                await eventually_receivers(ear, 1)
            await eventually(lambda: "accepts all channels again" in caplog.messages[-1])
    warnings = [r for r in caplog.records if r.levelname == "WARNING" and "refuses" in r.message]
    assert len(warnings) == 1
    assert "NOPERM" in warnings[0].message


async def test_subscription_follows_its_slot(tmp_path: Path) -> None:
    with own_server(tmp_path) as servers:
        mover = Mover(servers)
        async with client_of(servers) as client:
            ears = [Ear(client, key_on(servers, 0, b"ear%d" % n)) for n in range(4)]
            for ear in ears:
                await ear.open()
            for turn in range(1, 5):
                source, target = mover.masters[(turn - 1) % 3], mover.masters[turn % 3]
                for ear in ears:
                    await in_thread(mover.move, ear.slot, source, target)
                await eventually(lambda turn=turn: all(ear.gaps >= turn for ear in ears))  # type: ignore[misc]
                for ear in ears:
                    await eventually_receivers(ear, 1)
                    ear.messages.clear()
                    await ear.say(b"turn %d" % turn)
                    await eventually(lambda ear=ear: ear.messages != [])  # type: ignore[misc]


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Embedded]:
    """Three masters with a replica each, to be killed."""
    with own_server(tmp_path, replicas=1, node_timeout_ms=5000) as servers:
        yield servers


@pytest.mark.parametrize("way", ["kill", "pause"])
async def test_subscription_moves_to_the_promoted_replica(replicated: Embedded, way: str) -> None:
    # A paused node is noticed by its silence, which others must not be taken for on a busy machine.
    silence_s = 10.0 if way == "pause" else 60.0
    async with (
        client_of(replicated, reply_timeout_s=silence_s, call_timeout_s=120.0) as client,
        client_of(replicated, reply_timeout_s=60.0, call_timeout_s=120.0) as patient,
    ):
        ears = [
            Ear(client if index == 0 else patient, key_on(replicated, index)) for index in range(3)
        ]
        for ear in ears:
            await ear.open()

        await in_thread(getattr(replicated, way), replicated.nodes[0])
        await eventually(lambda: ears[0].gaps >= 1)
        assert [ear.gaps for ear in ears[1:]] == [0, 0]
        with trio.fail_after(60):
            while b"hello" not in ears[0].messages:
                try:
                    await ears[0].say(b"hello")
                except BackendUnavailable as error:
                    assert error.outcome == "unknown"  # noqa: PT017 - allowed once, see failover
                await trio.sleep(0.01)
        if way == "pause":
            replicated.resume(replicated.nodes[0])


async def test_a_subscriber_cancelled_at_any_moment_can_subscribe_again(backend: Embedded) -> None:
    async with client_of(backend) as client:
        for number in range(200):
            ear = Ear(client, b"channel%d" % number)
            # Confirmations take a few ms: some of these end in the moment of the confirmation.
            with trio.move_on_after(number % 50 / 5000) as scope:
                await ear.open()
            if scope.cancelled_caught:
                await ear.open()
            await client.unsubscribe(ear.channel)
