"""Coroutines that are driven by hand: what they may do, and what they get a task for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from ojs_cluster.redis import driven_coroutines
from ojs_cluster.redis.connection import BURST, pack
from ojs_cluster.redis.driven_coroutines import (
    ADOPTED,
    MAX_RESPONSES,
    NEEDS_TASK,
    WAITING_FOR_REDIS,
    DrivenCoroutine,
    DriverState,
    ShieldedBlock,
    driver_state,
    ensure_task,
)
from ojs_cluster.redis.durability import Durability, current_work, require_durability
from ojs_cluster.redis.errors import CommandNotSent, MalformedKey, ReplyLost
from ojs_cluster.redis.reply_waiters import Answer
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import client_of, slot_of
from tests.redis.test_connection import Rig, rigged
from tests.support.driven import driven


def begin(work: Coroutine[Any, Any, Any]) -> tuple[DrivenCoroutine, list[object]]:
    """Drive until the first answer of Redis is needed; the list gets what it is resumed with."""
    resumed: list[object] = []
    chain = DrivenCoroutine(resumed.append)
    assert chain.step(work.send, None) is WAITING_FOR_REDIS
    return chain, resumed


async def test_trio_has_no_current_task_while_a_coroutine_is_driven() -> None:
    """Fails when a release of trio keeps the current task elsewhere: see `driver_state`."""

    async def work() -> str:
        with pytest.raises(RuntimeError, match="async context"):
            trio.lowlevel.current_task()
        with pytest.raises(RuntimeError, match="async context"):
            trio.CancelScope().__enter__()
        with pytest.raises(RuntimeError, match="async context"):
            await trio.Event().wait()
        with pytest.raises(RuntimeError, match="async context"):
            async with trio.open_nursery():
                pass
        with pytest.raises(RuntimeError, match="async context"):
            await trio.to_thread.run_sync(int)
        assert trio.current_time() > 0  # which needs no task
        return "done"

    task = trio.lowlevel.current_task()
    with pytest.raises(StopIteration, match="done"):
        DrivenCoroutine(lambda _: None).step(work().send, None)
    assert trio.lowlevel.current_task() is task
    with trio.CancelScope():  # and it may be used again
        await trio.lowlevel.checkpoint()


async def test_the_current_task_is_back_after_an_error() -> None:
    async def work() -> None:
        raise ValueError("a bug")

    task = trio.lowlevel.current_task()
    with pytest.raises(ValueError, match="a bug"):
        DrivenCoroutine(lambda _: None).step(work().send, None)
    assert trio.lowlevel.current_task() is task
    assert driver_state.driven is None


async def test_whoever_sleeps_without_a_task_is_told() -> None:
    async def work() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    with pytest.raises(RuntimeError, match="without a task"):
        await driven(work())


async def test_own_task_goes_on_in_the_callers_task() -> None:
    moves: list[str] = []

    async def work() -> str:
        await ensure_task()
        with trio.move_on_after(60):
            await trio.lowlevel.checkpoint()
        await ensure_task()  # has one
        return "done"

    assert await driven(work(), lambda: moves.append("moved")) == "done"
    assert moves == ["moved"]
    assert await work() == "done"


async def test_an_adopted_coroutine_is_told_of_errors_and_goes_on() -> None:
    async def work() -> str:
        await ensure_task()
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()
        return "cancelled inside"

    assert await driven(work()) == "cancelled inside"


async def test_commands_of_one_turn_are_sent_in_one_piece() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        chains = [begin(rig.connection.execute(pack((b"ECHO", n)))) for n in range(5)]
        assert rig.transport.sent == []
        driver_state.flush()
        assert [data.count(b"ECHO") for data in rig.transport.sent] == [5]
        rig.transport.say(b"+0\r\n+1\r\n+2\r\n+3\r\n+4\r\n")
        await wait_all_tasks_blocked()
        assert [resumed for _, resumed in chains] == [[b"%d" % n] for n in range(5)]


async def test_what_the_socket_does_not_take_is_the_writers() -> None:
    async with rigged(takes=[7]) as rig:
        begin(rig.connection.execute(pack((b"ECHO", 1))))
        driver_state.flush()
        await wait_all_tasks_blocked()
        assert b"".join(rig.transport.sent) == pack((b"ECHO", 1))


async def test_what_the_socket_does_not_take_of_a_burst_is_the_writers() -> None:
    """A burst empties the queue: only what is left of its bytes tells that the writer has work."""
    async with rigged(takes=[7]) as rig:
        for number in range(BURST):
            begin(rig.connection.execute(pack((b"ECHO", number))))
        driver_state.flush()
        await wait_all_tasks_blocked()
        whole = b"".join(pack((b"ECHO", number)) for number in range(BURST))
        assert b"".join(rig.transport.sent) == whole


async def test_a_transport_that_can_only_be_awaited_is_the_writers() -> None:
    async with rigged() as rig:
        begin(rig.connection.execute(pack((b"ECHO", 1))))
        driver_state.flush()
        await wait_all_tasks_blocked()
        assert rig.transport.sent == [pack((b"ECHO", 1))]


async def test_the_end_of_the_connection_resumes_what_waits() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        _, sent = begin(rig.connection.execute(pack((b"ECHO", 1))))
        driver_state.flush()
        rig.transport.close()
        await wait_all_tasks_blocked()
        assert isinstance(sent[0], ReplyLost)


async def test_the_end_of_the_connection_holds_up_no_command_for_another() -> None:
    async with rigged(takes=[10_000] * 8) as ending, rigged(takes=[10_000] * 8) as other:
        then = other.connection.execute(pack((b"ECHO", 2)))
        first = ending.connection.execute(pack((b"ECHO", 1)))

        def go_on(_: object) -> None:
            begin(then)

        assert DrivenCoroutine(go_on).step(first.send, None) is WAITING_FOR_REDIS
        driver_state.flush()
        ending.transport.say(b"+1\r\n+unrequested\r\n")
        await wait_all_tasks_blocked()
        assert not ending.connection.open
        assert other.transport.sent == [pack((b"ECHO", 2))]
        first.close()


async def test_a_reply_that_does_not_come_in_time_resumes_what_waits() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        _, resumed = begin(rig.connection.execute(pack((b"ECHO", 1))))
        driver_state.flush()
        rig.clock.now += 11
        rig.connection.check(reply_timeout_s=100, call_timeout_s=10)
        assert isinstance(resumed[0], ReplyLost)
        rig.call(2)
        await wait_all_tasks_blocked()
        rig.transport.say(b"+1\r\n+2\r\n")
        await wait_all_tasks_blocked()
        assert len(resumed) == 1
        assert rig.answers == {2: b"2"}


async def test_coroutines_whose_replies_are_late_may_queue_a_burst_of_commands() -> None:
    async with rigged(takes=[10_000] * 64) as rig:
        again = [rig.connection.execute(pack((b"ECHO", 100 + n))) for n in range(2 * BURST)]
        first = [rig.connection.execute(pack((b"ECHO", n))) for n in range(2 * BURST)]
        failed: list[object] = []

        def go_on(failure: object) -> None:
            failed.append(failure)
            begin(again[len(failed) - 1])

        for work in first:
            assert DrivenCoroutine(go_on).step(work.send, None) is WAITING_FOR_REDIS
        rig.clock.now += 11
        rig.connection.check(reply_timeout_s=100, call_timeout_s=10)
        assert [type(failure) for failure in failed] == [ReplyLost] * (2 * BURST)
        await wait_all_tasks_blocked()
        assert rig.connection.open
        assert b"".join(rig.transport.sent).count(b"ECHO") == 4 * BURST
        for work in first:
            work.close()


class _Sender:
    """Something that sends what is queued; it notes its name."""

    def __init__(self, name: str, sent: list[str]) -> None:
        self._name = name
        self._sent = sent

    def flush(self) -> None:
        self._sent.append(self._name)


def test_responses_wait_for_the_end_of_the_turn_and_commands_are_sent_first() -> None:
    state, sent = DriverState(), list[str]()
    state.queue_response(_Sender("response 1", sent))
    state.with_commands.append(_Sender("command", sent))
    state.queue_response(_Sender("response 2", sent))
    assert sent == []
    state.flush()
    assert sent == ["command", "response 1", "response 2"]
    state.flush()
    assert len(sent) == 3


def test_a_turn_with_many_responses_sends_them_in_parts() -> None:
    state, sent = DriverState(), list[str]()
    for number in range(MAX_RESPONSES + 1):
        state.queue_response(_Sender(f"{number}", sent))
    assert sent == [f"{number}" for number in range(MAX_RESPONSES)]


async def test_a_response_that_has_waited_is_sent_before_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []

    async def work() -> list[str]:
        return [*sent]

    for delay_s, then in ((3600.0, []), (0.0, ["response"])):
        monkeypatch.setattr(driven_coroutines, "MAX_RESPONSE_DELAY_S", delay_s)
        driver_state.queue_response(_Sender("response", sent))
        with pytest.raises(StopIteration) as stop:
            DrivenCoroutine(lambda _: None).step(work().send, None)
        assert stop.value.value == then
        driver_state.flush()
        sent.clear()


async def test_a_late_command_that_may_still_be_sent_is_not_said_to_be_not_sent() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        rig.transport.blocked = True
        rig.call(0)
        await wait_all_tasks_blocked()
        answers: list[Answer] = []

        async def ask_for_moved() -> None:
            answers.append(await rig.connection.execute_asking(pack((b"ECHO", 1))))

        rig.nursery.start_soon(ask_for_moved)
        await wait_all_tasks_blocked()
        rig.clock.now += 11
        rig.connection.check(reply_timeout_s=100, call_timeout_s=10)
        await wait_all_tasks_blocked()
        assert isinstance(answers[0], ReplyLost)


async def test_a_command_that_was_said_to_be_not_sent_is_not_sent() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        _, resumed = begin(rig.connection.execute(pack((b"ECHO", 1))))
        rig.clock.now += 11
        rig.connection.check(reply_timeout_s=100, call_timeout_s=10)
        assert isinstance(resumed[0], CommandNotSent)
        rig.call(2)
        driver_state.flush()
        await wait_all_tasks_blocked()
        assert b"".join(rig.transport.sent) == pack((b"ECHO", 2))
        rig.transport.say(b"+2\r\n")
        await wait_all_tasks_blocked()
        assert rig.answers == {2: b"2"}
        assert len(resumed) == 1


async def test_a_full_connection_makes_room_again() -> None:
    async with rigged(takes=[10_000] * 8, max_in_flight=2) as rig:
        for number in range(2):
            begin(rig.connection.execute(pack((b"ECHO", number))))
        driver_state.flush()
        assert rig.connection.full
        rig.transport.say(b"+0\r\n")
        await wait_all_tasks_blocked()
        assert not rig.connection.full


async def adopt(rig: Rig, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Begin in no task, and let this one take over while the reply is awaited."""
    chain, _ = begin(work)
    driver_state.flush()
    return await chain.adopt(work, ADOPTED)


async def test_a_task_takes_over_while_redis_owes_the_reply() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        rig.transport.say(b"+1\r\n")
        assert await adopt(rig, rig.connection.execute(pack((b"ECHO", 1)))) == b"1"


async def test_a_cancelled_task_that_takes_over_waits_no_longer() -> None:
    async with rigged(takes=[10_000] * 8) as rig:
        with trio.CancelScope() as scope:
            scope.cancel()
            await adopt(rig, rig.connection.execute(pack((b"ECHO", 1))))
        assert scope.cancelled_caught
        rig.call(2)
        await wait_all_tasks_blocked()
        rig.transport.say(b"+1\r\n+2\r\n")  # the first is thrown away
        await wait_all_tasks_blocked()
        assert rig.answers == {2: b"2"}


async def answer_when_asked(rig: Rig) -> None:
    while not rig.transport.sent:
        await trio.lowlevel.checkpoint()
    rig.transport.say(b"+1\r\n")


@pytest.mark.parametrize("moves", [False, True], ids=["while it waits", "by asking for a task"])
async def test_a_shielded_block_ends_before_the_cancellation(moves: bool) -> None:
    got: list[Answer] = []

    async def work(rig: Rig) -> Answer:
        with ShieldedBlock():
            if moves:
                await ensure_task()
            got.append(await rig.connection.execute(pack((b"ECHO", 1))))
        await trio.lowlevel.checkpoint_if_cancelled()
        raise AssertionError("it was cancelled")

    async with rigged(takes=[10_000] * 8) as rig:
        with trio.CancelScope() as scope:
            scope.cancel()
            if moves:
                coroutine = work(rig)
                chain = DrivenCoroutine(lambda _: None)
                assert chain.step(coroutine.send, None) is NEEDS_TASK
                rig.nursery.start_soon(answer_when_asked, rig)
                await chain.adopt(coroutine, None)
            else:
                rig.transport.say(b"+1\r\n")
                await adopt(rig, work(rig))
        assert scope.cancelled_caught
    assert got == [b"1"]


async def test_a_shielded_block_in_a_task_ends_before_the_cancellation() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with ShieldedBlock():
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_what_is_driven_does_not_inherit_the_request_that_opened_the_connection(
    standalone: Embedded,
) -> None:
    """The reader of replies runs in the context of the task that opened its connection."""
    seen: list[object] = []

    async def work(client: Any) -> None:
        await client.call(slot_of(b"k"), b"GET", b"k")
        seen.append(current_work())

    with require_durability(Durability.REPLICA):
        opened = client_of(standalone)
        client = await opened.__aenter__()
    try:
        await driven(work(client))
    finally:
        await opened.__aexit__(None, None, None)
    assert seen == [None]


async def test_errors_of_redis_are_dealt_with_in_a_task(standalone: Embedded) -> None:
    moves: list[str] = []
    async with client_of(standalone) as client:
        slot = slot_of(b"k")
        await client.call(slot, b"SET", b"k", b"v")
        with pytest.raises(MalformedKey, match="a wrong type"):
            await driven(client.call(slot, b"LPUSH", b"k", b"x"), lambda: moves.append("moved"))
        assert moves == ["moved"]
        assert await driven(client.call(slot, b"GET", b"k")) == b"v"
