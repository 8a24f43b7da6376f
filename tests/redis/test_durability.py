"""Answers that wait for replicas and disks."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, Script
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.redis.helpers import client_of, key_on, slot_of
from tests.redis.slots import Mover
from tests.support.servers import own_server, replicas_of, wait_until

PUT = Script("put", b"return redis.call('SET', KEYS[1], ARGV[1])")
GET = Script("get", b"return redis.call('GET', KEYS[1])")
EMPTIES = Script("empties", b"#!lua flags=allow-oom\n" + PUT.source)
VOLATILE = Script("note", b"return redis.call('SET', KEYS[1], ARGV[1])", volatile=True)


PATIENT = {"durability_timeout_s": 30.0, "reply_timeout_s": 50.0, "call_timeout_s": 60.0}
"""Long enough for any machine: for what is expected to be confirmed."""
HASTY = {"durability_timeout_s": 0.3}
"""For what is expected not to be."""


def pause(node: EmbeddedNode) -> None:
    assert node.pid is not None
    os.kill(node.pid, signal.SIGSTOP)


def resume(node: EmbeddedNode) -> None:
    assert node.pid is not None
    os.kill(node.pid, signal.SIGCONT)


@contextmanager
def paused(node: EmbeddedNode) -> Iterator[None]:
    """The node holds its connections and does nothing."""
    pause(node)
    try:
        yield
    finally:
        resume(node)


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters with a replica each, which no pause of a replica makes fail over."""
    directory = tmp_path_factory.mktemp("durability")
    with own_server(
        directory, replicas=1, append_only=True, node_timeout_ms=60_000, config={"save": ""}
    ) as servers:
        yield servers


@pytest.fixture
def replica(replicated: Embedded) -> EmbeddedNode:
    """The replica of the first master, in sync."""
    key = key_on(replicated, 0, b"in-sync")

    def in_sync() -> bool:
        with replicated.nodes[0].client() as client:
            client.set(key, 1)  # WAIT speaks of what its own connection has written
            return int(client.execute_command("WAIT", 1, 100)) == 1  # type: ignore[no-untyped-call]

    wait_until(in_sync, what="the replica has everything")
    (found,) = replicas_of(replicated, replicated.nodes[0])
    return found


@asynccontextmanager
async def durable_client(embedded: Embedded, **overrides: Any) -> AsyncIterator[Client]:
    probe_keys = tuple(
        (slot_of(key), key) for key in (key_on(embedded, i, b"mark") for i in range(3))
    )
    settings = {"durability": Durability.REPLICA, "probe_keys": probe_keys} | PATIENT
    async with client_of(embedded, **(settings | overrides)) as client:
        yield client


async def put(client: Client, key: bytes, value: bytes = b"1", script: Script = PUT) -> Any:
    return await client.script(slot_of(key), script, [key], [value])


async def outcome_of(client: Client, key: bytes, script: Script = PUT) -> str:
    try:
        await put(client, key, script=script)
    except BackendUnavailable as error:
        return error.outcome
    return "confirmed"


async def test_what_a_replica_has_is_confirmed(replicated: Embedded, replica: EmbeddedNode) -> None:
    key = key_on(replicated, 0, b"confirmed")
    async with durable_client(replicated) as client:
        assert await put(client, key, b"7") == b"OK"
        with replica.client() as observer:
            observer.execute_command("READONLY")  # type: ignore[no-untyped-call]
            assert observer.get(key) == b"7"


async def test_at_maxmemory_what_redis_lets_pass_is_confirmed(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    key = key_on(replicated, 0, b"full")
    async with durable_client(replicated) as client:
        with replicated.nodes[0].client() as admin:
            admin.config_set("maxmemory", 1)
            try:
                assert await outcome_of(client, key) == "not_applied"
                assert await outcome_of(client, key, EMPTIES) == "confirmed"
            finally:
                admin.config_set("maxmemory", 0)
        with replica.client() as observer:
            observer.execute_command("READONLY")  # type: ignore[no-untyped-call]
            assert observer.get(key) == b"1"


async def test_without_its_replica_a_write_is_stored_and_unconfirmed(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    key, elsewhere = (key_on(replicated, index, b"alone") for index in (0, 1))
    async with durable_client(replicated, **HASTY) as hasty, durable_client(replicated) as client:
        with paused(replica):
            assert await outcome_of(hasty, key) == "stored_unconfirmed"
            assert await client.call(slot_of(key), "GET", key) == b"1"
            # Other masters have their replicas.
            assert await outcome_of(client, elsewhere) == "confirmed"
        assert await outcome_of(client, key) == "confirmed"


async def test_finding_an_unconfirmed_write_again_does_not_confirm_it(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    """A retry that finds everything in place writes nothing; Redis alone would call that sure."""
    key = key_on(replicated, 0, b"found")
    async with (
        durable_client(replicated, **HASTY) as client,
        durable_client(replicated, **HASTY) as other,
        durable_client(replicated) as patient,
    ):
        with paused(replica):
            assert await outcome_of(client, key) == "stored_unconfirmed"
            assert await outcome_of(client, key, GET) == "stored_unconfirmed"
            assert await outcome_of(other, key, GET) == "stored_unconfirmed"
        assert await outcome_of(patient, key, GET) == "confirmed"


async def test_replica_durability_without_replicas_is_not_confirmed(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    key = key_on(replicated, 0, b"none")
    plain = {"durability": Durability.ASYNC, "durability_replicas": 0}
    async with durable_client(replicated, **plain, **HASTY) as client:
        with paused(replica), require_durability(Durability.REPLICA) as request:
            assert await put(client, key) == b"OK"
        assert request.unconfirmed_reason is not None


async def test_those_who_want_less_do_not_wait(replicated: Embedded, replica: EmbeddedNode) -> None:
    key = key_on(replicated, 0, b"hasty")
    async with (
        durable_client(replicated) as sure,
        client_of(replicated) as hasty,
        trio.open_nursery() as nursery,
    ):
        with paused(replica):
            nursery.start_soon(outcome_of, sure, key)
            await trio.sleep(0.05)
            assert await put(hasty, key) == b"OK"
            assert await put(sure, key, script=VOLATILE) == b"OK"
            assert await sure.call(slot_of(key), "GET", key) == b"1"
            # None of them waited for the half minute, after which this would be over.
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()


async def test_a_request_may_ask_for_more_and_not_for_less(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    key = key_on(replicated, 0, b"asked")
    async with (
        durable_client(replicated, durability=Durability.ASYNC, **HASTY) as server_async,
        durable_client(replicated, **HASTY) as server_replica,
    ):
        with paused(replica):
            assert await outcome_of(server_async, key) == "confirmed"
            with require_durability(Durability.REPLICA) as more:
                assert await put(server_async, key) == b"OK"
            with require_durability(Durability.ASYNC) as less:
                assert await put(server_replica, key) == b"OK"
        assert more.unconfirmed_reason is not None
        assert less.unconfirmed_reason is not None


async def test_many_callers_share_a_confirmation(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    keys = [key_on(replicated, 0, b"group%d" % number) for number in range(20)]
    calls = 0

    async def write(client: Client, key: bytes) -> None:
        nonlocal calls
        for _ in range(20):
            await put(client, key)
            calls += 1

    with replicated.nodes[0].client() as observer:
        observer.config_resetstat()
        async with durable_client(replicated) as client, trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(write, client, key)
        waits = observer.info("commandstats")["cmdstat_wait"]["calls"]
    assert calls == 400
    # All 20 are in each group but those at the ends: 20 groups if nothing disturbs.
    assert waits <= calls / 2


async def test_cancelled_callers_leave_the_rest_of_their_group_alone(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    keys = [key_on(replicated, 0, b"cancel%d" % number) for number in range(10)]
    outcomes: list[str] = []

    async def note(client: Client, key: bytes) -> None:
        outcomes.append(await outcome_of(client, key))

    async with durable_client(replicated) as client:
        await put(client, keys[0])
        async with trio.open_nursery() as nursery:
            with paused(replica):
                async with trio.open_nursery() as hasty:
                    for index, key in enumerate(keys):
                        if index % 2:
                            hasty.start_soon(put, client, key)
                        else:
                            nursery.start_soon(note, client, key)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    hasty.cancel_scope.cancel()
                assert outcomes == []
        assert outcomes == ["confirmed"] * 5


async def test_a_lost_connection_leaves_nobody_asleep(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    """Killed while the group waits: it is carried out, and Redis said so, but not how surely."""
    key = key_on(replicated, 0, b"cut")
    outcomes: list[str] = []

    async def note(client: Client) -> None:
        outcomes.append(await outcome_of(client, key))

    async with durable_client(replicated) as client:
        await put(client, key)
        async with trio.open_nursery() as nursery:
            with paused(replica), replicated.nodes[0].client() as observer:
                for _ in range(5):
                    nursery.start_soon(note, client)
                await trio.testing.wait_all_tasks_blocked(0.05)
                observer.client_kill_filter(_type="normal", skipme=True)
                with trio.fail_after(30):
                    while len(outcomes) < 5:  # noqa: ASYNC110 - lists have no event
                        await trio.sleep(0.01)
        assert set(outcomes) <= {"stored_unconfirmed", "unknown"}
        assert await outcome_of(client, key) == "confirmed"


async def test_a_slot_that_moves_away_with_its_mark_is_no_obstacle(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    """The mark is then refused by its old node; another mark of that node serves."""
    source, target = replicated.nodes[0], replicated.nodes[1]
    mark, second = (key_on(replicated, 0, prefix) for prefix in (b"mark-a", b"mark-b"))
    key = key_on(replicated, 0, b"stays")
    mover = Mover(replicated)
    probe_keys = ((slot_of(mark), mark), (slot_of(second), second))
    async with durable_client(replicated, probe_keys=probe_keys) as client:
        await put(client, key)
        mover.begin(slot_of(mark), source, target)
        try:
            mover.move_keys(slot_of(mark), source, target)
            assert await outcome_of(client, key) == "confirmed"
        finally:
            mover.finish(slot_of(mark), target)
        assert await outcome_of(client, mark) == "confirmed"
        assert await outcome_of(client, key) == "confirmed"


async def test_a_group_that_wrote_nothing_is_not_confirmed_when_its_probe_is_refused(
    replicated: Embedded, replica: EmbeddedNode
) -> None:
    """WAIT would confirm it at once: its connection has written nothing."""
    source, target = replicated.nodes[0], replicated.nodes[1]
    key, mark, second = (key_on(replicated, 0, prefix) for prefix in (b"read", b"gone", b"next"))
    mover = Mover(replicated)
    probe_keys = ((slot_of(mark), mark), (slot_of(second), second))
    async with (
        durable_client(replicated, **HASTY) as writer,
        durable_client(replicated, probe_keys=probe_keys, **HASTY) as reader,
    ):
        mover.begin(slot_of(mark), source, target)  # from now on the source makes no such key
        try:
            with paused(replica):
                assert await outcome_of(writer, key) == "stored_unconfirmed"
                assert await outcome_of(reader, key, GET) == "stored_unconfirmed"
        finally:
            mover.finish(slot_of(mark), target)


@pytest.mark.parametrize("append_only", [True, False])
async def test_fsync_of_a_standalone_server_needs_its_append_only_file(
    tmp_path: Path, append_only: bool
) -> None:
    key = b"disk"
    with own_server(tmp_path, cluster=False, append_only=append_only) as server:
        probe_keys = ((slot_of(b"mark"), b"mark"),)
        async with client_of(
            server, durability=Durability.FSYNC, probe_keys=probe_keys, **PATIENT
        ) as client:
            expected = "confirmed" if append_only else "stored_unconfirmed"
            assert await outcome_of(client, key) == expected


async def test_fsync_waits_for_the_disk_of_the_server_itself(tmp_path: Path) -> None:
    probe_keys = ((slot_of(b"mark"), b"mark"),)
    never = {"appendfsync": "no"}
    with own_server(tmp_path, cluster=False, append_only=True, config=never) as server:
        async with client_of(
            server, durability=Durability.FSYNC, probe_keys=probe_keys, **HASTY
        ) as client:
            assert await outcome_of(client, b"disk") == "stored_unconfirmed"
