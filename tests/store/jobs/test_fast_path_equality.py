"""Random lives of jobs leave the same behind, byte for byte, by short scripts and general ones.

Both ways are led through the same calls at the same times: the scripts read a clock that the test
sets, and ids are counted. Then every answer, key, event and message must be the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import pytest

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.ids import OrderedIds, new_job_id
from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import PlacedJob
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.lease_ids import shard_of_lease
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues, QueueDepthCache
from ojs_cluster.store.ground.process_state.depth_reader import DepthReader
from ojs_cluster.store.ground.process_state.touch import FetchTouches
from ojs_cluster.store.ground.scripts import load_scripts
from tests.store.limit_jobs import EveryQueueLimited
from tests.store.shortcuts import (
    HOUR,
    ack,
    nack,
    plain_job,
    promote_all,
    put,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.tenants.shortcuts import put_for
from tests.support.lossy import lossy
from tests.support.prelude import PRELUDE

CLOCK = """
local redis = (function(server)
    local prefix = string.match(KEYS[1], '^ojs:{[^}]*}:')
    local function tell(command, channel, message)
        if string.upper(command) ~= 'SPUBLISH' then return end
        server.call('RPUSH', prefix .. 'told', channel .. ' ' .. message)
    end
    local function run(kind)
        return function(command, ...)
            local at = string.upper(command) == 'TIME' and server.call('GET', prefix .. 'clock')
            if at then return {string.sub(at, 1, -4), string.sub(at, -3) .. '250'} end
            tell(command, ...)
            return server[kind](command, ...)
        end
    end
    return {call = run('call'), pcall = run('pcall')}
end)(redis)
"""
"""Put before each script: the time is what a key says, and messages are kept in a list."""

BEGIN_MS = 1_900_000_000_000
QUEUE = "plain"
WORKERS = ("", "w1", "w2")
ODD = ("x", "", "nan", "inf", "-inf", "1.5", "-7", "9007199254740993", "-1e30")


class CountedIds:
    """Job ids that are the same in each life."""

    def __init__(self, keys: Keyspace) -> None:
        self._shards = len(keys)
        self._next = itertools.count(1)

    def new(self, shard: int, _now_ms: int) -> str:
        return new_job_id(shard, self._shards, BEGIN_MS, b"0123456789", next(self._next))


@dataclass
class Life:
    """What one way was asked, in an order by chance, and what it answered."""

    store: Store
    db: Any
    chance: random.Random
    now_ms: int = BEGIN_MS
    jobs: list[JobRecord] = field(default_factory=list)
    plain: set[str] = field(default_factory=set)
    answers: list[Any] = field(default_factory=list)
    left: dict[bytes, Any] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shard = shard_of(self.store, QUEUE)
        self.queues = (QUEUE, sibling_queue(self.store, QUEUE))
        self.prefix = self.shard.due[: -len(b"due")]

    async def lead(self, steps: int) -> None:
        """Make this number of calls."""
        ways = (
            *[self.enqueue] * 8,
            *[self.fetch] * 8,
            *[self.ack] * 8,
            *(self.nack, self.nack, self.pause, self.quiet, self.promote, self.damage),
        )
        for _ in range(steps):
            self.now_ms += self.chance.choice((*[0, 1, 7, 40] * 4, 400, 15_000))
            self.db.set(self.prefix + b"clock", self.now_ms)
            await self.note(self.chance.choice(ways))

    async def note(self, call: Callable[[], Awaitable[list[JobRecord]]]) -> None:
        try:
            jobs = await call()
        except OJSError as error:
            self.answers.append((call.__name__, type(error).__name__, str(error)))
            return
        # The short ack leaves out the former lease, which the next calls name.
        left_out = (f.WORKER, f.LEASE, f.DEADLINE, f.LEASE_MS) if call == self.ack else ()
        told = [{n: v for n, v in job.fields.items() if n not in left_out} for job in jobs]
        self.answers.append((call.__name__, [job.id for job in jobs], told))
        known = {job.id: job for job in self.jobs}
        for job in jobs:
            before = known[job.id].fields if left_out and job.id in known else {}
            known[job.id] = JobRecord(job.id, {**before, **job.fields})
        self.jobs = list(known.values())[-12:]

    async def enqueue(self) -> list[JobRecord]:
        if self.chance.random() < 0.5:
            plain = await enqueue(self.store, plain_job(self.chance.choice(self.queues)))
            self.plain.add(plain.id)
            return [plain]
        options: dict[str, Any] = {"retry": {"jitter": False}}
        offered: Sequence[tuple[str, Any]] = (
            ("priority", self.chance.choice((-100, -1, 3, 100))),
            ("timeout_ms", self.chance.choice((1000, 30_000, HOUR))),
            ("visibility_timeout_ms", self.chance.choice((1000, 30_000, HOUR))),
            ("retry", {"max_attempts": 2, "initial_interval": "PT1S", "jitter": False}),
            ("expires_at", self.chance.choice(("+PT1S", "2031-01-01T00:00:00Z"))),
            ("scheduled_at", "+PT20S"),
            ("rate_limit", {"max_per_second": 1000}),
        )
        seldom = {"scheduled_at": 0.02, "rate_limit": 0.005}
        options |= {
            name: value for name, value in offered if self.chance.random() < seldom.get(name, 0.12)
        }
        queue = self.chance.choice(self.queues)
        if self.chance.random() < 0.2:
            return [await put_for(self.store, self.chance.choice("ab"), queue, **options)]
        return [await put(self.store, queue, **options)]

    async def fetch(self) -> list[JobRecord]:
        queues = self.chance.sample(self.queues, self.chance.randint(1, 2))
        return await take(
            self.store,
            *queues,
            count=self.chance.choice((1, 1, 1, 2, 5, 40)),
            worker=self.chance.choice(WORKERS),
            lease_ms=self.chance.choice((None, None, 1, 25_000, HOUR)),
        )

    def some_holder(self) -> tuple[JobRecord, dict[str, Any]]:
        running = [job for job in self.jobs if job.state == "active"]
        job = self.chance.choice(running if running and self.chance.random() < 0.8 else self.jobs)
        who: dict[str, Any] = {}
        if self.chance.random() < 0.5:
            who["worker_id"] = self.chance.choice((*[job.worker_id] * 4, "other"))
        if self.chance.random() < 0.5:
            who["lease_id"] = self.chance.choice((*[job.lease_id] * 4, "lease_0"))
        return job, who

    async def ack(self) -> list[JobRecord]:
        if not self.jobs:
            return []
        job, who = self.some_holder()
        result = self.chance.choice((None, b"null", b'{"n":1}'))
        return [await ack(self.store, job, result=result, **who)]

    async def nack(self) -> list[JobRecord]:
        if not self.jobs:
            return []
        job, who = self.some_holder()
        # A plain job has jitter, so the time of its next attempt would differ.
        requeue = self.chance.random() < 0.3 or job.id in self.plain
        return [await nack(self.store, job, requeue=requeue, **who)]

    async def promote(self) -> list[JobRecord]:
        await promote_all(self.store, QUEUE)
        return []

    async def pause(self) -> list[JobRecord]:
        action: Literal["pause", "resume"] = "pause" if self.chance.random() < 0.3 else "resume"
        await pause_or_resume(self.store, self.chance.choice(self.queues), action)
        return []

    async def quiet(self) -> list[JobRecord]:
        until = self.now_ms + self.chance.choice((-1, 0, 10_000))
        self.db.zadd(self.shard.quiet_workers, {self.chance.choice(WORKERS[1:]): until})
        return []

    async def damage(self) -> list[JobRecord]:
        """A foreign program writes what is no number."""
        counters = self.shard.queue_counters(self.chance.choice(self.queues))
        if self.chance.random() < 0.7:
            name = self.chance.choice(
                ("enqueued", "seq", "active", "completed", "run_ms", "wait_ms")
            )
            if self.db.exists(counters):
                self.db.hset(counters, name, self.chance.choice(ODD))
        elif self.jobs:
            key = self.shard.job(self.chance.choice(self.jobs).id)
            if self.db.exists(key):
                times = (f.CREATED, f.MAX_ATTEMPTS, f.STARTED, f.ATTEMPT, f.DEADLINE)
                self.db.hset(key, self.chance.choice(times), self.chance.choice(("x", 9e15)))
        return []

    def everything(self) -> dict[bytes, Any]:
        """Each key of the shard and what it holds; of entries of the stream not their ids."""
        found: dict[bytes, Any] = {}
        for key in self.db.scan_iter(match=self.prefix + b"*", count=1000):
            kind = self.db.type(key)
            if kind == b"hash":
                found[key] = self.db.hgetall(key)
            elif kind == b"zset":
                found[key] = self.db.zrange(key, 0, -1, withscores=True)
            elif kind == b"stream":
                found[key] = [list(fields.items()) for _, fields in self.db.xrange(key)]
            elif kind == b"list":
                found[key] = self.db.lrange(key, 0, -1)
            else:
                found[key] = self.db.get(key)
        return found

    def leave_nothing(self) -> None:
        for key in self.db.scan_iter(match=self.prefix + b"*", count=1000):
            if not key.endswith(b":schema"):
                self.db.delete(key)


async def one_way(store: Store, db: Any, seed: int, steps: int, *, general: bool) -> Life:
    """The life of a seed, by the short scripts or by the general ones."""
    numbers = itertools.count(1)

    def prefix(shard: Shard) -> bytes:
        made = b"lease_%03x%015x_" % (shard.index, next(numbers))
        assert shard_of_lease(store.keys, f"{made.decode()}1") is shard
        return made

    scripts = dict(load_scripts(CLOCK + PRELUDE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ojs_cluster.store.engine.fetch.fetch.new_prefix", prefix)
        if general:
            patch.setattr(PlacedJob, "plain", False)
            scripts["ack"] = scripts["ack_full"]
        fresh = replace(
            store,
            scripts=scripts,
            ids=cast(OrderedIds, CountedIds(store.keys)),
            fetch_touches=FetchTouches(),
            depth_cache=QueueDepthCache(),
            limited_queues=EveryQueueLimited() if general else LimitedQueues(),
            bounded_queues=LimitedQueues(),
            depth_reader=DepthReader(),
        )
        seen, client = lossy(fresh)
        life = Life(seen, db, random.Random(seed), calls=client.calls)
        life.leave_nothing()
        await life.lead(steps)
    life.left = life.everything()
    return life


async def compare(store: Store, db: Any, seed: int, steps: int) -> None:
    """Lead both ways through the life of a seed."""
    short = await one_way(store, db, seed, steps, general=False)
    general = await one_way(store, db, seed, steps, general=True)
    assert min(short.calls[name] for name in ("enqueue_one", "fetch", "ack")) > 10
    assert not {"enqueue_one", "fetch", "ack"} & general.calls.keys()
    for number, (one, other) in enumerate(zip(short.answers, general.answers, strict=True)):
        assert one == other, f"answer {number}"
    assert short.left.keys() == general.left.keys()
    for key, value in short.left.items():
        assert value == general.left[key], key


@pytest.mark.parametrize("seed", range(3))
async def test_random_jobs_end_the_same_on_the_fast_and_the_full_path(
    store: Store, db: Any, seed: int
) -> None:
    await compare(store, db, seed, 150)


@pytest.mark.soak
async def test_many_random_lives_leave_the_same_behind_by_either_way(store: Store, db: Any) -> None:
    for seed in range(100, 300):
        await compare(store, db, seed, 300)
