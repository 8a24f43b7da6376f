"""Cancelled callers: their replies vanish, everybody else's stay in order."""

from __future__ import annotations

import functools
import random

import trio
import trio.testing

from ojs_cluster.redis import Client, open_client
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import client_of, eventually, proxied, settings_for, slot_of


async def test_reply_of_a_cancelled_caller_goes_to_nobody_else(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        proxy.stall()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, 0, b"ECHO", b"cancelled")
                await eventually(lambda: b"cancelled" in proxy.received)
                scope.cancel()

        replies: list[object] = []

        async def caller(token: bytes) -> None:
            replies.append((token, await client.call(0, b"ECHO", token)))

        async with trio.open_nursery() as nursery:
            for token in (b"a", b"b", b"c"):
                nursery.start_soon(caller, token)
            await trio.testing.wait_all_tasks_blocked(0.02)
            proxy.resume()

        assert sorted(replies) == [(b"a", b"a"), (b"b", b"b"), (b"c", b"c")]  # type: ignore[type-var]
        assert proxy.connections == 1


async def test_call_cancelled_before_it_was_sent_is_never_sent(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call(0, b"INCR", b"never")
        assert await client.call(0, b"ECHO", b"after") == b"after"

        assert b"after" in proxy.received
        assert b"never" not in proxy.received


async def test_cancelled_waiters_do_not_use_up_the_places(standalone: Embedded) -> None:
    settings = functools.partial(settings_for, max_in_flight=2)
    async with proxied(standalone) as proxy, open_client(settings(proxy.port)) as client:
        proxy.stall()
        for _ in range(3):
            with trio.move_on_after(0.02):
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(client.call, 0, b"PING")
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call(0, b"PING")
        proxy.resume()
        with trio.fail_after(60):
            for _ in range(10):
                assert await client.call(0, b"PING") == b"PONG"


async def test_places_freed_by_callers_cancelled_in_the_queue_are_given_on(
    standalone: Embedded,
) -> None:
    """All places are taken by calls that are never sent: no reply will ever make room."""
    async with client_of(standalone, max_in_flight=4) as client:
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(client.call, 0, b"PING")
            with trio.fail_after(60):
                assert await client.call(0, b"PING") == b"PONG"


async def test_random_cancellation_never_mixes_replies(backend: Embedded) -> None:
    mixed = 0
    cancelled = 0

    async def caller(client: Client, seed: int) -> None:
        nonlocal mixed, cancelled
        chance = random.Random(seed)
        for step in range(150):
            token = b"%d:%d" % (seed, step)
            # A quarter is cancelled at once, on any machine; others where the reply may be near.
            with trio.move_on_after(chance.choice([0, 0.0005, 0.002, 60])) as scope:
                if await client.call(slot_of(token), b"ECHO", token) != token:
                    mixed += 1
            cancelled += scope.cancelled_caught

    async with client_of(backend) as client, trio.open_nursery() as nursery:
        for seed in range(64):
            nursery.start_soon(caller, client, seed)

    assert mixed == 0
    assert cancelled > 100


async def test_cancelled_caller_during_a_lost_connection(standalone: Embedded) -> None:
    async with proxied(standalone) as proxy, open_client(settings_for(proxy.port)) as client:
        proxy.stall()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, 0, b"ECHO", b"x")
            await eventually(lambda: b"ECHO" in proxy.received)
            nursery.cancel_scope.cancel()
        proxy.cut()
        proxy.resume()
        await eventually(lambda: proxy.connections == 2)
        assert await client.call(0, b"ECHO", b"y") == b"y"
