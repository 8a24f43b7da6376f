"""Keys: slots, tags, and the Lua twins of what Python spells."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

import ojs_cluster
from ojs_cluster.keys import MAX_SHARDS, META, SHARD_KEYS, Keyspace, Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground import job_fields as fields
from ojs_cluster.store.ground.scripts import read_includes, read_transitions
from tests.support.servers import observer

SCRIPTS = read_transitions()
INCLUDES = read_includes()


@pytest.fixture
def lua(standalone: Embedded) -> Iterator[Any]:
    """Runs Lua on a real server."""
    with observer(standalone) as client:
        yield client.eval


def built_keys(shard: Shard) -> dict[str, bytes]:
    """Return the keys of a shard by their names, and one of each function that returns keys."""
    keys = {name: getattr(shard, name) for name in SHARD_KEYS}
    for name, builder in inspect.getmembers(shard, inspect.ismethod):
        if not name.startswith("_"):
            kinds = [each.annotation for each in inspect.signature(builder).parameters.values()]
            values = zip(kinds, ("x{y}z", "host{1}:2", "k"), strict=False)
            keys[name] = builder(*(META if kind == "int" else value for kind, value in values))
    return keys


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 64, 100, 1000, MAX_SHARDS])
def test_each_shard_lies_in_its_own_equal_range_of_slots(shards: int) -> None:
    keyspace = Keyspace(shards)

    assert len(keyspace) == shards
    for index, shard in enumerate(keyspace):
        assert shard.index == index
        assert shard.slot == key_slot(shard.tag.encode())
        assert index * 16384 // shards <= shard.slot < (index + 1) * 16384 // shards
    assert len({shard.tag for shard in keyspace}) == shards


@pytest.mark.parametrize("shards", [0, -1, MAX_SHARDS + 1])
def test_a_shard_count_out_of_range_is_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        Keyspace(shards)


@pytest.mark.parametrize("masters", [3, 4, 5, 6])
def test_masters_that_split_the_slots_evenly_own_the_same_number_of_shards(masters: int) -> None:
    owned = [0] * masters
    for shard in Keyspace(64):
        owned[shard.slot * masters // 16384] += 1

    assert max(owned) - min(owned) <= 1


def test_every_key_and_channel_of_a_shard_carries_its_tag_and_slot() -> None:
    for shard in Keyspace(64):
        built = built_keys(shard)
        assert len(set(built.values())) == len(built)
        for key in built.values():
            assert key.startswith(b"ojs:{%b}:" % shard.tag.encode())
            assert key_slot(key) == shard.slot


def test_keys_of_the_whole_cluster_carry_one_tag_of_their_own() -> None:
    meta = Keyspace(64).meta

    for key in (
        *(
            meta.schema,
            meta.queues,
            meta.leader("g"),
            meta.fencing_counter("g"),
            meta.candidates("g"),
        ),
        *(meta.crons, meta.cron_names, meta.cron("x"), meta.cron_history("x")),
        meta.cron_counts,
        *(meta.events, meta.schedule_channel, meta.audit, meta.audit_refused),
        *(meta.history_minutes, meta.history_hours),
        *(meta.maintenance, meta.ui_secret, meta.processes, meta.process_reports),
        *(meta.bulk_running, meta.bulk_ended, meta.bulk("x")),
        *(meta.pools, meta.pool_counts("x"), meta.tenants, meta.known_tenants),
        *(meta.queue_defaults, meta.queue_defaults_channel),
        *(meta.marks, meta.searches, meta.problems, meta.problem_mutes),
        *(meta.job_schemas, meta.job_schema_documents, meta.job_schema_channel),
    ):
        assert key.startswith(b"ojs:{meta}:")
        assert key_slot(key) == meta.slot
    assert not any(shard.tag == "meta" for shard in Keyspace(64))


@pytest.mark.parametrize("shards", [1, 64, MAX_SHARDS])
def test_a_slot_names_its_shard_and_back(shards: int) -> None:
    keyspace = Keyspace(shards)
    names = [META, *range(shards)]
    slots = [keyspace.slot_of_index(index) for index in names]
    assert [keyspace.index_of_slot(slot) for slot in slots] == names
    unused = set(range(16384)) - set(slots)
    assert keyspace.index_of_slot(unused.pop()) is None


def test_lua_spells_keys_as_python_does(lua: Any) -> None:
    shard, meta = Keyspace(64).shard(63), Keyspace(64).meta
    builders = {
        "job_key('x')": shard.job("x"),
        "checkpoint_key('x')": shard.checkpoint("x"),
        "queue_available_key('x')": shard.queue_available("x"),
        "queue_counters_key('x')": shard.queue_counters("x"),
        "tenant_turns_key('x')": shard.tenant_turns("x"),
        "queue_minutes_key('x')": shard.queue_minutes("x"),
        "queue_history_key('x')": shard.queue_history("x"),
        "queue_times_key('x')": shard.queue_times("x"),
        "queue_types_key('x')": shard.queue_types("x"),
        "type_hour_history_key('x')": shard.type_hour_history("x"),
        "queue_dead_key('x')": shard.queue_dead("x"),
        "worker_key('x')": shard.worker("x"),
        "{workflow_keys('x')}": [
            shard.workflow("x"),
            shard.workflow_definitions("x"),
            shard.workflow_results("x"),
        ],
        "webhook_pending_key('x')": shard.webhook_pending("x"),
        "transaction_key('x')": shard.transaction("x"),
        "outbox_waiting_key('63')": shard.outbox_waiting(63),
        "queue_blocked_key('x')": shard.queue_blocked("x"),
        "rate_limit_key('x')": shard.rate_limit("x"),
        "token_holders_key('x')": shard.token_holders("x"),
        "token_requesters_key('x')": shard.token_requesters("x"),
        "token_demand_key('x')": shard.token_demand("x"),
        "token_unrequested_key('x', 'k')": shard.token_unrequested("x", "k"),
        "token_requested_key('x', 'k')": shard.token_requested("x", "k"),
        "tenant_queue_key('x', 't')": shard.tenant_queue("x", "t"),
        "tenant_counters_key('t')": shard.tenant_counters("t"),
        "parked_jobs_key('x', 'k', 't')": shard.parked_jobs("x", "k", "t"),
    }
    of_meta = {"cron_key('x')": meta.cron("x"), "bulk_key('x')": meta.bulk("x")}
    functions = set(re.findall(r"^local function (\w+)", INCLUDES["keys"], re.MULTILINE))
    compared = {expression.strip("{").partition("(")[0] for expression in {**builders, **of_meta}}
    assert functions - compared == {"job_id_of", "queue_of"}, "which take a key apart"
    names = re.findall(r"\b([A-Z_]{2,})\b(?=[,A-Z_ ]*= PREFIX)", INCLUDES["keys"])
    shard_keys = {name: bytes(getattr(shard, name.lower())) for name in names}

    for expression, key in {**builders, **shard_keys}.items():
        code = f"{INCLUDES['keys']}\nreturn {expression}"
        assert lua(code, 1, shard.due) == key, expression
    for expression, key in of_meta.items():
        code = f"{INCLUDES['keys']}\nreturn {expression}"
        assert lua(code, 1, meta.crons) == key, expression


@pytest.mark.parametrize("name", sorted({*SCRIPTS, *INCLUDES} - {"keys", "find_unnumbered"}))
def test_a_key_is_spelled_in_one_place_only(name: str) -> None:
    """``find_unnumbered`` gets names of earlier versions as arguments."""
    assert not re.search(r"\bPREFIX\b|'ojs:", re.sub("--.*", "", {**INCLUDES, **SCRIPTS}[name]))


def test_lua_names_fields_as_python_does(lua: Any) -> None:
    table = INCLUDES["fields"]
    flat = lua(
        f"{table}\nlocal o = {{}} for k, v in pairs(F) do o[#o+1] = k o[#o+1] = v end return o", 0
    )
    in_lua = {
        name.decode().upper(): value for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
    in_python = {name: value for name, value in vars(fields).items() if isinstance(value, bytes)}

    assert in_lua == in_python
    assert len(set(in_python.values())) == len(in_python)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_opens_with_its_contract(name: str) -> None:
    text = SCRIPTS[name]
    head, body = split(text)

    assert re.match(r"-- \S.+", head), "opens with what it does"
    assert re.search(r"^-- KEYS: 1(?:\.\.\d+)? ", head, re.MULTILINE)
    assert "-- Returns:" in head
    uses_arguments = "ARGV" in body or " append_event" in body
    assert ("ARGV: 1" in head) == uses_arguments


@pytest.mark.parametrize(
    "name", sorted(name for name, text in SCRIPTS.items() if text.startswith("-- Transition"))
)
def test_a_transition_says_from_what_to_what_and_what_holds_afterwards(name: str) -> None:
    head, _ = split(SCRIPTS[name])

    assert re.match(r"-- Transitions?\b.*?(->|none;)", head, re.DOTALL)
    assert "-- Post: " in head


@pytest.mark.parametrize("name", sorted(INCLUDES))
def test_a_piece_is_small_and_says_what_it_is(name: str) -> None:
    assert INCLUDES[name].startswith("-- ")
    assert INCLUDES[name].count("\n") < 80


READS = {
    *("CLUSTER", "NODES"),  # of CLUSTER NODES
    *("CONFIG", "GET"),  # of CONFIG GET
    *("EXISTS", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "INFO", "LRANGE", "PING"),
    *("SCAN", "TIME", "XLEN", "XRANGE", "XREVRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE"),
    *("ZRANGEBYLEX", "ZRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCORE"),
}
"""Words of commands that write nothing."""
OTHERS = {
    ("admin.py", "UNLINK"): "the test hook removes all keys",
    ("cancel_run.py", "SPUBLISH"): "writes nothing",
    ("progress_check.py", "ZREM"): "an entry of the index is no name: another program wrote it",
    ("rate_limits.py", "ZREM"): "likewise",
    ("retention.py", "ZREM"): "the registry of names is in another slot than the queues",
    ("rights.py", "WAIT"): "writes nothing",
    ("rights.py", "WAITAOF"): "writes nothing",
    ("transactions.py", "SETRANGE"): "with an empty text, writes nothing",
    ("workers.py", "SPUBLISH"): "writes nothing",
}
"""File and word of each other command, and why it is not in a script."""


def test_the_store_writes_by_scripts_only() -> None:
    modules = list((Path(ojs_cluster.__file__).parent / "store").rglob("*.py"))
    found = {(file.name, command) for file in modules for command in commands(file.read_text())}
    assert {each for each in found if each[1] not in READS} == OTHERS.keys()


def commands(source: str) -> list[str]:
    """The Redis commands that a module names in its calls."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        str(argument.value)
        for call in calls
        if isinstance(call.func, ast.Name | ast.Attribute)
        and re.search(r"(call|call_node|call_masters)$", ast.unparse(call.func))
        for argument in words(call)[:3]
        if isinstance(argument, ast.Constant) and re.fullmatch(r"[A-Z]{3,}", str(argument.value))
    ]


def words(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call, with those of ``*(...)``."""
    found: list[ast.expr] = []
    for argument in call.args:
        match argument:
            case ast.Starred(value=ast.Tuple(elts=elements)):
                found += elements
            case _:
                found.append(argument)
    return found


def split(text: str) -> tuple[str, str]:
    """The comment that a script opens with, and the rest."""
    lines = text.splitlines(keepends=True)
    comments = next(i for i, line in enumerate(lines) if not re.match(r"--(?!@)", line))
    return "".join(lines[:comments]), "".join(lines[comments:])
