"""Every transition at work while the slots of its shards are moved key by key, and back.

The scripts run here without the tests' prelude, whose own looks would be refused in such a slot.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import release_unanswered
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground.lease_ids import PREFIX_BYTES
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from tests.redis.helpers import in_thread
from tests.redis.slots import Mover
from tests.store.shortcuts import (
    DAY,
    HOUR,
    ack,
    active,
    foreign_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    take,
)
from tests.support.invariants import check_invariants, lost
from tests.support.patience import patient_client
from tests.support.servers import own_server

SHARDS_MOVED = 3
LONG_MS, SHORT_MS = HOUR, 200
FOR_GOOD: dict[str, Any] = {
    "retry": {"max_attempts": 90, "initial_interval": "PT0.05S", "max_interval": "PT0.1S"}
}
LAST_CHANCE: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


@pytest.fixture
def movable(tmp_path: Path) -> Iterator[Embedded]:
    """A cluster whose slots this test may move."""
    with own_server(tmp_path, node_timeout_ms=60_000) as servers:
        yield servers


@dataclass
class Ledger:
    """What the callers know."""

    kept: set[str] = field(default_factory=set)
    """Acknowledged jobs that nothing but an ack may end."""
    waiting: list[str] = field(default_factory=list)
    """Acknowledged jobs that may be cancelled, expire or die."""
    completed: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    """Jobs whose lease was short, or that may have been cancelled: conflicts are to be expected."""
    held: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    answers: int = 0
    unavailable: int = 0

    async def allow(
        self, call: Callable[[], Awaitable[Any]], *, doubtful: bool = False, insist: bool = False
    ) -> Any:
        """The answer, or None for the failures that may be; any other ends the test.

        Args:
            doubtful: the job may be in another state by now, or gone.
            insist: repeat until there is an answer.
        """
        while True:
            try:
                answer = await call()
            except BackendUnavailable:
                self.unavailable += 1
                if not insist:
                    return None
            except (Conflict, NotFound):
                if not doubtful:
                    raise
                return None
            else:
                self.answers += 1
                return answer


def some_job(store: Store, queue: str) -> tuple[bool, dict[str, Any]]:
    """Options of a new job, and whether only an ack can end it."""
    how = random.randrange(10)
    if how < 6:
        options: dict[str, Any] = {**FOR_GOOD, "priority": random.randrange(-5, 5)}
        if how == 0:
            options["scheduled_at"] = "+PT0.1S"
        if how == 1:
            options["id"] = foreign_id(store, queue)
        if how == 2:
            options["timeout_ms"] = HOUR
        return True, options
    if how == 6:
        return False, {"expires_at": f"+PT0.{random.randrange(1, 5)}S"}
    if how == 7:
        return False, {"pending": True}
    if how == 8:
        return False, {"timeout_ms": 1000, "scheduled_at": "+PT0.2S", "expires_at": "+PT0.6S"}
    return False, dict(LAST_CHANCE)


async def produce(store: Store, queue: str, ledger: Ledger) -> None:
    kinds = [some_job(store, queue) for _ in range(random.choice([1, 1, 3]))]
    made = await ledger.allow(
        lambda: enqueue_many(store, [new_job(queue, **options) for _, options in kinds])
    )
    for (keep, _), job in zip(kinds, made or [], strict=False):
        if keep:
            ledger.kept.add(job.id)
        else:
            ledger.waiting.append(job.id)
    await trio.sleep(0.1)


async def work(store: Store, queue: str, ledger: Ledger) -> None:
    short = random.random() < 0.1
    lease_ms = SHORT_MS if short else LONG_MS
    jobs = await ledger.allow(
        lambda: take(store, queue, count=random.choice([1, 1, 4]), lease_ms=lease_ms)
    )
    if not jobs:
        await trio.sleep(0.01)
    for job in jobs or []:
        if short or job.id not in ledger.kept:
            ledger.doubtful.add(job.id)
        if job.id in ledger.completed:
            ledger.wrong.append(f"{job.id} was given out after its completion")
        if job.id in ledger.held and job.id not in ledger.doubtful:
            ledger.wrong.append(f"{job.id} was given out while it was held")
        ledger.held.add(job.id)
    for job in jobs or []:
        await end(store, job, ledger)


async def end(store: Store, job: JobRecord, ledger: Ledger) -> None:
    """One of the ways an attempt may end, or not."""
    who = {"worker_id": "w1", "lease_id": job.lease_id}
    how = random.randrange(20)
    ways: list[Callable[[], Awaitable[Any]]] = [
        *[partial(ack, store, job, **who)] * 10,
        *[partial(nack, store, job, **who)] * 4,
        *[partial(nack, store, job, requeue=True, **who)] * 2,
        partial(release, store, [job]),
        partial(heartbeat, store, Heartbeat("w1", (job.id,), visibility_timeout_ms=SHORT_MS)),
    ]
    if how >= len(ways):
        return  # it is forgotten: its lease ends, or it stays active
    if how >= 16:
        ledger.doubtful.add(job.id)
    else:
        ledger.held.discard(job.id)
    done = await ledger.allow(ways[how], doubtful=job.id in ledger.doubtful, insist=True)
    if how < 10 and done:
        if job.id in ledger.completed:
            ledger.wrong.append(f"{job.id} was completed twice")
        ledger.completed.add(job.id)


async def meddle(store: Store, queue: str, ledger: Ledger) -> None:
    """What clients and operators do to jobs that wait, or are dead."""
    shard = store.keys.shard_of_queue(queue)
    if ledger.waiting:
        job_id = random.choice(ledger.waiting)
        how = random.choice([cancel, activate, dead_letters.retry, dead_letters.delete])
        await ledger.allow(lambda: how(store, job_id), doubtful=True)
    for step in (
        lambda: queues.get_stats(store, queue),
        lambda: pauses.pause_or_resume(store, queue, random.choice(["pause", "resume", "resume"])),
        lambda: workers.recover(store, shard, [workers.DeadWorker("w2", 2**53)]),
    ):
        await ledger.allow(step)
    await ledger.allow(lambda: take(store, queue, worker="w2", lease_ms=SHORT_MS))
    await ledger.allow(lambda: fetch_and_forget(store, queue))
    await trio.sleep(0.03)


async def fetch_and_forget(store: Store, queue: str) -> None:
    """As if the reply to a fetch had been lost."""
    prefixes = {lease(job)[:PREFIX_BYTES] for job in await take(store, queue, count=2)}
    if prefixes:
        await release_unanswered(store, store.keys.shard_of_queue(queue), list(prefixes))


def lease(job: JobRecord) -> bytes:
    assert job.lease_id is not None
    return job.lease_id.encode()


async def keep_up(store: Store, queue: str, ledger: Ledger) -> None:
    """What schedulers do."""
    shard = store.keys.shard_of_queue(queue)
    for step in (promote, reap, retention.purge_due, retention.remove_leftovers):
        await ledger.allow(partial(step, store, shard, 20))
    await trio.sleep(0.02)


async def furnish(store: Store, shard: Shard, queue: str) -> None:
    """Leaves no key of the shard absent: an absent one would stop scripts before they start."""
    await put(store, queue, scheduled_at="+PT1H", expires_at="+PT2H")
    await put(store, queue, pending=True)
    await cancel(store, (await put(store, queue)).id, keep_ms=DAY)
    await ack(store, await active(store, queue))
    await nack(store, await active(store, queue, **LAST_CHANCE))
    await active(store, queue, timeout_ms=HOUR, visibility_timeout_ms=HOUR)
    await store.run(shard, "set_quiet_flag", [shard.quiet_workers], ["other", DAY])
    for _ in range(5):
        await put(store, queue, priority=-100)


def refusals(servers: Embedded) -> int:
    """How often a script was stopped by a key that is not there."""
    total = 0
    for node in servers.masters():
        with node.client() as client:
            total += client.info("errorstats").get("errorstat_ERR", {}).get("count", 0)
    return total


def keep_moving(servers: Embedded, slots: list[int], enough: Callable[[], bool]) -> None:
    """Each slot around all masters and so back home, twice and as often again as is needed."""
    mover = Mover(servers)
    # Jobs that no worker ends make each round slower than the one before, so time is the limit.
    last_start = time.monotonic() + 300
    rounds = 0
    while rounds < 2 or not enough():
        rounds += 1
        assert time.monotonic() < last_start, "the moves met too little"
        for turn, slot in itertools.product(range(3), slots):
            is_owner_shard = slot * 3 // 16384
            source, target = (mover.masters[(is_owner_shard + turn + step) % 3] for step in (0, 1))
            mover.move(slot, source, target, pause=partial(time.sleep, 0.003))
            time.sleep(0.1)


async def test_slots_moved_key_by_key_leave_every_job_whole(movable: Embedded) -> None:
    ledger = Ledger()
    settings = StoreSettings(
        retention_cancelled_ms=0,
        retention_discarded_ms=0,
        dead_letter_max=3,
        errors_kept=2,
        lone_deaths=1000,  # the worker w2 dies again and again
    )
    async with open_store(patient_client(movable), settings) as store:
        names = queues_in_other_shards(store, SHARDS_MOVED)
        shards = [store.keys.shard_of_queue(name) for name in names]
        for shard, name in zip(shards, names, strict=True):
            await furnish(store, shard, name)
        before = await in_thread(refusals, movable)

        def enough() -> bool:
            """Scripts met slots that were half moved, and work went on."""
            return refusals(movable) - before > 20 and len(ledger.completed) > 50

        stopped = threading.Event()

        async def repeat(step: Callable[[Store, str, Ledger], Awaitable[None]], name: str) -> None:
            while not stopped.is_set():
                await step(store, name, ledger)

        async with trio.open_nursery() as nursery:
            for name in names:
                for step in (produce, work, work, work, meddle, keep_up):
                    nursery.start_soon(repeat, step, name)
            try:
                await in_thread(keep_moving, movable, [s.slot for s in shards], enough)
            finally:
                stopped.set()

    report = check_invariants(movable)
    assert report.problems == []
    assert lost(report, ledger.kept) == set()
    assert ledger.wrong == []
    assert ledger.completed <= report.states.keys()
