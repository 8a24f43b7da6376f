"""The status of the nodes and schedulers, on a standalone server and on a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations.leader import RedisLeaderLock
from ojs_cluster.store.operators.operations.nodes import read_cluster
from ojs_cluster.store.operators.operations.processes import (
    SILENT_MS,
    _send,
    describe_process,
    list_processes,
    report_process,
)
from tests.scheduler.running import eventually
from tests.support.patience import patient_client
from tests.support.servers import await_replicated, own_server


def lock(store: Store, shard: int, identity: str) -> RedisLeaderLock:
    return RedisLeaderLock(store, shard, "g", identity, 60_000)


async def test_every_shard_is_on_one_master_with_its_memory(store: Store) -> None:
    status = await read_cluster(store, "g")
    assert status.clustered == store.redis.topology.clustered
    assert {master.address for master in status.masters} == {
        str(address) for address in store.redis.topology.masters
    }
    assert sum(master.shards for master in status.masters) == len(store.keys)
    assert sum(master.slots for master in status.masters) == status.slots_covered == 16384
    for master in status.masters:
        assert master.answers
        assert master.memory_bytes
        assert master.policy == "noeviction"
        assert master.server.partition(" ")[0] in ("redis", "valkey")


async def test_a_master_tells_the_host_that_it_announces(store: Store) -> None:
    first, *others = store.redis.topology.masters
    setting = "cluster-announce-human-nodename"
    if not store.redis.topology.clustered:
        pytest.skip("a standalone server announces no host")
    if not await store.redis.call_node(first, "CONFIG", "GET", setting):
        pytest.skip("this server announces no host")
    await store.redis.call_node(first, "CONFIG", "SET", setting, "machine.1")
    try:
        hosts = {each.address: each.host for each in (await read_cluster(store, "g")).masters}
    finally:
        await store.redis.call_node(first, "CONFIG", "SET", setting, "")
    assert hosts == {str(first): "machine.1"} | {str(each): "" for each in others}


async def test_the_leaders_and_the_candidates_are_schedulers(store: Store) -> None:
    for shard in range(len(store.keys)):
        name = "a:1" if shard % 4 else "b:2"
        await lock(store, shard, name).acquire(insist=True)
    await lock(store, META, "b:2").acquire(insist=True)
    await lock(store, META, "c:3").acquire()
    status = await read_cluster(store, "g")
    found = {each.identity: (each.shards, each.leads_meta) for each in status.schedulers}
    assert found == {"a:1": (48, False), "b:2": (16, True), "c:3": (0, False)}
    assert (status.without_leader, status.unread) == (0, 0)
    other = await read_cluster(store, "another group")
    assert (other.schedulers, other.without_leader) == ((), len(store.keys) + 1)


async def test_replicas_are_shown_with_their_lag(tmp_path: Path) -> None:
    with own_server(tmp_path, replicas=1, node_timeout_ms=60_000) as embedded:
        await_replicated(embedded)
        async with open_store(patient_client(embedded)) as store:
            status = await read_cluster(store, "g")
    assert len(status.masters) == 3
    for master in status.masters:
        (replica,) = master.replicas
        assert replica.online
        assert replica.behind_bytes is not None
        assert replica.lag_s is not None
        assert replica.address not in {each.address for each in status.masters}


async def test_a_process_is_listed_while_it_runs(store: Store, db: Any) -> None:
    api, leader = describe_process(store, "api"), describe_process(store, "scheduler")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_process, store, api, "host:1:a")
        nursery.start_soon(report_process, store, leader, "host:2:b")
        await eventually(lambda: db.hlen(store.keys.meta.processes) == 2)
        listed = (await read_cluster(store, "g")).processes or {}
        assert all(abs(each.clock_ahead_ms) < 60_000 for each in listed.values())
        found = {name: replace(each, clock_ahead_ms=0) for name, each in listed.items()}
        assert found == {"host:1:a": api, "host:2:b": leader}
        nursery.cancel_scope.cancel()
    assert await list_processes(store) == {}


async def test_silent_and_surplus_processes_are_removed(store: Store, db: Any) -> None:
    meta = store.keys.meta
    description = orjson.dumps(describe_process(store, "api"))
    for number in range(1100):
        db.hset(meta.processes, f"p{number}", description)
        db.zadd(meta.process_reports, {f"p{number}": 4e12})
    db.hset(meta.processes, "damaged", b"[")
    db.zadd(meta.process_reports, {"damaged": 5e12})
    db.hset(meta.processes, "silent", description)
    db.zadd(meta.process_reports, {"silent": 1})
    await _send(store, "new", description)
    found = await list_processes(store)
    assert "new" in found
    assert not {"silent", "damaged"} & found.keys()
    assert db.zcard(meta.process_reports) == db.hlen(meta.processes) == 1000
    assert 0 < db.pttl(meta.processes) <= SILENT_MS
