"""One master takes connections and answers nothing: what that means to everybody else.

The master of the meta tag is stopped with SIGSTOP, the worst case: connections stand and no reply
comes. Whatever does not live there goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, TooManyQueues
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox import outbox
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground.process_state.registry import QueueRegistry
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations import health, metrics
from tests.scheduler.running import eventually
from tests.support.lossy import without
from tests.support.prelude import PRELUDE
from tests.support.servers import observer, own_server

CALL_S = 60.0
"""A call that waits for the stopped master at all fails its test by the limit of ``soon``."""
SOON_S = 30.0


@pytest.fixture(autouse=True)
def patience() -> None:
    """The product's own times hold here: they are what keeps shards apart."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    """Three masters; none is taken for dead while it is stopped."""
    with own_server(tmp_path, node_timeout_ms=120_000) as running:
        yield running


@pytest.fixture
async def store(server: Embedded) -> AsyncIterator[Store]:
    async with open_at(server) as opened:
        yield opened


@pytest.fixture
async def hasty(server: Embedded) -> AsyncIterator[Store]:
    """A store whose calls soon fail."""
    async with open_at(server, call_s=1.0) as opened:
        yield opened


def open_at(
    server: Embedded, settings: StoreSettings | None = None, *, call_s: float = CALL_S
) -> AbstractAsyncContextManager[Store]:
    """Open a store as a process of its own."""
    client = ClientSettings.from_url(
        server.url, call_timeout_s=call_s, reply_timeout_s=call_s, connect_timeout_s=5.0
    )
    return open_store(client, settings, prelude=PRELUDE)


def owner(server: Embedded, store: Store, slot: int) -> EmbeddedNode:
    """The master of a slot."""
    address = store.redis.topology.owner(slot)
    assert address is not None
    return next(node for node in server.nodes if node.port == address.port)


def names_on(
    server: Embedded, store: Store, node: EmbeddedNode, prefix: str = "q", *, here: bool = True
) -> Iterator[str]:
    """Queue names whose shard lives on ``node``, or not on it."""
    for number in range(1000):
        name = f"{prefix}{number}"
        shard = store.keys.shard_of_queue(name)
        if (owner(server, store, shard.slot) is node) == here:
            yield name


async def put(store: Store, queue: str, **more: object) -> JobRecord:
    options = "".join(f', "{name}": {value}' for name, value in more.items())
    text = f'{{"type": "t", "args": [], "options": {{"queue": "{queue}"{options}}}}}'
    return await enqueue(store, parse_job(text.encode()))


async def refuses(store: Store, queue: str) -> bool:
    """Whether the registry is full. It is not while effects still owe it names."""
    try:
        await put(store, queue)
    except TooManyQueues:
        return True
    return False


async def run_one(store: Store, queue: str) -> None:
    """Enqueue, fetch and ack one job."""
    job = await put(store, queue)
    [taken] = await fetch(store, [queue], count=1, worker_id="w")
    assert taken.id == job.id
    done = await ack(store, job.id, worker_id="w", lease_id=taken.lease_id, result=None)
    assert done.state is State.COMPLETED


async def test_queues_in_use_are_served_longer_than_their_names_are_remembered(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    healthy = names_on(server, store, node, here=False)
    names = [next(healthy) for _ in range(3)]
    process = replace(store, queues=QueueRegistry(first_renewal_s=0.2))
    for name in names:
        await run_one(process, name)
    server.pause(node)
    with trio.fail_after(SOON_S):
        for _ in range(10):
            for name in names:
                await run_one(process, name)
            await trio.sleep(0.2)
    server.resume(node)


async def test_a_job_is_stored_though_the_master_of_its_rate_limit_key_is_away(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    name = next(names_on(server, store, node, here=False))
    key = next(
        key
        for key in (f"key:{number}" for number in range(1000))
        if owner(server, store, store.keys.shard_of_limit(key).slot) is node
    )
    await put(store, name)
    server.pause(node)
    with trio.fail_after(SOON_S):
        await put(store, name, rate_limit=f'{{"key": "{key}", "concurrency": 1}}')
    server.resume(node)


async def test_a_fetch_whose_first_queue_is_away_has_time_for_the_next(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    away = next(names_on(server, store, node, here=True))
    name = next(names_on(server, store, node, here=False))
    job = await put(store, name)
    await fetch(store, [away], count=1, worker_id="w1")  # the worker's record is looked at seldom
    server.pause(node)
    start_deadline().at = trio.current_time() + 8
    with trio.fail_after(SOON_S):
        found = await fetch(store, [away, name], count=1, worker_id="w1")
    server.resume(node)
    assert [it.id for it in found] == [job.id]


async def test_a_queue_that_is_new_meanwhile_is_listed_in_the_end(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    name = next(names_on(server, store, node, "new", here=False))
    shard = store.keys.shard_of_queue(name)
    async with open_at(server) as producer:
        server.pause(node)
        with trio.fail_after(SOON_S):
            await run_one(producer, name)
    # The producer has gone, and with it all that it remembered.
    with observer(server) as db:
        assert owed_by(db, shard), "its name is owed"
        server.resume(node)

        async def listed() -> bool:
            await drain_all(db, store, shard)
            return await queues.exists(store, name)

        await eventually(listed)
        await eventually(lambda: not owed_by(db, shard))


def owed_by(db: Any, shard: Shard) -> list[bytes]:
    """Entries of a shard's outbox."""
    return [number for number in db.hkeys(shard.outbox) if number.isdigit()]


async def drain_all(db: Any, store: Store, shard: Shard) -> None:
    """As the scheduler, when the pauses of what failed are over."""
    for key in (shard.outbox_due, shard.outbox_blocked_shards):
        for member in db.zrange(key, 0, -1):
            db.zadd(key, {member: 0})
    await outbox.drain(store, shard, 100)
    await outbox.drain_blocked(store, shard, 100)


async def test_new_names_are_admitted_only_as_far_as_the_limit_is_known_to_allow(
    server: Embedded,
) -> None:
    async with open_at(server, StoreSettings(max_queues=3)) as store:
        node = owner(server, store, store.keys.meta.slot)
        names = names_on(server, store, node, here=False)
        await put(store, next(names))
        server.pause(node)
        with trio.fail_after(SOON_S):
            await put(store, next(names))
            await put(store, next(names))
            with pytest.raises(BackendUnavailable) as refused:
                await put(store, next(names))
            assert refused.value.outcome == "not_applied"
        server.resume(node)
        await eventually(lambda: store.redis.is_responsive(store.keys.meta.slot))
        await eventually(lambda: refuses(store, next(names)))


async def test_a_process_that_starts_meanwhile_serves_the_others(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    name = next(names_on(server, store, node, here=False))
    with observer(server) as db:
        await eventually(lambda: all(db.exists(shard.schema) for shard in store.keys))
    server.pause(node)
    with trio.fail_after(SOON_S):
        async with open_at(server) as other:
            await run_one(other, name)
    with trio.fail_after(SOON_S):
        # Copies lie under tags of the right layout only: another one does not find them.
        with pytest.raises(BackendUnavailable, match="layout"):
            async with open_store(ClientSettings.from_url(server.url), shards=32):
                pass
    server.resume(node)


async def test_waiting_for_jobs_of_a_silent_shard_holds_up_no_other_waiter(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.shard_of_queue("q0").slot)
    silent = list(names_on(server, store, node))[:3]
    name = next(names_on(server, store, node, here=False))
    waiters = Waiters()
    found: list[JobRecord] = []

    async def wait(queue: str) -> None:
        try:
            found.extend(
                await fetch_or_wait(
                    store, waiters, [queue], count=1, worker_id="", wait_ms=int(CALL_S * 1000)
                )
            )
        except BackendUnavailable:
            assert queue in silent

    server.pause(node)
    async with trio.open_nursery() as nursery:
        for queue in silent:
            nursery.start_soon(wait, queue)
        with trio.fail_after(SOON_S):
            await eventually(
                lambda: not store.redis.is_responsive(store.keys.shard_of_queue("q0").slot)
            )
            for _ in range(3):
                async with trio.open_nursery() as inner:
                    inner.start_soon(wait, name)
                    await trio.sleep(0.1)
                    await put(store, name)
        server.resume(node)
        nursery.cancel_scope.cancel()
    assert len(found) == 3


async def test_a_long_poll_waits_until_the_master_answers_again(
    server: Embedded, hasty: Store
) -> None:
    slot = hasty.keys.shard_of_queue("q0").slot
    node = owner(server, hasty, slot)
    waiters, found = Waiters(), list[JobRecord]()

    async def wait() -> None:
        found.extend(
            await fetch_or_wait(
                hasty, waiters, ["q0"], count=1, worker_id="", wait_ms=int(CALL_S * 2000)
            )
        )

    job = await put(hasty, "q0")
    server.pause(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await eventually(lambda: not hasty.redis.is_responsive(slot))
        await eventually(lambda: len(waiters) == 1)
        server.resume(node)
    assert [one.id for one in found] == [job.id]


async def test_a_long_poll_ends_with_what_its_last_fetch_knows(
    server: Embedded, hasty: Store
) -> None:
    node = owner(server, hasty, hasty.keys.shard_of_queue("q0").slot)
    wait = partial(fetch_or_wait, hasty, Waiters(), ["q0"], count=1, worker_id="", wait_ms=3000)
    await run_one(hasty, "q0")
    server.pause(node)
    with trio.fail_after(SOON_S):
        began = trio.current_time()
        with pytest.raises(BackendUnavailable):
            await wait()
        assert trio.current_time() - began >= 3
        with pytest.raises(BackendUnavailable):
            await wait(wait_ms=0)
    server.resume(node)
    await eventually(lambda: hasty.redis.is_responsive(hasty.keys.shard_of_queue("q0").slot))
    assert await wait() == []


async def test_a_drain_ends_the_wait_for_a_silent_master(server: Embedded, hasty: Store) -> None:
    node = owner(server, hasty, hasty.keys.shard_of_queue("q0").slot)
    waiters = Waiters()
    await run_one(hasty, "q0")
    server.pause(node)
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await eventually(lambda: len(waiters) == 1)
                waiters.drain()

            nursery.start_soon(drain)
            with pytest.raises(BackendUnavailable):
                await fetch_or_wait(
                    hasty, waiters, ["q0"], count=1, worker_id="", wait_ms=int(CALL_S * 1000)
                )
    server.resume(node)


@pytest.mark.parametrize("victim", ["meta", "another"])
async def test_a_process_is_ready_while_a_master_answers(
    server: Embedded, store: Store, victim: str
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    if victim == "another":
        node = next(one for one in server.masters() if one is not node)
    assert (await health.check(store)).covered
    server.pause(node)
    with trio.fail_after(SOON_S):
        assert not (await health.check(store)).covered
    for one in server.nodes:
        if one is not node:
            server.pause(one)
    with trio.fail_after(SOON_S), pytest.raises(BackendUnavailable):
        await health.check(store)
    for one in server.nodes:
        server.resume(one)
    await eventually(lambda: _covered(store))


async def _covered(store: Store) -> bool:
    try:
        return (await health.check(store)).covered
    except BackendUnavailable:
        return False


@pytest.mark.parametrize("victim", ["meta", "another"])
async def test_the_numbers_of_shards_that_answer_are_told(
    server: Embedded, store: Store, victim: str
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    if victim == "another":
        node = next(one for one in server.masters() if one is not node)
    well = next(names_on(server, store, node, here=False))
    silent = next(names_on(server, store, node))
    for name in (well, silent):
        await put(store, name)
    assert (await metrics.collect(store, 100)).unreachable == 0
    there = sum(owner(server, store, shard.slot) is node for shard in store.keys)
    server.pause(node)
    with trio.fail_after(SOON_S):
        numbers = await metrics.collect(store, 100)
    server.resume(node)
    assert silent not in numbers.queues, "a part of a sum would look like a counter that was reset"
    if victim == "meta":
        assert (numbers.unreachable, numbers.registered) == (there + 1, None)
    else:
        assert (numbers.unreachable, numbers.registered) == (there, 2)
        assert numbers.queues[well].jobs[State.AVAILABLE] == 1


async def test_pausing_a_queue_needs_no_other_shard(server: Embedded, store: Store) -> None:
    node = owner(server, store, store.keys.meta.slot)
    name = next(names_on(server, store, node, here=False))
    await put(store, name)
    server.pause(node)
    with trio.fail_after(SOON_S):
        assert await queues.exists(store, name)
        await pauses.pause_or_resume(store, name, "pause")
        assert (await queues.get_stats(store, name)).paused
    server.resume(node)


async def test_a_worker_whose_record_is_away_fetches_at_full_speed(
    server: Embedded, store: Store
) -> None:
    node = owner(server, store, store.keys.meta.slot)
    name = next(names_on(server, store, node, here=False))
    worker = next(
        f"w{number}"
        for number in range(1000)
        if owner(server, store, store.keys.shard_of_worker(f"w{number}").slot) is node
    )
    server.pause(node)
    take = partial(fetch, store, [name], count=1, worker_id=worker)
    with trio.fail_after(SOON_S):
        for _ in range(3):
            await put(store, name)
            assert len(await take()) == 1
    server.resume(node)


@pytest.mark.parametrize("record", ["here", "away"])
async def test_a_heartbeat_extends_the_jobs_of_the_shards_that_answer(
    server: Embedded, store: Store, record: str
) -> None:
    """Whether or not the worker's own record is away, too."""
    node = owner(server, store, store.keys.shard_of_queue("q0").slot)
    worker = next(
        f"w{number}"
        for number in range(1000)
        if (owner(server, store, store.keys.shard_of_worker(f"w{number}").slot) is node)
        == (record == "away")
    )
    silent, healthy = names_on(server, store, node), names_on(server, store, node, here=False)
    names = [next(silent), next(silent), next(healthy), next(healthy)]
    for name in names:
        await put(store, name)
    held = {name: (await fetch(store, [name], count=1, worker_id=worker))[0] for name in names}
    leases = {job.id: job.lease_id for job in held.values() if job.lease_id is not None}

    async def beat(*of: str) -> list[str]:
        ids = [held[name].id for name in of]
        return (await heartbeat(store, Heartbeat(worker, ids, leases))).extended

    server.pause(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask, store, store.keys.shard_of_queue(names[0]))
        with trio.fail_after(SOON_S):
            await eventually(
                lambda: not store.redis.is_responsive(store.keys.shard_of_queue("q0").slot)
            )
            for _ in range(2):
                assert await beat(*names) == [held[name].id for name in names[2:]]
        nursery.cancel_scope.cancel()
    server.resume(node)
    await eventually(lambda: store.redis.is_responsive(store.keys.shard_of_queue("q0").slot))
    assert await beat(*names) == [held[name].id for name in names]


async def test_the_counts_of_other_masters_are_written(server: Embedded, store: Store) -> None:
    node = owner(server, store, store.keys.shard_of_queue("q0").slot)
    silent = list(names_on(server, store, node))[:40]
    near = next(names_on(server, store, node, here=False))
    for name in (*silent, near):
        store.job_counts.count_enqueued(name, b"t")

    async def counted(queue: str) -> bool:
        shard = store.keys.shard_of_queue(queue)
        key = shard.queue_types(queue)
        return await store.redis.call(shard.slot, "HGET", key, "t", idempotent=True) == b"1,0,0"

    server.pause(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask, store, store.keys.shard_of_queue("q0"))
        with trio.fail_after(SOON_S):
            await eventually(
                lambda: not store.redis.is_responsive(store.keys.shard_of_queue("q0").slot)
            )
            await store.job_counts.flush(store)
            assert await counted(near)
        nursery.cancel_scope.cancel()
    server.resume(node)
    await eventually(lambda: store.redis.is_responsive(store.keys.shard_of_queue("q0").slot))
    await store.job_counts.flush(store)
    for name in silent:
        assert await counted(name)


async def _ask(store: Store, shard: Shard) -> None:
    await store.redis.call(shard.slot, "PING", idempotent=True)


async def test_a_heartbeat_that_extends_nothing_fails(store: Store) -> None:
    """The worker repeats it; a job that is left out may have been given to another."""
    jobs = [await put(store, name) for name in ("q0", "q1")]
    await fetch(store, ["q0", "q1"], count=2, worker_id="w1")
    shards = {store.keys.shard_of_queue(name) for name in ("q0", "q1")}
    assert len(shards) == 2
    with pytest.raises(BackendUnavailable):
        await heartbeat(without(store, *shards), Heartbeat("w1", [job.id for job in jobs]))
