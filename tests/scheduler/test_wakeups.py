"""Announcements reach the loops of the present term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio
from trio.testing import MockClock

from ojs_scheduler.wakeups import Wakeups


@dataclass(frozen=True)
class FakeChannel:
    index: int
    slot: int
    schedule_channel: bytes


@dataclass
class FakeSubscriber:
    refuse: int = 0
    subscribed: dict[bytes, tuple[Callable[[bytes], None], Callable[[], None]]] = field(
        default_factory=dict
    )

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            self.refuse -= 1
            raise OSError("no node for this slot")
        self.subscribed[channel] = (on_message, on_gap)

    async def unsubscribe(self, channel: bytes) -> None:
        await trio.lowlevel.checkpoint()
        del self.subscribed[channel]


@dataclass
class Ear:
    heard: list[tuple[int, int]] = field(default_factory=list)
    rung: list[int] = field(default_factory=list)

    def on_deadline(self, shard: int, due_ms: int) -> None:
        self.heard.append((shard, due_ms))

    def wake(self, shard: int) -> None:
        self.rung.append(shard)


CHANNELS = [FakeChannel(i, i * 100, b"sched%d" % i) for i in range(3)]


async def test_announcements_reach_every_listener_of_the_term(autojump_clock: MockClock) -> None:
    redis = FakeSubscriber()
    wakeups = Wakeups(redis, CHANNELS, random=Random(1))
    first, second, later = Ear(), Ear(), Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeups.run)
        await trio.sleep(0.1)
        with wakeups.forwarded_to(first, second):
            redis.subscribed[b"sched1"][0](b"1700000000123")
            redis.subscribed[b"sched2"][1]()
        redis.subscribed[b"sched1"][0](b"1700000000456")
        with wakeups.forwarded_to(later):
            redis.subscribed[b"sched0"][0](b"1700000000789")
        nursery.cancel_scope.cancel()
    assert first.heard == second.heard == [(1, 1700000000123)]
    assert first.rung == second.rung == [2]
    assert later.heard == [(0, 1700000000789)]
    assert redis.subscribed == {}


async def test_a_subscription_that_fails_is_tried_again_and_wakes_the_loops(
    autojump_clock: MockClock,
) -> None:
    redis = FakeSubscriber(refuse=7)
    wakeups = Wakeups(redis, CHANNELS, random=Random(1))
    ear = Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeups.run)
        with wakeups.forwarded_to(ear):
            await trio.sleep(5)
        assert sorted(redis.subscribed) == [c.schedule_channel for c in CHANNELS]
        nursery.cancel_scope.cancel()
    assert sorted(ear.rung) == [0, 1, 2]


async def test_a_message_that_is_no_time_wakes_the_shard(autojump_clock: MockClock) -> None:
    redis = FakeSubscriber()
    wakeups = Wakeups(redis, CHANNELS, random=Random(1))
    ear = Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeups.run)
        await trio.sleep(0.1)
        with wakeups.forwarded_to(ear):
            redis.subscribed[b"sched1"][0](b"soon")
        nursery.cancel_scope.cancel()
    assert (ear.heard, ear.rung) == ([], [1])
