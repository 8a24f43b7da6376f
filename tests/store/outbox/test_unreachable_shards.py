"""A master that answers nothing delays only what needs it: no ack elsewhere, no other effect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import ack as acks
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox import outbox
from ojs_cluster.store.engine.outbox.outbox import drain, drain_blocked
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.ground.fanout import WIDTH
from ojs_cluster.store.ground.process_state import unreachable_shards
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import HOUR, QUEUE, nack, new_job, reap_all, take
from tests.store.unique_jobs import once
from tests.support.lossy import LossyClient
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import own_server
from tests.support.timeshift import age_job

CALL_TIMEOUT_S = 600.0
"""Far beyond what any step here may take: a step that waits for the stopped master fails."""
SOON_S = 120.0
ENTRIES = 2000


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters; none is declared dead however long it is stopped."""
    with own_server(tmp_path_factory.mktemp("away"), node_timeout_ms=600_000) as running:
        yield running


@pytest.fixture
async def store(servers: Embedded, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store that waits for effects as in production, and for Redis much longer."""
    monkeypatch.setattr(outbox, "DELIVER_S", 1.0)
    monkeypatch.setattr(unreachable_shards, "ANSWER_S", 1.0)
    monkeypatch.setattr(unreachable_shards, "PAUSE_S", CALL_TIMEOUT_S)
    client = replace(
        patient_client(servers), reply_timeout_s=CALL_TIMEOUT_S, call_timeout_s=CALL_TIMEOUT_S
    )
    for node in servers.masters():
        with node.client() as redis:
            redis.flushall()
    async with open_store(client, prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
def victim(store: Store, servers: Embedded) -> Iterator[EmbeddedNode]:
    """A master without the shard of the queue, and what else the tests need."""
    needed = {
        node_of(store, store.keys.shard_of_queue(QUEUE)),
        port_of(store, store.keys.meta.slot),
    }
    node = next(node for node in servers.masters() if node.port not in needed)
    yield node
    servers.resume(node)


def node_of(store: Store, shard: Shard) -> int:
    """The port of the master that serves ``shard``."""
    return port_of(store, shard.slot)


def port_of(store: Store, slot: int) -> int:
    address = store.redis.topology.owner(slot)
    assert address is not None
    return address.port


async def holding(
    store: Store, node: EmbeddedNode, worker: str = "w1", **options: Any
) -> JobRecord:
    """An active job whose unique lock lives on ``node``."""
    for number in range(1000):
        job_type = f"type.n{number}"
        fingerprint = new_job(type=job_type, unique={"keys": ["type"]}).fingerprint
        if node_of(store, store.keys.shard_of_fingerprint(fingerprint)) == node.port:
            break
    await once(store, keys=["type"], type=job_type, **options)
    [job] = await take(store, worker=worker)
    return job


async def acked(store: Store, job: JobRecord, _db: Any) -> None:
    await acks.ack(store, job.id, worker_id="w1", lease_id=job.lease_id, result=None)


async def acked_with_others(store: Store, job: JobRecord, _db: Any) -> None:
    one = acks.Ack(job.id, job.lease_id, None)
    assert await acks.ack_many(store, [one], worker_id="w1") == ["completed"]


async def discarded(store: Store, job: JobRecord, _db: Any) -> None:
    await nack(store, job)


async def cancelled(store: Store, job: JobRecord, _db: Any) -> None:
    await cancel(store, job.id)


async def reaped(store: Store, job: JobRecord, db: Any) -> None:
    age_job(db, store.keys.shard_of_queue(QUEUE), job.id, HOUR)
    await reap_all(store)


async def recovered(store: Store, job: JobRecord, _db: Any) -> None:
    dead = [workers.DeadWorker("w1", 2**45)]
    await workers.recover(store, store.keys.shard_of_queue(QUEUE), dead)


End = Callable[[Store, JobRecord, Any], Awaitable[None]]


@pytest.mark.parametrize("end", [acked, acked_with_others, discarded, cancelled, reaped, recovered])
async def test_a_job_ends_at_once_though_its_lock_lives_on_a_stopped_master(
    store: Store, servers: Embedded, victim: EmbeddedNode, end: End
) -> None:
    job = await holding(store, victim, max_attempts=1)
    shard = store.keys.shard_of_queue(QUEUE)
    servers.pause(victim)
    with observer_of(servers, store, shard) as db:
        with trio.fail_after(SOON_S):
            await end(store, job, db)
        assert db.zcard(shard.finished) == 1
        assert db.zcard(shard.outbox_due) == 1, "the unlock is still in the outbox"


async def test_effects_for_a_stopped_master_block_no_other(
    store: Store, servers: Embedded, victim: EmbeddedNode
) -> None:
    shard = store.keys.shard_of_queue(QUEUE)
    away_shards = [one for one in store.keys if node_of(store, one) == victim.port]
    near = next(one for one in store.keys if node_of(store, one) != victim.port)
    servers.pause(victim)
    with observer_of(servers, store, shard) as db:
        for number in range(1, ENTRIES + 2):
            target = away_shards[number % len(away_shards)] if number <= ENTRIES else near
            append_unlock(db, shard, number, target)
        counted = LossyClient(store.redis, lambda _name, _before: False)
        watched = replace(store, redis=cast(Client, counted))
        told: list[int] = []
        with trio.fail_after(SOON_S):
            while db.hexists(shard.outbox, ENTRIES + 1):
                await drain(watched, shard, 100, lambda index, _at_ms: told.append(index))
            for _ in range(3):  # nothing of it is read again while they are away
                assert (await drain(watched, shard, 100)).done == 0
        assert set(told) == {shard.index}
        assert db.zcard(shard.outbox_due) == 0
        waiting = [db.zcard(shard.outbox_waiting(one.index)) for one in away_shards]
        assert sum(waiting) == ENTRIES
        assert min(waiting) > 0
        assert counted.calls["lock_settle"] <= len(away_shards) + 2 * WIDTH
        rounds = ENTRIES / 100 + 1
        assert sum(counted.calls.values()) <= (rounds + 3) * (2 + len(away_shards)) + 2 * WIDTH

        servers.resume(victim)
        for one in away_shards:
            store.unreachable_shards.discard(one.slot)
        with trio.fail_after(SOON_S):
            while db.exists(shard.outbox_blocked_shards):
                for name in db.zrange(shard.outbox_blocked_shards, 0, -1):
                    db.zadd(shard.outbox_blocked_shards, {name: 1})
                await drain_blocked(store, shard, 100)
        assert db.hlen(shard.outbox) == 0
        assert not db.exists(shard.outbox, shard.outbox_blocked_shards)


async def test_one_entry_at_a_time_probes_a_master_that_stays_unreachable(
    store: Store, servers: Embedded, victim: EmbeddedNode
) -> None:
    shard = store.keys.shard_of_queue(QUEUE)
    target = next(one for one in store.keys if node_of(store, one) == victim.port)
    impatient = replace(patient_client(servers), reply_timeout_s=3.0, call_timeout_s=3.0)
    async with open_store(impatient, prelude=PRELUDE) as other:
        servers.pause(victim)
        with observer_of(servers, store, shard) as db:
            for number in range(1, 101):
                append_unlock(db, shard, number, target)
            await drain(other, shard, 100)
            assert db.zcard(shard.outbox_waiting(target.index)) == 100
            other.unreachable_shards.discard(target.slot)
            counted = LossyClient(other.redis, lambda _name, _before: False)
            watched = replace(other, redis=cast(Client, counted))
            for _ in range(3):
                db.zadd(shard.outbox_blocked_shards, {str(target.index): 1})
                result = await drain_blocked(watched, shard, 100)
                assert not result.more
                assert result.next_ms == int(
                    db.zscore(shard.outbox_blocked_shards, str(target.index))
                )
                assert result.next_ms > result.now_ms, "tried again later"
            assert counted.calls["lock_settle"] == 1, "the others saw that it had just failed"
            assert db.zcard(shard.outbox_waiting(target.index)) == 100


async def test_entries_of_many_shards_are_delivered_at_once_when_their_shard_is_back(
    store: Store, servers: Embedded
) -> None:
    """The first of each is a probe; the rest of one shard keeps no other shard's waiting."""
    target = store.keys.shard(0)
    one, other = (shard for shard in list(store.keys)[1:3])
    busy, done = trio.Event(), trio.Event()

    async def unlock(watched: Store, shard: Shard, payload: bytes) -> None:
        await store.effects["unlock"](watched, shard, payload)
        if shard is one and b" 2 " in payload:
            busy.set()
            await done.wait()

    slow = replace(store, effects={**store.effects, "unlock": unlock})
    with ExitStack() as stack:
        dbs = {
            shard: stack.enter_context(observer_of(servers, store, shard)) for shard in (one, other)
        }
        for shard, db in dbs.items():
            for number in (1, 2):
                append_unlock(db, shard, number, target)
                db.zrem(shard.outbox_due, number)
                db.zadd(shard.outbox_waiting(target.index), {str(number): number})
            db.zadd(shard.outbox_blocked_shards, {str(target.index): 1})
        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain_blocked, slow, one, 100)
                await busy.wait()
                await drain_blocked(slow, other, 100)
                left = dbs[other].hlen(other.outbox)
                done.set()
        assert left == 0
        assert dbs[one].hlen(one.outbox) == 0


async def test_an_entry_that_fails_is_tried_again_when_it_is_due(
    store: Store, servers: Embedded
) -> None:
    shard, target = list(store.keys)[:2]
    with observer_of(servers, store, shard) as db:
        db.hset(shard.outbox, "1", "unheard 0 of")
        db.zadd(shard.outbox_waiting(target.index), {"1": 1})
        db.zadd(shard.outbox_blocked_shards, {str(target.index): 1})
        result = await drain_blocked(store, shard, 100)
        assert result.next_ms == int(db.zscore(shard.outbox_waiting(target.index), "1"))


def append_unlock(db: Any, shard: Shard, number: int, target: Shard) -> None:
    """Owe, since long ago, the release of a lock that lives in ``target``."""
    fingerprint = f"{target.index:08x}" + "0" * 56
    db.hset(shard.outbox, str(number), f"unlock 0 {fingerprint} {number} 0")
    db.zadd(shard.outbox_due, {str(number): number})


def observer_of(servers: Embedded, store: Store, shard: Shard) -> Any:
    """redis-py on the master of ``shard``, as its cluster client would ask the stopped one too."""
    port = node_of(store, shard)
    return next(node for node in servers.masters() if node.port == port).client()
