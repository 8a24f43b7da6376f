"""Commands and scripts on a server that works: standalone and cluster alike."""

from __future__ import annotations

import pytest
import trio

from ojs_cluster.redis import Client, ClientSettings, RedisReplyError, Script, open_client
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import MalformedKey
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import client_of, in_thread, key_on, slot_of

ECHO = Script("echo", b"return {KEYS[1], ARGV[1], #ARGV}")


async def test_reply_types_arrive_as_python_values(backend: Embedded) -> None:
    async with client_of(backend) as client:
        slot = slot_of(b"{k}")

        assert await client.call(slot, b"SET", b"{k}", "häß") == b"OK"
        assert await client.call(slot, b"GET", b"{k}") == "häß".encode()
        assert await client.call(slot, "GET", "{k}:none") is None
        assert await client.call(slot, b"INCRBY", b"{k}:n", 42) == 42
        assert await client.call(slot, b"INCRBYFLOAT", b"{k}:f", 0.5) == b"0.5"
        assert await client.call(slot, b"RPUSH", b"{k}:l", b"a", b"") == 2
        assert await client.call(slot, b"LRANGE", b"{k}:l", 0, -1) == [b"a", b""]


async def test_binary_and_large_values_survive(backend: Embedded) -> None:
    value = bytes(range(256)) * 4096 + b"\r\n$5\r\n"
    async with client_of(backend) as client:
        await client.call(slot_of(b"big"), b"SET", b"big", value)

        assert await client.call(slot_of(b"big"), b"GET", b"big") == value


async def test_every_one_of_many_callers_gets_its_own_reply(backend: Embedded) -> None:
    mixed: list[tuple[int, int]] = []

    async def caller(client: Client, number: int) -> None:
        for step in range(200):
            token = b"%d:%d" % (number, step)
            slot = (number * 997 + step * 131) % 16384
            if await client.call(slot, b"ECHO", token) != token:
                mixed.append((number, step))

    async with client_of(backend) as client, trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(caller, client, number)

    assert mixed == []


async def test_many_reads_are_answered_in_their_order(backend: Embedded) -> None:
    async with client_of(backend) as client:
        names = [b"key-%d" % number for number in range(100)]
        for name in names[:-1]:
            await client.call(slot_of(name), b"SET", name, name)
        reads = [
            PackedReads(slot_of(name), pack((b"GET", name)) + pack((b"STRLEN", name)), 2)
            for name in names
        ]
        wrong = PackedReads(slot_of(b"key-0"), pack((b"LRANGE", b"key-0", 0, 1)))

        answers = await client.read_each([*reads, wrong])

        assert answers[:-1] == [*([name, len(name)] for name in names[:-1]), [None, 0]]
        assert isinstance(answers[-1][0], RedisReplyError)
        assert await client.read_each([]) == []

        for time, *answer in await client.read_each(reads[:3], with_time=True):
            assert isinstance(time, list)
            assert len(time) == 2
            assert answer[0] in names


async def test_error_reply_is_raised_with_its_code(backend: Embedded) -> None:
    async with client_of(backend) as client:
        slot = slot_of(b"k")
        await client.call(slot, b"SET", b"k", 1)

        with pytest.raises(RedisReplyError) as caught:
            await client.call(slot, b"LPUSH", b"k", 1)
        assert caught.value.code == "WRONGTYPE"
        assert await client.call(slot, b"GET", b"k") == b"1"


@pytest.mark.parametrize(
    ("key", "kind"), [(b"ojs:{t}:c:mail", "c"), (b"ojs:{t}:due", "due"), (b"k", None)]
)
async def test_an_error_names_the_kind_of_key_whose_type_is_wrong(
    backend: Embedded, caplog: pytest.LogCaptureFixture, key: bytes, kind: str | None
) -> None:
    async with client_of(backend) as client:
        slot = slot_of(key)
        await client.call(slot, "SET", key, 1)
        use = Script("use", b"return redis.call('LPUSH', KEYS[2], 1)")
        calls = (
            client.call(slot, "LPUSH", key, 1),
            client.script(slot, use, [b"ojs:{t}:q:mail" if kind else b"k", key], ["ojs:{t}:c:x"]),
        )
        for call in calls:
            with pytest.raises(MalformedKey) as caught:
                await call
            assert caught.value.has_wrong_type
            assert caught.value.details.get("kind") == kind
            assert "mail" not in str(caught.value), "clients may not know all names"
    if kind is not None:
        assert all(repr(key) in record.message for record in caplog.records)


async def test_wrong_argument_type_reaches_nobody_else(standalone: Embedded) -> None:
    async with client_of(standalone) as client:
        with pytest.raises(TypeError):
            await client.call(0, b"SET", b"k", None)  # type: ignore[arg-type] # a wrong type
        assert await client.call(0, b"ECHO", b"x") == b"x"


async def test_wrong_slot_is_named_instead_of_followed(cluster: Embedded) -> None:
    key = key_on(cluster, 0)
    wrong = slot_of(key_on(cluster, 2))
    async with client_of(cluster) as client:
        with pytest.raises(ValueError, match=f"slot {slot_of(key)} were sent as slot {wrong}"):
            await client.call(wrong, b"GET", key)


async def test_script_runs_by_hash_and_its_source_follows_when_unknown(backend: Embedded) -> None:
    async with client_of(backend) as client:
        slot = slot_of(b"k")
        for _ in range(2):
            assert await client.script(slot, ECHO, [b"k"], [7, "x"]) == [b"k", b"7", 2]

        await client.call_masters(b"SCRIPT", b"FLUSH")

        assert await client.script(slot, ECHO, [b"k"], ["z"]) == [b"k", b"z", 1]
        known = await client.call(slot, b"SCRIPT", b"EXISTS", ECHO.sha)
        assert known == [1]


async def test_many_callers_survive_script_flush(backend: Embedded) -> None:
    script = Script("count", b"return redis.call('INCR', KEYS[1])")

    async def caller(client: Client, number: int) -> None:
        key = b"n:%d" % number
        for step in range(1, 51):
            assert await client.script(slot_of(key), script, [key], []) == step
            if step % 10 == 0 and number % 8 == 0:
                await client.call_masters(b"SCRIPT", b"FLUSH")

    async with client_of(backend) as client, trio.open_nursery() as nursery:
        for number in range(32):
            nursery.start_soon(caller, client, number)


async def test_error_inside_a_script_is_raised(backend: Embedded) -> None:
    script = Script("bad", b"return redis.error_reply('OJS went wrong')")
    async with client_of(backend) as client:
        with pytest.raises(RedisReplyError) as caught:
            await client.script(0, script, [], [])
    assert (caught.value.code, caught.value.message) == ("OJS", "went wrong")


async def test_on_masters_reaches_every_master_once(backend: Embedded) -> None:
    async with client_of(backend) as client:
        for index in range(backend.master_count):
            key = key_on(backend, index)
            await client.call(slot_of(key), b"SET", key, 1)

        sizes = await client.call_masters(b"DBSIZE")

    ports = {node.port for node in backend.masters()}
    assert {address.port for address in sizes} == ports
    assert list(sizes.values()) == [1] * len(ports)


async def test_on_masters_raises_what_a_master_answered(backend: Embedded) -> None:
    async with client_of(backend) as client:
        with pytest.raises(RedisReplyError, match="unknown command"):
            await client.call_masters(b"NOSUCHCOMMAND")


async def test_topology_and_health_describe_the_server(backend: Embedded) -> None:
    async with client_of(backend) as client:
        assert client.healthy
        assert client.topology.covered
        assert client.topology.clustered is backend.cluster
        assert len(client.topology.masters) == len(backend.masters())
        took = await client.ping(60)
        assert set(took) == set(client.topology.masters)
        assert all(seconds > 0 for seconds in took.values())


async def test_one_connection_per_node_however_many_callers(backend: Embedded) -> None:
    async with client_of(backend, client_name="only-one") as client:
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(client.call, number * 256, b"PING")

        for node in backend.masters():
            with node.client() as observer:
                rows = await in_thread(observer.client_list)
            assert [row["name"] for row in rows].count("only-one") == 1


async def test_one_start_node_is_enough_to_find_all(cluster: Embedded) -> None:
    settings = ClientSettings.from_url(f"redis://{cluster.nodes[1].address}")
    async with open_client(settings) as client:
        assert len(client.topology.masters) == 3


async def test_dead_start_nodes_are_passed_over(backend: Embedded) -> None:
    settings = ClientSettings.from_url(f"redis://127.0.0.1:1,{backend.nodes[0].address}")
    async with open_client(settings) as client:
        assert await client.call(0, b"PING") == b"PONG"


async def test_exception_of_the_block_is_not_wrapped(standalone: Embedded) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with client_of(standalone):
            raise KeyError("mine")


async def test_database_number_selects_on_a_standalone_server(standalone: Embedded) -> None:
    url = f"redis://{standalone.nodes[0].address}/5"
    async with open_client(ClientSettings.from_url(url)) as client:
        await client.call(0, b"SET", b"in-five", 1)
    with standalone.nodes[0].client() as observer:
        assert observer.dbsize() == 0
        observer.execute_command("SELECT", 5)  # type: ignore[no-untyped-call]
        assert observer.info("keyspace")["db5"]["keys"] == 1
