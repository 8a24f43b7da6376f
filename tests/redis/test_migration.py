"""Slots that move while callers use them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, Script
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import client_of, eventually, in_thread, key_on, slot_of
from tests.redis.slots import Mover
from tests.support.servers import own_server

APPEND = Script(
    "append",
    b"redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('INCR', KEYS[2])",
)


@pytest.fixture(scope="module")
def movable(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cluster whose slots these tests may move."""
    directory: Path = tmp_path_factory.mktemp("movable")
    with own_server(directory, node_timeout_ms=5000) as servers:
        yield servers


async def test_moving_slots_under_load_reaches_no_caller_and_loses_nothing(
    movable: Embedded,
) -> None:
    tags = [key_on(movable, index, b"tag%d" % n) for index in range(3) for n in range(2)]
    steps = 0
    done = threading.Event()

    async def caller(client: Client, number: int) -> None:
        nonlocal steps
        tag = tags[number % len(tags)]
        slot = slot_of(tag)
        own = b"{%s}:%d" % (tag, number)
        plain, log, count = own + b":p", own + b":log", own + b":count"
        await client.call(slot, b"RPUSH", log, b"0")
        await client.call(slot, b"SET", count, 0)
        step = 0
        while not done.is_set():
            step += 1
            # None of these is idempotent: an error, a loss and a repetition would all show.
            assert await client.call(slot, b"INCR", plain) == step
            assert await client.script(slot, APPEND, [log, count], [step]) == step
            assert await client.call(slot, b"GET", plain) == b"%d" % step
            steps += 1
        entries = await client.call(slot, b"LRANGE", log, 0, -1)
        assert entries == [b"%d" % n for n in range(step + 1)]

    moves = keys = 0

    def keep_moving() -> None:
        nonlocal moves, keys
        mover = Mover(movable)
        try:
            for turn in range(1, 9):
                for number, tag in enumerate(tags):
                    home = number // 2
                    source = mover.masters[(home + turn - 1) % 3]
                    target = mover.masters[(home + turn) % 3]
                    keys += mover.move(slot_of(tag), source, target)
                    moves += 1
        finally:
            done.set()

    async with client_of(movable) as client, trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(caller, client, number)
        await eventually(lambda: steps >= 64, what="every caller has its keys")
        await in_thread(keep_moving)

    assert moves == 48
    assert keys > 1000, "the slots were empty when they moved"
    assert steps > 64


async def test_ask_is_followed_once_and_the_slot_stays_where_it_is(movable: Embedded) -> None:
    mover = Mover(movable)
    key = key_on(movable, 0, b"ask")
    slot = slot_of(key)
    source, target = mover.masters[0], mover.masters[1]
    async with client_of(movable) as client:
        await in_thread(mover.begin, slot, source, target)
        try:
            # The key does not exist on the source, so it is made on the target, under ASKING.
            assert await client.call(slot, b"SET", key, 1) == b"OK"
            assert await client.call(slot, b"INCR", key) == 2
            assert client.topology.owner(slot) is not None
            assert client.topology.owner(slot).port == source.port  # type: ignore[union-attr]
            with target.client() as observer:
                keys = observer.execute_command(  # type: ignore[no-untyped-call]
                    "CLUSTER", "GETKEYSINSLOT", slot, 9
                )
            assert keys == [key]
        finally:
            await in_thread(mover.finish, slot, target)
        assert await client.call(slot, b"GET", key) == b"2"
        await eventually(
            lambda: getattr(client.topology.owner(slot), "port", 0) == target.port,
            what="MOVED led to a new topology",
        )
        await in_thread(mover.move, slot, target, source)


async def test_after_an_ask_the_keys_that_stay_are_still_asked_of_their_own_node(
    movable: Embedded,
) -> None:
    mover = Mover(movable)
    tag = key_on(movable, 0, b"stay")
    slot = slot_of(tag)
    stays = b"{%s}:stays" % tag
    source, target = mover.masters[0], mover.masters[1]
    async with client_of(movable) as client:
        await client.call(slot, b"SET", stays, 1)
        await in_thread(mover.begin, slot, source, target)
        try:
            with target.client() as observer:
                observer.config_resetstat()
                for number in range(20):
                    made = b"{%s}:%d" % (tag, number)
                    assert await client.call(slot, b"SET", made, 2) == b"OK"
                    assert await client.call(slot, b"GET", stays) == b"1"
                assert "errorstat_MOVED" not in observer.info("errorstats")
        finally:
            await in_thread(mover.move_keys, slot, source, target)
            await in_thread(mover.finish, slot, target)
        await in_thread(mover.move, slot, target, source)


async def test_command_on_half_moved_keys_waits_for_the_rest(movable: Embedded) -> None:
    mover = Mover(movable)
    key = key_on(movable, 0, b"half")
    slot = slot_of(key)
    one, two = b"{%s}:1" % key, b"{%s}:2" % key
    source, target = mover.masters[0], mover.masters[1]
    replies: list[object] = []
    async with client_of(movable) as client, trio.open_nursery() as nursery:
        await client.call(slot, b"MSET", one, b"a", two, b"b")
        await in_thread(mover.begin, slot, source, target)
        await in_thread(mover.move_key, one, source, target)

        async def read_both() -> None:
            replies.append(await client.call(slot, b"MGET", one, two))

        nursery.start_soon(read_both)
        await trio.sleep(0.2)
        assert replies == [], "neither node has both keys"

        await in_thread(mover.move, slot, source, target)
        await eventually(lambda: replies == [[b"a", b"b"]])
        await in_thread(mover.move, slot, target, source)


async def test_cancelled_asking_leaves_the_right_to_nobody(movable: Embedded) -> None:
    """ASKING and its command are one unit: half of it would let a stranger's command through."""
    mover = Mover(movable)
    key = key_on(movable, 0, b"cancelled")
    slot = slot_of(key)
    source, target = mover.masters[0], mover.masters[1]
    async with client_of(movable) as client:
        await in_thread(mover.begin, slot, source, target)
        for number in range(40):
            with trio.move_on_after(0.0004 * (number % 4)):
                await client.call(slot, b"SET", key, number)
            assert await client.call(slot_of(b"x"), b"ECHO", b"%d" % number) == b"%d" % number
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(client.call, slot, b"INCR", b"{%s}:n" % key)
        await in_thread(mover.move_keys, slot, source, target)
        await in_thread(mover.finish, slot, target)
        assert await client.call(slot, b"GET", b"{%s}:n" % key) == b"120"
        await in_thread(mover.move, slot, target, source)


TOUCH = Script("touch", b"redis.call('INCR', KEYS[1]) return redis.call('APPEND', ARGV[1], 'x')")


async def test_script_stopped_half_way_by_a_moving_slot_is_of_unknown_outcome(
    movable: Embedded,
) -> None:
    """The second key is not declared, so Redis notices only after the first was written."""
    mover = Mover(movable)
    key = key_on(movable, 0, b"touch")
    slot = slot_of(key)
    other = b"{%s}:other" % key
    source, target = mover.masters[0], mover.masters[1]
    async with client_of(movable) as client:
        await client.call(slot, b"SET", key, 0)
        await in_thread(mover.begin, slot, source, target)

        with pytest.raises(BackendUnavailable) as caught:
            await client.script(slot, TOUCH, [key], [other])
        assert caught.value.outcome == "unknown"
        assert await client.call(slot, b"GET", key) == b"1"

        async with trio.open_nursery() as nursery:
            replies: list[object] = []

            async def run() -> None:
                replies.append(await client.script(slot, TOUCH, [key], [other], idempotent=True))

            nursery.start_soon(run)
            await trio.sleep(0.05)
            assert replies == []
            await in_thread(mover.move, slot, source, target)
        assert replies == [1]
        await in_thread(mover.move, slot, target, source)


LOOK = Script(
    "look",
    b"redis.call('EXISTS', KEYS[1], ARGV[1]) redis.call('APPEND', ARGV[1], 'x')"
    b" return redis.call('INCR', KEYS[1])",
    has_preflight=True,
)


async def test_script_with_preflight_is_repeated_until_the_slot_has_moved(
    movable: Embedded,
) -> None:
    mover = Mover(movable)
    key = key_on(movable, 0, b"look")
    slot = slot_of(key)
    other = b"{%s}:other" % key
    source, target = mover.masters[0], mover.masters[1]
    async with client_of(movable) as client, client_of(movable, call_timeout_s=4.0) as hasty:
        await client.call(slot, b"SET", key, 0)
        await client.call(slot, b"SET", other, b"")
        await in_thread(mover.begin, slot, source, target)
        await in_thread(mover.move_key, other, source, target)

        with pytest.raises(BackendUnavailable) as caught:
            await hasty.script(slot, LOOK, [key], [other])
        assert caught.value.outcome == "not_applied"
        assert await client.call(slot, b"GET", key) == b"0"

        replies: list[object] = []
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                replies.append(await client.script(slot, LOOK, [key], [other]))

            nursery.start_soon(run)
            await trio.sleep(0.05)
            assert replies == []
            await in_thread(mover.move, slot, source, target)
        assert replies == [1]
        assert await client.call(slot, b"GET", other) == b"x"
        await in_thread(mover.move, slot, target, source)


@pytest.fixture
def mover(movable: Embedded) -> Mover:
    """Moves whole slots at once, as Valkey 9 does."""
    found = Mover(movable)
    if not found.can_move_atomically():
        pytest.skip("this server has no CLUSTER MIGRATESLOTS")
    return found


async def test_atomic_slot_migration_reaches_no_caller(movable: Embedded, mover: Mover) -> None:
    """Even scripts with undeclared keys never notice."""
    tags = [key_on(movable, 0, b"atomic%d" % n) for n in range(4)]
    slots = sorted(slot_of(tag) for tag in tags)
    done = threading.Event()
    steps = 0

    async def caller(client: Client, number: int) -> None:
        nonlocal steps
        tag = tags[number % len(tags)]
        own, other = b"{%s}:%d" % (tag, number), b"{%s}:%d:other" % (tag, number)
        step = 0
        while not done.is_set():
            step += 1
            assert await client.script(slot_of(tag), TOUCH, [own], [other]) == step
            assert await client.call(slot_of(tag), b"GET", own) == b"%d" % step
            steps += 1

    def keep_moving() -> None:
        try:
            for turn in range(6):
                source, target = mover.masters[turn % 3], mover.masters[(turn + 1) % 3]
                mover.move_atomically(slots, source, target)
        finally:
            done.set()

    async with client_of(movable) as client, trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(caller, client, number)
        await eventually(lambda: steps >= 64, what="every caller has its keys")
        await in_thread(keep_moving)
    assert steps > 64
