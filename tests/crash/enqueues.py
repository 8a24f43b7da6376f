"""Operations of producers: batches, ids of clients, unique jobs."""

from __future__ import annotations

import itertools
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.aliases import AliasClaims
from ojs_cluster.store.engine.enqueue import idempotency
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.ground.portions import PORTION_BYTES
from ojs_cluster.store.operators.pressure.pressure import check_pressure
from tests.crash.harness import World
from tests.store.hot_queues import spread
from tests.store.indexed_jobs import CUSTOMER, job_of, with_index
from tests.store.shortcuts import (
    MINUTE,
    QUEUE,
    foreign_id,
    home_id,
    id_in,
    middle_queue,
    new_job,
    queues_in_other_shards,
    shard_of,
    sibling_queue,
)
from tests.store.unique_jobs import once
from tests.support.indexed import value_key
from tests.support.timeshift import age_claim


@dataclass(frozen=True, slots=True)
class Wanted:
    """Jobs to store, the job that they replace, and their idempotency key or indexed value."""

    jobs: list[NewJob] = field(default_factory=list)
    old: JobRecord | None = None
    key: str = ""


class _Enqueue:
    least = 2

    async def finish(self, world: World, scene: Wanted) -> None:
        """All ends with its jobs."""

    async def happened(self, world: World, scene: Wanted) -> bool:
        live = world.live()
        new = live - ({scene.old.id} if scene.old else set())
        assert len(new) in (0, len(scene.jobs))
        for job in scene.jobs:
            if job.id is not None and new:
                assert (await jobs.get(world.store, job.id)).id in new
        if scene.old is not None:
            # One of the two lives, never both and never none.
            assert (scene.old.id in live) is (not new)
            if new:
                assert (await jobs.get(world.store, scene.old.id)).state is State.CANCELLED
        return bool(new)


class Batch(_Enqueue):
    """A batch over three shards, or one of several portions in one shard.

    ``kind``: plain jobs; or with ids of clients and a unique job; or with one that replaces; or
    larger than one script writes and than one call records.
    """

    least = 4

    def __init__(self, kind: Literal["plain", "ids", "replacing", "portions"]) -> None:
        self.kind = kind

    async def prepare(self, world: World) -> Wanted:
        store = world.store
        one, other, third = queues_in_other_shards(store, 3)
        if self.kind == "ids":
            middle = middle_queue(store)
            wanted = [
                new_job(one, id=home_id(store, one)),
                new_job(middle, id=foreign_id(store, middle, step=-1)),
                new_job(middle, id=foreign_id(store, middle, step=1)),
                new_job(third, unique={}),
                new_job(other, type="second"),
            ]
            return Wanted(wanted)
        if self.kind == "replacing":
            old = await once(store, third)
            return Wanted([new_job(one, unique={"on_conflict": "replace"}), new_job(other)], old)
        if self.kind == "portions":
            body = b'{"type":"t","args":["%b"],"options":{"queue":"%b"}}'
            large = body % (b"x" * (PORTION_BYTES * 2 // 5), one.encode())
            return Wanted([parse_job(large) for _ in range(5)])
        return Wanted([new_job(one), new_job(other), new_job(third), new_job(one)])

    async def act(self, store: Store, scene: Wanted) -> None:
        await enqueue_many(store, scene.jobs)


class Indexed(_Enqueue):
    """A batch of one shard whose jobs are in the index of the search."""

    least = 1

    async def prepare(self, world: World) -> Wanted:
        customer = secrets.token_hex(8)
        return Wanted([job_of({"customer_id": customer}) for _ in range(3)], key=customer)

    async def act(self, store: Store, scene: Wanted) -> None:
        await enqueue_many(with_index(store), scene.jobs)

    async def happened(self, world: World, scene: Wanted) -> bool:
        key = value_key(shard_of(world.store), CUSTOMER, scene.key)
        indexed = set(map(bytes.decode, world.db.zrange(key, 0, -1)))
        assert indexed in (set(), world.live())
        assert len(indexed) in (0, len(scene.jobs))
        return bool(indexed)


class Dropping:
    """A job is stored in a full queue, whose oldest job is dropped and has a unique lock."""

    least = 3

    async def prepare(self, world: World) -> str:
        await depth_bounds.set_bound(world.store, QUEUE, DepthBound(1, "drop_oldest"))
        return (await once(world.store, type="oldest")).id

    async def act(self, store: Store, scene: str) -> None:
        await enqueue(store, new_job())

    async def happened(self, world: World, scene: str) -> bool:
        """The queue may be left without any job, but no job is lost without being discarded."""
        live = world.live()
        state = (await jobs.get(world.store, scene)).state
        assert state is (State.AVAILABLE if scene in live else State.DISCARDED)
        assert len(live) <= 1
        return bool(live - {scene})

    async def finish(self, world: World, scene: str) -> None:
        await depth_bounds.set_bound(world.store, QUEUE, None)
        await check_pressure(world.store, QUEUE)  # as the scheduler does: it was nearly full


class WithKey(_Enqueue):
    """A request with an idempotency key, whose client repeats it after the crash."""

    least = 5

    async def prepare(self, world: World) -> Wanted:
        one, other = queues_in_other_shards(world.store, 2)
        jobs = [new_job(one), new_job(other), new_job(one, unique={})]
        return Wanted(jobs, key=secrets.token_hex(8))

    async def act(self, store: Store, scene: Wanted) -> None:
        begun = await idempotency.begin(store, "client", scene.key, b"the body")
        if begun.response is not None:
            return
        jobs = [begun.with_id(store, index, job) for index, job in enumerate(scene.jobs)]
        try:
            await enqueue_many(store, jobs)
        except Duplicate:  # an earlier try has stored all jobs
            if not all([await idempotency.read_own(store, job, False) for job in jobs]):
                raise
        await idempotency.end(store, begun, b"the response")

    async def happened(self, world: World, scene: Wanted) -> bool:
        applied = await _Enqueue.happened(self, world, scene)
        if applied:
            live = world.live()
            await self.act(world.store, scene)
            assert world.live() == live
        return applied


@dataclass(frozen=True, slots=True)
class WithId(_Enqueue):
    """A job with a client's id.

    ``step``: from its queue's shard to the one that the id names. The janitor goes over them in
    their order, so it matters which comes first.
    """

    step: Literal[-1, 0, 1]
    unique: bool = False
    least = 1

    async def prepare(self, world: World) -> Wanted:
        queue = middle_queue(world.store)
        job_id = foreign_id(world.store, queue, step=self.step)
        options: dict[str, Any] = {"unique": {}} if self.unique else {}
        return Wanted([new_job(queue, id=job_id, **options)])

    async def act(self, store: Store, scene: Wanted) -> None:
        await enqueue(store, scene.jobs[0])


@dataclass(frozen=True, slots=True)
class Claimed(_Enqueue):
    """A job with an id that a dead request has claimed for another shard.

    Args:
        expired: whether that request named another queue, and its claim has expired. Else it knew
            the queue with one partition, and now there are two.
        batch: whether others come with it.
    """

    expired: bool = False
    batch: bool = False
    least = 3

    async def prepare(self, world: World) -> Wanted:
        store, queue = world.store, "spread"
        shards = await spread(store, world.db, 2, queue)
        others = [shard for shard in store.keys if shard not in shards]
        home, target = others[0], others[1] if self.expired else shards[0]
        ids = (id_in(home.index) for _ in itertools.count())
        job_id = next(job_id for job_id in ids if crc32(job_id.encode()) % 2 == 1)
        await AliasClaims(store).claim(target, [(job_id, 0)], 0, total=1)
        if self.expired:
            age_claim(world.db, home, job_id, MINUTE)
        beside = [new_job("beside", type="beside")] if self.batch else []
        return Wanted([new_job(queue, id=job_id), *beside])

    async def act(self, store: Store, scene: Wanted) -> None:
        if self.batch:
            await enqueue_many(store, scene.jobs)
        else:
            await enqueue(store, scene.jobs[0])


@dataclass(frozen=True, slots=True)
class Unique(_Enqueue):
    """A unique job under a policy.

    ``holder``: where a job of the same uniqueness lives already, None for nowhere.
    """

    policy: str
    holder: Literal["queue", "shard", "elsewhere"] | None = None
    scheduled: bool = False
    least = 3

    async def prepare(self, world: World) -> Wanted:
        store = world.store
        one, other = queues_in_other_shards(store, 2)
        options: dict[str, Any] = {"unique": {"on_conflict": self.policy}}
        if self.holder is None:
            return Wanted([new_job(other, **options)])
        late = {"scheduled_at": "+PT2H"} if self.scheduled else {}
        places = {"queue": other, "shard": sibling_queue(store, other), "elsewhere": one}
        old = await once(store, places[self.holder], **late)
        return Wanted([new_job(other, **options)], old)

    async def act(self, store: Store, scene: Wanted) -> None:
        await enqueue(store, scene.jobs[0])


@dataclass(frozen=True, slots=True)
class Refused(_Enqueue):
    """A unique job that conflicts with another, under a policy that refuses it.

    ``step``: as of `WithId`, if the client gave an id. ``batch``: whether others come with it.
    """

    policy: Literal["reject", "ignore"]
    step: Literal[-1, 1] | None = None
    batch: bool = False
    least = 2

    async def prepare(self, world: World) -> Wanted:
        store, queue = world.store, middle_queue(world.store)
        one, other = queues_in_other_shards(store, 2)
        old = await once(store, one)
        job_id = None if self.step is None else foreign_id(store, queue, step=self.step)
        more = [new_job(one, type="plain"), new_job(other, type="plain")] if self.batch else []
        return Wanted([new_job(queue, id=job_id, unique={"on_conflict": self.policy}), *more], old)

    async def act(self, store: Store, scene: Wanted) -> None:
        with suppress(Duplicate):
            if self.batch:
                [job, *_] = await enqueue_many(store, scene.jobs)
            else:
                job = await enqueue(store, scene.jobs[0])
            assert job.deduplicated

    async def happened(self, world: World, scene: Wanted) -> bool:
        assert scene.old is not None
        others = len(world.live() - {scene.old.id})
        if not self.batch or self.policy == "reject":
            assert others == 0
            return True
        assert others in (0, len(scene.jobs) - 1)
        return bool(others)


@dataclass(frozen=True, slots=True)
class TakeOver(_Enqueue):
    """A unique job whose lock a dead producer has claimed without storing its job.

    ``id_claimed``: whether another request has claimed the id of that job for another shard.
    """

    id_claimed: bool = False
    least = 5

    async def prepare(self, world: World) -> Wanted:
        store = world.store
        queue, other = queues_in_other_shards(store, 2)
        wanted, dead_id = new_job(queue, unique={}), home_id(store, queue)
        await locks.try_claim(
            store,
            store.keys.shard_of_fingerprint(wanted.fingerprint),
            [LockRequest(wanted.fingerprint, dead_id, shard_of(store, queue).index)],
        )
        if self.id_claimed:
            await AliasClaims(store).claim(shard_of(store, other), [(dead_id, 0)], 0, total=1)
        await world.recover(5_000)
        return Wanted([wanted])

    async def act(self, store: Store, scene: Wanted) -> None:
        await enqueue(store, scene.jobs[0])


class Finishing(_Enqueue):
    """A committed transaction with a replacement, which another process applies."""

    least = 5

    async def prepare(self, world: World) -> Wanted:
        store = world.store
        one, other, third = queues_in_other_shards(store, 3)
        old = await once(store, third)
        unique = {"on_conflict": "replace"}
        wanted = [new_job(one, unique=unique), new_job(other, unique={}, type="other")]
        attempt = BatchAttempt(store, wanted)
        await attempt.reserve()
        transaction = attempt.transaction()
        assert await transactions.commit(store, transaction, attempt.commit_before_ms) is not None
        return Decided(wanted, old, transaction=transaction.id)

    async def act(self, store: Store, scene: Wanted) -> None:
        assert isinstance(scene, Decided)
        await transactions.resolve(store, scene.transaction)


@dataclass(frozen=True, slots=True)
class Decided(Wanted):
    """Jobs of a committed transaction."""

    transaction: str = ""
