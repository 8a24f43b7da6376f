"""One connection's bookkeeping, over a transport that the test controls to the byte."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ojs_cluster.redis import client
from ojs_cluster.redis.connection import BURST, RedisConnection, pack
from ojs_cluster.redis.errors import (
    CommandNotSent,
    OversizedReply,
    RedisReplyError,
    ReplyFailure,
    ReplyLost,
)
from ojs_cluster.redis.reply_waiters import Answer, CoarseClock
from ojs_cluster.redis.silent_nodes import IMPATIENT_S


class MemoryTransport:
    """A transport in memory: it records what is sent, and receives what the test says.

    ``takes`` says how many bytes it takes at once, send after send, then none; None is a transport
    that cannot send without waiting.
    """

    def __init__(self, takes: list[int] | None = None) -> None:
        self.can_send_now = takes is not None
        self._takes = list(takes or [])
        self.sent: list[bytes] = []
        self.closed = False
        self.blocked = False
        self._to_read, self._said = trio.open_memory_channel[bytes](math.inf)

    def say(self, data: bytes) -> None:
        self._to_read.send_nowait(data)

    async def receive(self) -> bytes:
        try:
            return await self._said.receive()
        except trio.EndOfChannel:
            return b""

    async def send(self, data: bytes) -> None:
        self.sent.append(data)
        if self.blocked:
            await trio.sleep_forever()

    def send_now(self, data: bytes) -> int:
        taken = min(self._takes.pop(0), len(data)) if self._takes else 0
        self.sent.append(data[:taken])
        return taken

    def close(self) -> None:
        self.closed = True
        self._to_read.close()


class Rig:
    """A running connection and its callers."""

    def __init__(
        self, nursery: trio.Nursery, takes: list[int] | None = None, **limits: int
    ) -> None:
        self.transport = MemoryTransport(takes)
        self.clock = CoarseClock()
        chosen = {"max_in_flight": 1000, "max_reply_bytes": 1_000_000} | limits
        self.connection = RedisConnection(self.transport, self.clock, name="test", **chosen)
        self.answers: dict[int, Answer] = {}
        self.end: str | None = None
        self.nursery = nursery

    def advance(self, seconds: float) -> None:
        """Let time pass in which the process reads its connections."""
        self.clock.now += seconds
        self.clock.attentive += seconds

    async def run(self) -> None:
        self.end = await self.connection.run()

    def call(self, number: int) -> None:
        self.nursery.start_soon(self._call, number)

    async def _call(self, number: int) -> None:
        self.answers[number] = await self.connection.execute(pack((b"ECHO", number)))


@asynccontextmanager
async def rigged(takes: list[int] | None = None, **limits: int) -> AsyncIterator[Rig]:
    """A connection on a wire, all tasks idle."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, takes, **limits)
        nursery.start_soon(rig.run)
        await trio.testing.wait_all_tasks_blocked()
        yield rig
        nursery.cancel_scope.cancel()


async def test_who_fills_a_burst_sends_it_and_the_writer_what_is_left() -> None:
    async with rigged(takes=[10_000] * 64) as rig:
        for number in range(BURST * 3 + 2):
            rig.call(number)
        await trio.testing.wait_all_tasks_blocked()

        assert [data.count(b"ECHO") for data in rig.transport.sent] == [BURST, BURST, BURST, 2]


async def test_nothing_overtakes_what_the_writer_still_sends() -> None:
    async with rigged(takes=[10_000] * 64) as rig:
        rig.transport.blocked = True
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, BURST * 2):
            rig.call(number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.transport.sent) == 1

        rig.transport.close()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(rig.answers.pop(0), ReplyLost)
        assert len(rig.answers) == BURST * 2 - 1
        assert all(isinstance(answer, CommandNotSent) for answer in rig.answers.values())


async def test_commands_of_all_callers_leave_in_one_send_where_sends_have_to_wait() -> None:
    async with rigged() as rig:
        for number in range(64):
            rig.call(number)
        await trio.testing.wait_all_tasks_blocked()

        assert len(rig.transport.sent) == 1
        assert rig.transport.sent[0].count(b"ECHO") == 64


async def test_reply_in_single_bytes_is_put_together() -> None:
    async with rigged() as rig:
        rig.call(0)
        rig.call(1)
        await trio.testing.wait_all_tasks_blocked()
        order = (
            [0, 1]
            if rig.transport.sent[0].index(b"\r\n0") < rig.transport.sent[0].index(b"\r\n1\r")
            else [1, 0]
        )
        for byte in b"*2\r\n$1\r\na\r\n:5\r\n+OK\r\n":
            rig.transport.say(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()

        assert [rig.answers[n] for n in order] == [[b"a", 5], b"OK"]


READS = b"".join(pack((b"ECHO", number)) for number in range(3))


async def test_a_caller_of_several_reads_gets_the_failure_for_those_without_an_answer() -> None:
    async with rigged() as rig:
        batches = [rig.connection.submit_reads(READS, 3) for _ in range(2)]
        for batch in batches:
            rig.nursery.start_soon(batch.wait)
        await trio.testing.wait_all_tasks_blocked()
        for said in (b"$1\r\n0\r\n-NO\r\n$-1\r\n", b"$1\r\n0\r\n"):
            rig.transport.say(said)
            await trio.testing.wait_all_tasks_blocked()
        rig.transport.close()
        await trio.testing.wait_all_tasks_blocked()
    (first, error, last), second = (batch.answers for batch in batches)
    assert (first, last) == (b"0", None)
    assert isinstance(error, RedisReplyError)
    assert second[0] == b"0"
    assert [type(answer) for answer in second[1:]] == [ReplyLost, ReplyLost]


async def test_reads_end_when_the_node_is_silent_and_their_late_replies_are_dropped() -> None:
    async with rigged() as rig:
        batch = rig.connection.submit_reads(READS, 3)
        rig.nursery.start_soon(batch.wait)
        await trio.testing.wait_all_tasks_blocked()
        rig.call(0)
        rig.transport.say(b"$1\r\n0\r\n")
        await trio.testing.wait_all_tasks_blocked()
        rig.advance(IMPATIENT_S)
        rig.connection.check(5.0, 60.0)
        assert not batch.complete, "the node has answered not too long ago"
        rig.advance(0.1)
        assert not rig.connection.ready
        rig.connection.check(5.0, 60.0)
        assert [type(answer) for answer in batch.answers] == [bytes, ReplyLost, ReplyLost]

        rig.transport.say(b"$1\r\n1\r\n$1\r\n2\r\n+yours\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.answers[0] == b"yours"
        assert len(batch.answers) == 3
        assert rig.connection.ready


async def test_reads_wait_for_a_full_connection_unless_its_node_is_silent_or_gone() -> None:
    async with rigged(max_in_flight=1) as rig:
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.connection.full
        rig.advance(IMPATIENT_S + 0.1)
        with trio.fail_after(60):
            await client._wait_until_not_full({rig.connection})
            assert not rig.connection.ready
            rig.transport.close()
            await trio.testing.wait_all_tasks_blocked()
            await client._wait_until_not_full({rig.connection})
        assert not rig.connection.ready


async def test_a_process_that_is_late_blames_no_node() -> None:
    """While it does not read, replies may be in its socket buffers."""
    async with rigged() as rig:
        batch = rig.connection.submit_reads(READS, 3)
        await trio.testing.wait_all_tasks_blocked()
        rig.clock.now += 30.0
        rig.connection.check(5.0, 60.0)
        assert rig.connection.open
        assert rig.connection.ready
        assert not batch.complete


async def test_message_that_nobody_asked_for_ends_the_connection() -> None:
    async with rigged() as rig:
        rig.transport.say(b"+surprise\r\n")
        await trio.testing.wait_all_tasks_blocked()

        assert not rig.connection.open
        assert rig.transport.closed
        assert rig.end is not None
        assert "protocol error" in rig.end


async def test_one_reply_too_many_fails_nobody_who_was_answered() -> None:
    async with rigged() as rig:
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        rig.transport.say(b"+mine\r\n+surprise\r\n")
        await trio.testing.wait_all_tasks_blocked()

        assert rig.answers[0] == b"mine"
        assert not rig.connection.open


async def test_end_tells_sent_commands_from_unsent_ones() -> None:
    async with rigged() as rig:
        rig.transport.blocked = True
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        rig.call(1)  # the writer is still busy with the first
        await trio.testing.wait_all_tasks_blocked()
        rig.transport.close()
        await trio.testing.wait_all_tasks_blocked()

        assert isinstance(rig.answers[0], ReplyLost)
        assert isinstance(rig.answers[1], CommandNotSent)
        assert rig.connection.pending == 0


async def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    async with rigged() as rig:
        rig.advance(100.0)
        rig.call(0)
        rig.call(1)
        await trio.testing.wait_all_tasks_blocked()
        rig.advance(4.0)
        rig.connection.check(5.0, 60.0)
        assert rig.connection.open, "unanswered for only 4 s, after a long idle time"
        rig.transport.say(b"$100\r\npart of a reply")
        await trio.testing.wait_all_tasks_blocked()
        rig.advance(4.0)
        rig.connection.check(5.0, 60.0)
        assert rig.connection.open, "it said something 4 s ago"

        rig.advance(1.5)
        rig.connection.check(5.0, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        assert not rig.connection.open
        assert all(isinstance(answer, ReplyLost) for answer in rig.answers.values())


async def test_idle_connection_may_be_silent_permanently() -> None:
    async with rigged() as rig:
        rig.advance(1e6)
        rig.connection.check(5.0, 10.0)
        assert rig.connection.open


async def test_expired_caller_leaves_and_its_late_reply_is_dropped() -> None:
    async with rigged() as rig:
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        rig.clock.now += 6.0
        rig.call(1)
        await trio.testing.wait_all_tasks_blocked()
        rig.clock.now += 5.0
        rig.connection.check(60.0, 10.0)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(rig.answers[0], ReplyLost)
        assert 1 not in rig.answers

        rig.transport.say(b"+late\r\n+yours\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.answers[1] == b"yours"


async def test_too_large_reply_is_blamed_on_its_own_command() -> None:
    async with rigged(max_reply_bytes=100) as rig:
        for number in range(3):
            rig.call(number)
            await trio.testing.wait_all_tasks_blocked()
        rig.transport.say(b"+fine\r\n$1000\r\n" + b"x" * 60)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.connection.open
        rig.transport.say(b"x" * 60)
        await trio.testing.wait_all_tasks_blocked()

        assert rig.answers[0] == b"fine"
        assert isinstance(rig.answers[1], OversizedReply)
        assert isinstance(rig.answers[2], ReplyLost)


async def test_array_that_grows_in_small_pieces_is_limited_too() -> None:
    """The parser takes finished elements out of its buffer, so its length says nothing."""
    async with rigged(max_reply_bytes=10_000) as rig:
        rig.call(0)
        await trio.testing.wait_all_tasks_blocked()
        rig.transport.say(b"*1000000\r\n")
        for _ in range(30):
            rig.transport.say(b"$2\r\nab\r\n" * 100)
        await trio.testing.wait_all_tasks_blocked()

        assert isinstance(rig.answers[0], OversizedReply)


async def test_full_connection_lets_in_as_many_as_were_answered() -> None:
    async with rigged(max_in_flight=3) as rig:
        for number in range(3):
            rig.call(number)
            await trio.testing.wait_all_tasks_blocked()
        assert rig.connection.full
        let_in: list[int] = []

        async def wait(number: int) -> None:
            await rig.connection.wait_until_not_full()
            let_in.append(number)

        for number in range(5):
            rig.nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        rig.transport.say(b"+1\r\n+2\r\n")
        await trio.testing.wait_all_tasks_blocked()

        assert sorted(let_in) == [0, 1], "first come, first served"
        assert not rig.connection.full

        # Neither of the two took its place, so no reply will ever call the next ones.
        rig.connection.check(5.0, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(let_in) == [0, 1, 2, 3]


async def test_places_of_callers_cancelled_in_the_queue_are_given_on() -> None:
    """No reply will make room for the next: the command that filled the place was never sent."""
    async with rigged(max_in_flight=2) as rig:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with trio.open_nursery() as nursery:
                for number in range(2):
                    nursery.start_soon(rig.connection.execute, pack((b"ECHO", number)))
        await trio.testing.wait_all_tasks_blocked()

        assert not rig.connection.full
        assert rig.connection.pending == 0
        assert rig.transport.sent == []


async def test_asking_keeps_its_own_reply_beside_a_command_that_is_dropped() -> None:
    async with rigged() as rig:
        held = rig.connection.submit(pack((b"GET", b"k")), asking=True)
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.connection.execute(pack((b"ECHO", b"dropped")))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.transport.sent == [pack((b"ASKING",)) + pack((b"GET", b"k"))]
        rig.transport.say(b"+OK\r\n$1\r\nv\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert held.answer == b"v"


@given(
    fates=st.lists(st.sampled_from(["answer", "cancel queued", "cancel sent"]), max_size=30),
    cuts=st.lists(st.integers(1, 40), max_size=10),
    takes=st.none() | st.lists(st.integers(0, 300), max_size=10),
)
@settings(max_examples=100, deadline=None)
def test_every_caller_gets_its_own_reply_whoever_else_is_cancelled(
    fates: list[str], cuts: list[int], takes: list[int] | None
) -> None:
    async def scenario() -> None:
        async with rigged(takes) as rig:
            got: dict[int, Answer] = {}
            scopes = [trio.CancelScope() for _ in fates]

            async def caller(number: int) -> None:
                with scopes[number]:
                    got[number] = await rig.connection.execute(pack((b"ECHO", number)))

            for number, fate in enumerate(fates):
                if fate == "cancel queued":
                    scopes[number].cancel()
                rig.nursery.start_soon(caller, number)
            await trio.testing.wait_all_tasks_blocked()
            for scope, fate in zip(scopes, fates, strict=True):
                if fate == "cancel sent":
                    scope.cancel()
            await trio.testing.wait_all_tasks_blocked()

            # Play an honest server: echo every command that came over the wire, in order.
            words = b"".join(rig.transport.sent).split(b"\r\n")
            numbers = [words[i + 2] for i, word in enumerate(words) if word == b"ECHO"]
            replies = b"".join(b"$%d\r\n%b\r\n" % (len(n), n) for n in numbers)
            position = 0
            for cut in [*cuts, len(replies)]:
                if position < len(replies):
                    rig.transport.say(replies[position : position + cut])
                    position += cut
            await trio.testing.wait_all_tasks_blocked()

            assert got == {n: b"%d" % n for n, fate in enumerate(fates) if fate == "answer"}
            wanted = sum(fate != "cancel queued" for fate in fates)
            # Who fills a burst sends it before being told of its own cancellation.
            doomed = 0 if takes is None else len(fates) // BURST
            assert wanted <= len(numbers) <= wanted + doomed
            assert rig.connection.pending == 0

    trio.run(scenario)


@pytest.mark.parametrize("signal", [ReplyLost, CommandNotSent, OversizedReply])
def test_signals_are_told_from_error_replies(signal: type[ReplyFailure]) -> None:
    assert not issubclass(signal, RedisReplyError)
    error = RedisReplyError("WRONGTYPE Operation against a key")
    assert (error.code, error.message) == ("WRONGTYPE", "Operation against a key")
