"""Feeds: what each of several followers gets and loses, and what stays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.store.features.events.fan_out import FanOut
from ojs_cluster.store.features.events.feed import BufferBudget, Dropped, Feed, Follower
from ojs_cluster.store.features.events.loop_share import LoopShare
from ojs_cluster.store.features.events.new_event import NewEvent
from ojs_cluster.store.features.events.readers import ReaderPool, Readers
from ojs_cluster.store.features.events.subscriber import Channel, Item, Subscription


class Plain:
    """Encodes an event as its id."""

    def __init__(self) -> None:
        self.reached: dict[int, bytes] = {}
        self.ended = False
        self.framed = 0

    def messages(self, _subscription: Subscription, item: Item) -> list[bytes]:
        assert isinstance(item, NewEvent)
        return [item.event_id]

    def dropped(self, _position: bytes, dropped: Iterable[Dropped], _at_ms: int) -> list[bytes]:
        return [
            b"%b: %d, %b to %b" % (one.channel.encode(), one.count, one.oldest, one.newest)
            for one in dropped
        ]

    def frame(self, messages: Sequence[bytes]) -> bytes:
        self.framed += 1
        return b",".join(messages)


class Line:
    """A connection that takes a number of pieces."""

    def __init__(self, pieces: int = 1_000_000) -> None:
        self.can_send_now = True
        self.got: list[bytes] = []
        self.pieces = pieces

    def send_now(self, data: bytes) -> bool:
        self.got.append(data)
        self.pieces -= 1
        return self.pieces >= 0

    def end_sends(self, deadline: float) -> None:
        raise AssertionError(deadline)


ALL = Subscription(Channel("all", "all"))
QUEUE = Subscription(Channel("queue:q", "queue", "q"))


def event(number: int) -> NewEvent:
    after = (number, 0, None)
    return NewEvent("job.enqueued", 0, after, after, b"%d" % number, b"{}", False, False)


def make_feed(max_events: int = 3) -> tuple[Feed, Plain]:
    encoder = Plain()
    budget = BufferBudget(1 << 20, max_events)
    return Feed("x", encoder, Readers(ReaderPool()), budget, lambda _feed: None, int), encoder


def follower_of(feed: Feed) -> Follower:
    follower = Follower()
    follower.follow(feed)
    return follower


def taken(follower: Follower) -> list[bytes]:
    found: list[bytes] = []
    while follower.is_behind:
        found += follower.next_piece().messages
    return found


async def test_each_follower_loses_its_own_oldest_events() -> None:
    feed, _ = make_feed()
    early, late, quick = follower_of(feed), follower_of(feed), follower_of(feed)
    for number in range(1, 3):
        feed.add(ALL, event(number))
        assert taken(quick) == [b"%d" % number]
    assert taken(late) == [b"1", b"2"]
    for number in range(3, 8):
        feed.add(QUEUE if number % 2 else ALL, event(number))
        assert taken(quick) == [b"%d" % number]
    assert taken(early) == [b"all: 3, 1 to 4", b"queue:q: 1, 3 to 3", b"5", b"6", b"7"]
    assert taken(late) == [b"queue:q: 1, 3 to 3", b"all: 1, 4 to 4", b"5", b"6", b"7"]
    feed.add(ALL, event(8))
    assert [taken(one) for one in (early, late, quick)] == [[b"8"]] * 3


async def test_events_that_all_have_got_are_freed() -> None:
    feed, _ = make_feed()
    one, two = follower_of(feed), follower_of(feed)
    for number in range(1, 7):
        feed.add(ALL, event(number))
    assert (len(feed._waiting), taken(one)[-1]) == (3, b"6")
    assert len(feed._waiting) == 3
    two.leave()
    assert (len(feed._waiting), feed._bytes, len(feed._losers)) == (0, 0, 0)
    one.leave()
    feed.add(ALL, event(7))
    assert (len(feed._waiting), feed._bytes) == (0, 0)


async def test_followers_share_the_bytes_of_a_piece() -> None:
    feed, encoder = make_feed()
    lines = [Line() for _ in range(10)]
    followers = [follower_of(feed) for _ in lines]
    for follower, line in zip(followers, lines, strict=True):
        follower.output = line
    for number in range(1, 6):
        feed.add(ALL, event(number))
    for follower in followers:
        follower.push()
    assert encoder.framed == 1
    assert lines[0].got == [b"all: 2, 1 to 2,3,4,5"]
    assert all(line.got[0] is lines[0].got[0] for line in lines)


async def test_the_fan_out_waits_for_a_client_that_has_not_got_everything(
    autojump_clock: MockClock,
) -> None:
    fan_out = FanOut()
    feed = Feed("x", Plain(), Readers(ReaderPool()), BufferBudget(1 << 20, 9), fan_out.add, int)
    follower, line = follower_of(feed), Line(pieces=0)
    follower.output = line
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fan_out.run)
        nursery.start_soon(follower.wait, 3600.0)
        await trio.sleep(1)
        feed.add(ALL, event(1))
        await trio.sleep(1)
        feed.add(ALL, event(2))
        await trio.sleep(1)
        assert line.got == [b"1"]
        line.pieces = 1
        nursery.start_soon(follower.wait, 3600.0)
        await trio.sleep(1)
        assert line.got == [b"1", b"2"]
        nursery.cancel_scope.cancel()


async def test_work_gets_its_part_of_the_time(autojump_clock: MockClock) -> None:
    share = LoopShare(0.1)
    await trio.sleep(100)
    began, worked = trio.current_time(), 0.0

    async def work() -> None:
        nonlocal worked
        for _ in range(100):
            worked += 0.001
            await share.spend(0.001)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    took = trio.current_time() - began
    assert worked == pytest.approx(0.4)
    assert took == pytest.approx(4.0, abs=0.05)
