"""A master that has lost its data is noticed, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import META
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations.losses import (
    forget_losses,
    read_losses,
    rebuild,
    record_losses,
)
from tests.redis.slots import Mover
from tests.redis.test_durability import paused
from tests.scheduler.running import eventually
from tests.store.shortcuts import clock_ms, put, restore, shard_of, take
from tests.support.patience import patient_client
from tests.support.servers import (
    await_replicated,
    clients_of_masters,
    flush,
    own_server,
    replicas_of,
)

_QUEUES = [f"q{number}" for number in range(20)]


async def stamp(store: Store) -> None:
    """Let all tags get their stamps."""
    for _ in range(2):
        await restore(store)


def stamps(store: Store, db: Any) -> set[bytes | None]:
    return {db.hget(tag.schema, "stamp") for tag in (*store.keys, store.keys.meta)}


async def test_a_new_cluster_has_lost_nothing(store: Store, db: Any) -> None:
    seen = []
    for _ in range(3):
        assert await read_losses(store) == ()
        seen.append(stamps(store, db))
        await restore(store)
    assert seen == [{None}, {b"1"}, {b"2"}]
    assert await read_losses(store) == ()


async def test_a_stamp_that_is_missing_before_all_have_one_is_no_loss(
    store: Store, db: Any
) -> None:
    await restore(store)
    db.hdel(store.keys.shard(3).schema, "stamp")
    assert await read_losses(store) == ()
    await stamp(store)
    assert stamps(store, db) == {b"2"}


async def test_lost_shards_are_told_until_an_operator_knows_of_them(store: Store, db: Any) -> None:
    await stamp(store)
    lost = [store.keys.shard(0), store.keys.shard(1)]
    for shard in lost:
        db.delete(shard.schema)
    address = str(store.redis.topology.owner(lost[0].slot))

    def told(losses: Any) -> list[tuple[str, int, bool]]:
        return [(loss.address, loss.shards, loss.of_meta) for loss in losses]

    assert told(await read_losses(store)) == [(address, 2, False)], "before it is recorded"
    for _ in range(2):
        await restore(store)
        assert told(await read_losses(store)) == [(address, 2, False)]
    assert stamps(store, db) == {b"2"}
    assert db.hget(lost[0].schema, "shards") == b"64", "the copy of the layout is back"
    assert not await forget_losses(store, "10.0.0.1:1")
    assert await forget_losses(store, address)
    assert await read_losses(store) == ()
    assert not await forget_losses(store, address)


async def test_a_second_loss_of_a_master_is_another_one(store: Store, db: Any) -> None:
    await stamp(store)
    shard = store.keys.shard(0)
    seen = []
    for _ in range(2):
        db.delete(shard.schema)
        await restore(store)
        [loss] = await read_losses(store)
        assert loss.at_ms is not None
        seen.append((loss.address, loss.at_ms))
        db.hset(shard.schema, "loss", f"{loss.at_ms - 1000} {loss.address}")
    assert seen[0] != seen[1]
    address, at_ms = seen[1]
    assert not await forget_losses(store, f"{address}@{at_ms}"), "it is older by now"
    assert await forget_losses(store, f"{address}@{at_ms - 1000}")
    assert await read_losses(store) == ()


async def test_a_loss_that_several_processes_record_is_one(store: Store, db: Any) -> None:
    await stamp(store)
    now_ms = await clock_ms(store, 0)
    old = (now_ms - 180_000, now_ms - 125_000)
    for number, at_ms in enumerate((now_ms, *old, now_ms - 2)):
        db.hset(store.keys.shard(number).schema, "loss", f"{at_ms} master:1")
    found = [(loss.at_ms, loss.shards) for loss in await read_losses(store)]
    assert found == [(old[0], 2), (now_ms - 2, 2)]
    assert not await forget_losses(store, f"master:1@{now_ms}")
    assert await forget_losses(store, f"master:1@{now_ms - 2}")
    assert [loss.at_ms for loss in await read_losses(store)] == [old[0]]


async def test_a_loss_is_told_for_a_week(store: Store, db: Any) -> None:
    await stamp(store)
    shard = store.keys.shard(0)
    db.delete(shard.schema)
    await restore(store)
    at_ms, _, address = db.hget(shard.schema, "loss").decode().partition(" ")
    db.hset(shard.schema, "loss", f"{int(at_ms) - 7 * 86_400_000 - 60_000} {address}")
    assert await read_losses(store) == ()


async def test_a_loss_of_the_meta_tag_takes_no_other_loss_along(store: Store, db: Any) -> None:
    await stamp(store)
    db.delete(store.keys.shard(0).schema)
    await restore(store)
    [loss] = await read_losses(store)
    assert loss.at_ms is not None
    at_ms = loss.at_ms - 120_000
    db.hset(store.keys.shard(0).schema, "loss", f"{at_ms} {loss.address}")
    before = await read_losses(store)
    db.delete(store.keys.meta.schema)
    await restore(store)
    after = await read_losses(store)
    assert sum(loss.shards for loss in after) == 1
    assert set(before) < set(after)


async def test_a_loss_that_is_acknowledged_before_the_rebuild_stays_so(
    store: Store, db: Any
) -> None:
    await stamp(store)
    for key in (store.keys.meta.schema, store.keys.meta.queues):
        db.delete(key)
    assert await record_losses(store)
    assert db.hget(store.keys.meta.schema, "stamp") == b"1"
    [loss] = await read_losses(store)
    assert await forget_losses(store, loss.address)
    await restore(store)
    assert await read_losses(store) == ()
    assert stamps(store, db) == {b"2"}


async def test_a_process_without_the_task_leaves_the_rebuild_to_another(
    store: Store, db: Any
) -> None:
    for queue in _QUEUES:
        await put(store, queue)
    await stamp(store)
    for key in (store.keys.meta.schema, store.keys.meta.queues):
        db.delete(key)
    calls = []

    async def has_task() -> bool:
        calls.append(1)
        return False

    assert await record_losses(store)
    await rebuild(store, has_task)
    assert len(calls) == len(store.redis.topology.masters)
    assert not db.exists(store.keys.meta.queues)
    assert await record_losses(store), "it is still to be rebuilt"
    await restore(store)
    assert {each.decode() for each in db.zrange(store.keys.meta.queues, 0, -1)} == set(_QUEUES)
    assert not await record_losses(store)


async def test_a_master_that_hangs_delays_no_reader(tmp_path: Path) -> None:
    with own_server(tmp_path, node_timeout_ms=120_000) as cluster:
        async with open_store(patient_client(cluster)) as store:
            await stamp(store)
            [db, *_] = cluster.masters()
            owned = [
                shard
                for shard in store.keys
                if str(store.redis.topology.owner(shard.slot)) != db.address
            ]
            await store.redis.call(owned[0].slot, "DEL", owned[0].schema)
            with paused(db):
                began = trio.current_time()
                losses = await read_losses(store)
                assert trio.current_time() - began < 5, "patient clients wait for 60 s"
            assert sum(loss.shards for loss in losses) == 1


async def test_the_list_of_queues_is_rebuilt_with_their_partitions(
    store: Store, other_store: Store, db: Any
) -> None:
    for queue in _QUEUES:
        await put(store, queue)
    await store.partitions.update(store, "wide", lambda _old, _ms: PartitionLayout.of_count(8))
    await stamp(store)
    layout = db.hgetall(store.keys.meta.schema)
    shards = store.keys.partitions("wide", 8)
    keys = store.keys.meta
    for _ in range(100):
        await put(store, "wide")
    used = [n for n, shard in enumerate(shards) if db.exists(shard.queue_counters("wide"))]
    for key in (keys.queues, keys.schema, keys.partitions, keys.partition_changes):
        db.delete(key)

    await restore(other_store)
    assert {each.decode() for each in db.zrange(keys.queues, 0, -1)} == {*_QUEUES, "wide"}
    [loss] = await read_losses(store)
    assert (loss.shards, loss.of_meta) == (0, True)
    found = db.hgetall(keys.schema)
    assert (found[b"version"], found[b"shards"]) == (layout[b"version"], layout[b"shards"])
    await store.partitions.read(store)
    assert store.partitions.layout("wide").open_count == max(used) + 1
    jobs = await take(store, "wide", count=100)
    assert len(jobs) == sum(db.zcard(shard.active) for shard in store.keys)


async def test_queues_of_a_master_that_refuses_scan_are_listed_when_it_permits_it(
    cluster: Embedded,
) -> None:
    """The queues of the other masters are listed at once."""
    async with open_store(patient_client(cluster)) as store:
        keys, topology = store.keys.meta, store.redis.topology
        for queue in _QUEUES:
            await put(store, queue)
        await stamp(store)
        await store.redis.call(keys.slot, "DEL", keys.schema)
        await store.redis.call(keys.slot, "DEL", keys.queues)

        async def listed() -> set[str]:
            found: Any = await store.redis.call(keys.slot, "ZRANGE", keys.queues, 0, -1)
            return {each.decode() for each in found}

        with clients_of_masters(cluster) as clients:
            node: Any = clients[0]
            node.execute_command("ACL", "SETUSER", "default", "-scan")
            try:
                with pytest.raises(AclDenied, match="SCAN"):
                    await restore(store)
            finally:
                node.execute_command("ACL", "SETUSER", "default", "+@all")
        refusing = cluster.masters()[0].address
        assert await listed() == {
            queue
            for queue in _QUEUES
            if str(topology.owner(shard_of(store, queue).slot)) != refusing
        }
        await restore(store)
        assert await listed() == set(_QUEUES)
        assert not await record_losses(store), "it is rebuilt"


async def test_a_process_remembers_data_that_no_master_has_kept(
    store: Store, backend: Embedded
) -> None:
    await stamp(store)
    flush(backend)
    losses = await read_losses(store)
    assert sum(loss.shards for loss in losses) == len(store.keys)
    assert [loss.of_meta for loss in losses].count(True) == 1
    async with open_store(patient_client(backend)) as later:
        assert await read_losses(later) == (), "it has never seen the data"
    await restore(store)
    assert await read_losses(store) != ()


async def test_slots_that_move_and_replicas_that_take_over_are_no_loss(tmp_path: Path) -> None:
    with own_server(tmp_path, replicas=1, node_timeout_ms=1000) as cluster:
        async with open_store(patient_client(cluster)) as store:
            await stamp(store)
            await_replicated(cluster)
            shard = store.keys.shard(0)
            source, target = (
                next(
                    node
                    for node in cluster.masters()
                    if (node.address == str(store.redis.topology.owner(shard.slot))) == is_owner
                )
                for is_owner in (True, False)
            )
            mover = Mover(cluster)
            mover.begin(shard.slot, source, target)
            assert await read_losses(store) == ()
            mover.move_keys(shard.slot, source, target)
            assert await read_losses(store) == ()
            mover.finish(shard.slot, target)
            stamp_of = (shard.slot, "HGET", shard.schema, "stamp")
            assert await store.redis.call(*stamp_of, idempotent=True) == b"2"  # is redirected
            await eventually(lambda: str(store.redis.topology.owner(shard.slot)) == target.address)
            assert await read_losses(store) == ()

            owner = str(store.redis.topology.owner(store.keys.slot_of_index(META)))
            [lost] = [node for node in cluster.nodes if node.address == owner]
            [replica] = replicas_of(cluster, lost)
            await_replicated(cluster)
            cluster.kill(lost)

            def took_over() -> bool:
                return str(store.redis.topology.owner(store.keys.slot_of_index(META))) == (
                    replica.address
                )

            await eventually(took_over)
            await restore(store)
            assert await read_losses(store) == ()


@pytest.mark.parametrize("is_meta", [True, False])
async def test_a_master_that_is_emptied_on_purpose_has_lost_its_data(
    cluster: Embedded, is_meta: bool
) -> None:
    async with open_store(patient_client(cluster)) as store:
        await stamp(store)
        slot = store.keys.slot_of_index(META)
        address = str(store.redis.topology.owner(slot))
        if not is_meta:
            address = next(
                str(each) for each in store.redis.topology.masters if str(each) != address
            )
        with clients_of_masters(cluster) as clients:
            for node, client in zip(cluster.masters(), clients, strict=True):
                if node.address == address:
                    client.flushall()
        await restore(store)
        [loss] = await read_losses(store)
        assert (loss.address, loss.of_meta) == (address, is_meta)
        assert 20 <= loss.shards <= 23
