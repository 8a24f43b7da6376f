"""Fetches that name queues of many shards: what they cost, and in which order they take."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.client import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch import fetch as fetches
from ojs_cluster.store.engine.fetch import long_poll, ranked_fetch
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground.fanout import WIDTH
from ojs_cluster.store.ground.process_state import depth_reader
from ojs_cluster.store.ground.process_state.depth_reader import DepthReader
from tests.store.hot_queues import spread
from tests.store.shortcuts import HOUR, new_job, put, queues_in_other_shards, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient, lossy, read_all_but
from tests.support.patience import LONG_S
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
MANY = [f"q{number}" for number in range(256)]


@pytest.fixture(autouse=True)
def slow_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is not given up because the machine is busy."""
    monkeypatch.setattr(ranked_fetch, "READ_S", LONG_S)


def counting(store: Store) -> tuple[Store, LossyClient]:
    """A store that counts its calls."""
    return lossy(store)


async def noted(store: Store) -> Store:
    """Have the worker's contact noted, so that a fetch is nothing but a fetch."""
    await store.fetch_touches.touch(store, "w1")
    return store


async def test_a_fetch_of_one_queue_is_one_call(store: Store) -> None:
    await put(store)
    counted, client = counting(await noted(store))
    assert len(await take(counted)) == 1
    assert await take(counted) == []

    assert client.calls == {"fetch": 2}


async def test_a_busy_first_queue_is_one_call_however_many_follow(store: Store) -> None:
    await put(store, MANY[0])
    counted, client = counting(await noted(store))
    assert len(await take(counted, *MANY)) == 1

    assert client.calls == {"fetch": 1}


async def test_a_fetch_that_finds_nothing_reads_all_shards_at_once(store: Store) -> None:
    counted, client = counting(await noted(store))
    assert await take(counted, *MANY, count=10) == []

    assert client.calls == {"fetch": 1, "read_each": 1}


async def test_a_fetch_over_all_shards_asks_each_once(store: Store, consistent: Check) -> None:
    await enqueue_many(store, [new_job(name) for name in MANY])
    counted, client = counting(await noted(store))
    taken = await take(counted, *MANY, count=256)

    assert [job.queue for job in taken] == MANY
    shards = len({shard_of(store, name) for name in MANY})
    client.calls.pop("read_partitions", 0)
    assert client.calls == {"fetch": 1 + shards, "depths": shards, "read_each": 1}
    assert consistent().count() == {"active": 256}


async def test_one_job_of_the_last_queue_is_found_by_one_more_call(store: Store) -> None:
    await put(store, MANY[-1])
    counted, client = counting(await noted(store))
    assert [job.queue for job in await take(counted, *MANY)] == [MANY[-1]]

    assert client.calls == {"fetch": 2, "depths": 1, "read_each": 1}


async def test_one_job_of_many_filled_queues_reads_few_depths(store: Store) -> None:
    await enqueue_many(store, [new_job(name) for name in MANY[1:]])
    counted, client = counting(await noted(store))
    assert [job.queue for job in await take(counted, *MANY)] == [MANY[1]]

    assert client.calls["depths"] <= 4


async def test_shards_are_read_and_asked_at_once(store: Store) -> None:
    """Each call waits for seven others to be under way: one after the other none would end."""
    names = queues_in_other_shards(store, 9)
    await enqueue_many(store, [new_job(name) for name in names])

    class Meeting(LossyClient):
        def __init__(self, client: Client) -> None:
            super().__init__(client, lambda *_: False)
            self.here: Counter[str] = Counter()
            self.met = {"depths": trio.Event(), "fetch": trio.Event()}

        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if script.name in self.met and self.calls:
                self.here[script.name] += 1
                if self.here[script.name] == 8:
                    self.met[script.name].set()
                await self.met[script.name].wait()
            return await super().script(slot, script, keys, args, **kind)

    met = replace(await noted(store), redis=cast(Client, Meeting(store.redis)))
    with trio.fail_after(LONG_S):
        assert [job.queue for job in await take(met, *names, count=9)] == names


@dataclass
class Scene:
    """Queues with jobs, some paused, limited, or over partitions; and what a fetch must give."""

    names: list[str]
    startable: dict[str, int]

    def first(self, count: int) -> list[str]:
        """The queue of each job that a fetch of ``count`` must give, in order."""
        given: list[str] = []
        for name in self.names:
            given += [name] * min(self.startable[name], count - len(given))
        return given

    def took(self, given: list[str]) -> None:
        for name in given:
            self.startable[name] -= 1


async def furnish(store: Store, db: Any, chance: random.Random) -> Scene:
    scene = Scene([f"s{number}" for number in range(40)], {})
    chance.shuffle(scene.names)
    batch = []
    for name in scene.names:
        has = chance.choice([0, 0, 0, 1, 1, 2, 5, 12])
        kind = chance.choice(["plain"] * 6 + ["paused", "limited", "spread", "due"])
        scene.startable[name] = has
        if kind == "spread":
            await spread(store, db, 3, name)
        elif kind == "limited":
            most = chance.randint(1, 3)
            await partition_quotas.set_limits(store, name, RateLimits(concurrency=most))
            scene.startable[name] = min(has, most)
        elif kind == "due" and has:
            late = await put(store, name, scheduled_at="+PT1H")
            age_job(db, shard_of(store, name), late.id, 2 * HOUR)
            scene.startable[name] += 1
        batch += [new_job(name, priority=chance.randint(-5, 5)) for _ in range(has)]
        if kind == "paused":
            await pauses.pause_or_resume(store, name, "pause")
            scene.startable[name] = 0
    await enqueue_many(store, batch)
    return scene


@pytest.mark.parametrize("seed", range(6))
async def test_jobs_come_in_the_order_of_the_queues_whatever_their_state(
    store: Store, db: Any, seed: int, consistent: Check
) -> None:
    chance = random.Random(seed)
    scene = await furnish(store, db, chance)
    while True:
        count = chance.choice([1, 2, 7, 30])
        expected = scene.first(count)
        taken = await take(store, *scene.names, count=count)
        assert [job.queue for job in taken] == expected
        scene.took(expected)
        if not expected:
            break
    consistent()


async def test_within_a_queue_priority_decides_as_ever(store: Store) -> None:
    names = queues_in_other_shards(store, 6)
    for priority in (1, 9, 5):
        for name in names:
            await put(store, name, priority=priority)
    taken = await take(store, *names, count=18)

    assert [(job.queue, job.priority) for job in taken] == [
        (name, priority) for name in names for priority in (9, 5, 1)
    ]


@pytest.mark.parametrize("count", [2, 6])
async def test_large_jobs_of_a_queue_come_before_the_next_queue(
    store: Store, count: int, consistent: Check
) -> None:
    """A fetch takes about 8 MiB of a shard, which may have more: the next queue has to wait."""
    names = queues_in_other_shards(store, count)
    body = b'{"type":"t","args":["%b"],"options":{"queue":"%b"}}'
    for _ in range(14):
        await enqueue(store, parse_job(body % (b"x" * 900_000, names[0].encode())))
    await put(store, names[-1])

    assert [job.queue for job in await take(store, *names, count=20)] == [names[0]] * 12
    rest = [job.queue for job in await take(store, *names, count=20)]
    assert rest == [names[0], names[0], names[-1]]
    consistent()


async def test_a_fetch_of_many_shards_takes_a_bounded_number_of_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    """Not as many from each shard as from one."""
    monkeypatch.setattr(fetches, "_MAX_BYTES", 20_000)
    names = queues_in_other_shards(store, 40)
    body = b'{"type":"t","args":["%b"],"options":{"queue":"%b"}}'
    for name in names:
        for _ in range(3):
            await enqueue(store, parse_job(body % (b"x" * 10_000, name.encode())))

    rounds = []
    while taken := await take(store, *names, count=120):
        rounds.append(len(taken))
    assert sum(rounds) == 120
    assert max(rounds) <= 3 * (1 + WIDTH)
    consistent()


async def test_concurrent_fetches_of_many_queues_share_all_jobs(
    store: Store, other_store: Store, consistent: Check
) -> None:
    """A fetch that is overtaken takes jobs from the following queues."""
    await enqueue_many(store, [new_job(name) for name in MANY[:60] for _ in range(3)])
    found: list[str] = []

    async def work(process: Store, worker: str) -> None:
        while taken := await take(process, *MANY[:60], count=7, worker=worker):
            found.extend(job.id for job in taken)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(work, (store, other_store)[number % 2], f"w{number}")

    assert len(found) == len(set(found)) == 180
    assert consistent().count() == {"active": 180}


async def test_jobs_that_wait_for_tokens_are_asked_for(store: Store, consistent: Check) -> None:
    """A queue whose jobs are all held back is asked, a bounded number of such in each fetch."""
    names = queues_in_other_shards(store, 40)
    limit = {"rate_limit": {"key": "k", "concurrency": 3}}
    for name in names:
        await put(store, name, **limit)
    taken: set[str] = set()
    with trio.fail_after(LONG_S):
        while len(taken) < 3:
            taken |= {job.id for job in await take(store, *names, count=5)}
    counted, client = counting(store)
    await take(counted, *names)

    assert client.calls.get("fetch", 0) + client.calls.get("fetch_full", 0) <= 2 * 18
    assert consistent().count()["active"] == 3


class AwayClient(LossyClient):
    """A client for whom some shards do not answer."""

    def __init__(self, client: Client, away: set[int]) -> None:
        super().__init__(client, lambda *_: False)
        self.away = away

    async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
        if slot in self.away:
            self.calls[f"{script.name} away"] = self.calls.get(f"{script.name} away", 0) + 1
            raise BackendUnavailable("away", outcome="not_applied")
        return await super().script(slot, script, keys, args, **kind)

    async def read_each(self, reads: Any, **kind: Any) -> Any:
        return await read_all_but(self._client, self.away, reads, **kind)

    def is_silent(self, slot: int) -> bool:
        return slot in self.away


def without(store: Store, *shards: Shard) -> tuple[Store, AwayClient]:
    client = AwayClient(store.redis, {shard.slot for shard in shards})
    return replace(store, redis=cast(Client, client), depth_reader=DepthReader()), client


@pytest.mark.parametrize("where", [0, 1, 4])
@pytest.mark.parametrize("count", [2, 6])
async def test_a_shard_that_is_away_keeps_back_only_its_own_jobs(
    store: Store, where: int, count: int, consistent: Check
) -> None:
    names = queues_in_other_shards(store, count)
    where %= count
    await enqueue_many(store, [new_job(name) for name in names])
    away, client = without(await noted(store), shard_of(store, names[where]))
    others = [name for name in names if name != names[where]]

    assert [job.queue for job in await take(away, *names, count=count)] == others
    with pytest.raises(BackendUnavailable):
        await take(away, *names, count=count)
    tried = sum(calls for name, calls in client.calls.items() if name.endswith("away"))
    with pytest.raises(BackendUnavailable):
        await take(away, *names, count=count)
    assert sum(calls for name, calls in client.calls.items() if name.endswith("away")) == tried
    client.away.clear()
    reader = away.depth_reader
    reader._unreachable_until = dict.fromkeys(reader._unreachable_until, trio.current_time())
    assert [job.queue for job in await take(away, *names, count=count)] == [names[where]]
    consistent()


class HangingClient(AwayClient):
    """A client for which the masters of some shards are not connected: calls wait for them."""

    async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
        if slot in self.away:
            await trio.sleep_forever()
        return await LossyClient.script(self, slot, script, keys, args, **kind)

    async def call(self, slot: int, *args: Any, **kind: Any) -> Any:
        if slot in self.away:
            self.calls["waits"] = self.calls.get("waits", 0) + 1
            await trio.sleep_forever()
        return await self._client.call(slot, *args, **kind)

    def is_silent(self, slot: int) -> bool:
        return False


def waiting_for(store: Store, *shards: Shard) -> tuple[Store, HangingClient]:
    client = HangingClient(store.redis, {shard.slot for shard in shards})
    return replace(store, redis=cast(Client, client), depth_reader=DepthReader()), client


async def test_a_fetch_waits_once_for_a_shard_that_is_not_connected(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranked_fetch, "READ_S", 0.2)
    names = queues_in_other_shards(store, 20)
    await enqueue_many(store, [new_job(name) for name in names[10:]])
    hanging, client = waiting_for(await noted(store), shard_of(store, names[5]))

    with trio.fail_after(LONG_S):
        assert [job.queue for job in await take(hanging, *names, count=10)] == names[10:]
        assert client.calls["waits"] == 1
        with pytest.raises(BackendUnavailable):
            await take(hanging, *names)
    assert client.calls["waits"] == 1, "then it is skipped"


async def test_a_check_of_waiters_does_not_wait_for_a_shard_that_is_not_connected(
    store: Store,
) -> None:
    """Otherwise the waiter that checks would take the messages of its own queues."""
    names = queues_in_other_shards(store, 3)
    process = Waiters()
    waiters = [process.add([name]) for name in names]
    await put(store, names[1])
    hanging, client = waiting_for(store, shard_of(store, names[0]))

    with trio.fail_after(LONG_S):
        await process.check_queues(hanging)
    assert [waiter.woken for waiter in waiters] == [{names[0]}, {names[1]}, set()]
    assert "waits" not in client.calls


async def test_a_quiet_worker_gets_nothing_of_many_queues(store: Store, consistent: Check) -> None:
    names = queues_in_other_shards(store, 6)
    await heartbeat(store, Heartbeat("w1", state="quiet"))
    await enqueue_many(store, [new_job(name) for name in names[1:]])

    assert await take(store, *names, count=5) == []
    assert consistent().count() == {"available": 5}


async def test_a_fetch_that_is_cancelled_while_it_asks_many_claims_nothing(
    store: Store, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 9)
    await enqueue_many(store, [new_job(name) for name in names])
    scope = trio.CancelScope()

    class Cancelling(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            reply = await super().script(slot, script, keys, args, **kind)
            if self.calls.get("fetch", 0) >= 5:
                scope.cancel()
            return reply

    leaving = replace(store, redis=cast(Client, Cancelling(store.redis, lambda *_: False)))
    with scope:
        await take(leaving, *names, count=9)

    assert scope.cancelled_caught
    assert consistent().count() == {"available": 9}


async def test_idle_waiters_of_many_queues_read_each_shard_once_in_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait: one of them reads for all, and none fetches."""
    names = queues_in_other_shards(store, 10)
    every_s = 0.5
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", every_s)
    counted, client = counting(store)
    process = Waiters()
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(wait_for, counted, process, names, f"w{number}")
        with trio.fail_after(LONG_S):
            while client.calls.get("fetch", 0) < 30:  # noqa: ASYNC110 - counts have no event
                await trio.sleep(0.01)
        await trio.sleep(2 * every_s)
        client.calls.clear()
        began = trio.current_time()
        with trio.fail_after(LONG_S):
            while client.calls.get("read_each", 0) < 5:  # noqa: ASYNC110
                await trio.sleep(0.01)
        rounds = (trio.current_time() - began) / every_s + 1
        assert client.calls.keys() <= {"read_each", "read_partitions"}
        assert client.calls["read_each"] <= rounds
        nursery.cancel_scope.cancel()


async def wait_for(store: Store, process: Waiters, names: list[str], worker: str) -> Any:
    return await fetch_or_wait(
        store, process, names, count=1, worker_id=worker, wait_ms=10 * 60_000
    )


async def test_a_job_whose_message_was_lost_is_found_by_a_waiter(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 0.3)
    names = queues_in_other_shards(store, 6)
    process = Waiters()
    monkeypatch.setattr(process, "_on_message", lambda *_: None)
    found: list[str] = []

    async def wait(worker: str) -> None:
        found.extend(job.id for job in await wait_for(store, process, names, worker))

    with trio.fail_after(LONG_S):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, f"w{number}")
            await trio.sleep(0.5)
            put_ids = [(await put(store, names[number])).id for number in (5, 2, 3)]
    assert sorted(found) == sorted(put_ids)
    assert {(await read_jobs.get(store, job_id)).state for job_id in found} == {State.ACTIVE}
    consistent()


# Without a server: the number and the sharing of reads


class Held:
    """A client whose reads wait until the test lets them go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = trio.Semaphore(0)

    async def read_each(self, reads: Any, **kind: Any) -> list[list[Any]]:
        self.begun += 1
        await self.gate.acquire()
        return [[[b"1", b"0"], [], 1] for _ in reads]

    def is_silent(self, slot: int) -> bool:
        return False


async def test_concurrent_fetches_share_a_read_that_begins_after_them(
    nursery: trio.Nursery,
) -> None:
    held, known, shard = Held(), DepthReader(), Keyspace(4).shard(1)
    ended: list[int] = []
    scopes = [trio.CancelScope() for _ in range(100)]

    async def find(number: int) -> None:
        with scopes[number]:
            store = cast(Any, SimpleNamespace(redis=held))
            filled = await known.find_filled(store, {shard: ["q"]})
            assert filled.queues == {shard: {"q"}}
            ended.append(number)

    for number in range(100):
        nursery.start_soon(find, number)
        await trio.testing.wait_all_tasks_blocked()
    assert held.begun == 1
    held.gate.release()
    await trio.testing.wait_all_tasks_blocked()
    assert (ended, held.begun) == ([0], 2)
    scopes[1].cancel()  # it reads for the others now: one of these takes over
    await trio.testing.wait_all_tasks_blocked()
    held.gate.release()
    await trio.testing.wait_all_tasks_blocked()
    held.gate.release()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(ended) == [0, *range(2, 100)]
    assert held.begun <= 4
    assert not known._running


async def test_one_fetch_at_a_time_tries_a_shard_that_was_away(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    held, known, shards = Held(), DepthReader(), list(Keyspace(4))
    store = cast(Any, SimpleNamespace(redis=held))

    async def find(some: list[Shard]) -> list[Shard]:
        held.gate.release()
        filled = await known.find_filled(store, {shard: ["q"] for shard in some})
        return [shard for shard in some if shard in filled.queues]

    known.mark_unreachable(shards[1])
    others = [shards[0], *shards[2:]]
    assert await find(shards) == others
    assert await find([shards[1]]) == [shards[1]]
    assert not known.any_unreachable(shards), "it has answered, and has a job"
    known.mark_unreachable(shards[1])
    await trio.sleep(depth_reader.UNREACHABLE_S)
    nursery.start_soon(known.find_filled, store, {shard: ["q"] for shard in shards})
    await trio.testing.wait_all_tasks_blocked()
    assert known.any_unreachable(shards), "one fetch tries it now"
    held.gate.release()
    assert await find(shards) == others
    await trio.testing.wait_all_tasks_blocked()
    assert await find(shards) == shards
