"""Short ways to say what these tests say all the time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import trio

from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.failure import Failure, parse_failure
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs import ack as acks
from ojs_cluster.store.engine.jobs import nack as nacks
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.store.operators.operations.leader import LeaderLease, RedisLeaderLock
from ojs_cluster.store.operators.operations.losses import rebuild, record_losses

T = TypeVar("T")
QUEUE = "mail"
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

LONG = "PT5M"
"""A backoff that ends only when a test lets time pass; the longest that is allowed by default."""

_serial = itertools.count()


def new_job(
    queue: str = QUEUE, *, id: str | None = None, type: str = "mail.send", **options: Any
) -> NewJob:
    """A job as a client would ask for it; keywords are options of the enqueue request.

    Unless told otherwise a failed attempt is repeated long after the test: after the usual second a
    slow machine would meet the job again where the test expects another.
    """
    options["retry"] = {"initial_interval": LONG, **options.get("retry", {})}
    body: dict[str, Any] = {"type": type, "args": [], "options": {"queue": queue, **options}}
    if id is not None:
        body["id"] = id
    return parse_job(json.dumps(body).encode())


def plain_job(queue: str = QUEUE) -> NewJob:
    """A job without options, which has only the fields that every job has."""
    body = {"type": "mail.send", "args": [], "options": {"queue": queue}}
    return parse_job(json.dumps(body).encode())


async def put(store: Store, queue: str = QUEUE, **members: Any) -> JobRecord:
    """Enqueue one job."""
    return await enqueue(store, new_job(queue, **members))


async def take(
    store: Store,
    *queues: str,
    count: int = 1,
    worker: str = "w1",
    lease_ms: int | None = None,
    **options: Any,
) -> list[JobRecord]:
    """Fetch."""
    return await fetch(
        store,
        queues or (QUEUE,),
        count=count,
        worker_id=worker,
        visibility_timeout_ms=lease_ms,
        **options,
    )


async def active(store: Store, queue: str = QUEUE, *, worker: str = "w1", **m: Any) -> JobRecord:
    """Enqueue a job and fetch it."""
    job = await put(store, queue, **m)
    [fetched] = await take(store, queue, worker=worker)
    assert fetched.id == job.id
    return fetched


async def ack(store: Store, job: JobRecord | str, **who: Any) -> JobRecord:
    """Ack as ``worker_id`` or ``lease_id``, or anonymously; ``result`` is JSON."""
    job_id = job if isinstance(job, str) else job.id
    who = {"worker_id": None, "lease_id": None, "result": None, **who}
    return await acks.ack(store, job_id, **who)


async def nack(store: Store, job: JobRecord | str, error: Any = None, **who: Any) -> JobRecord:
    """Nack with an error as a client would send it."""
    job_id = job if isinstance(job, str) else job.id
    who = {"worker_id": None, "lease_id": None, "requeue": False, **who}
    return await nacks.nack(store, job_id, failure=failure(error), **who)


def failure(error: Any = None) -> Failure:
    """A normalised error."""
    return parse_failure(json.dumps({"message": "boom"} if error is None else error).encode())


def shard_of(store: Store, queue: str = QUEUE) -> Shard:
    """The shard of a queue."""
    return store.keys.shard_of_queue(queue)


def envelope(job: JobRecord, *, lease: bool = False) -> dict[str, Any]:
    """The job as a client sees it."""
    decoded: dict[str, Any] = json.loads(job.json(lease=lease))
    return decoded


def id_in(shard: int) -> str:
    """A fresh id as a client makes it, whose bits name ``shard``."""
    return f"019461a8-1a2b-7{shard:03x}-8e4f-{next(_serial):012x}"


def home_id(store: Store, queue: str = QUEUE) -> str:
    """A client's id whose bits happen to name its queue's shard."""
    return id_in(shard_of(store, queue).index)


def foreign_id(store: Store, queue: str = QUEUE, *, step: int = 1) -> str:
    """A client's id whose bits name another shard than its queue's: the ``step``-th after it."""
    return id_in((shard_of(store, queue).index + step) % len(store.keys))


def middle_queue(store: Store) -> str:
    """A queue that a walk over all shards meets neither first nor last."""
    names = (f"middle{number}" for number in itertools.count())
    return next(name for name in names if 0 < shard_of(store, name).index < len(store.keys) - 1)


def queues_in_other_shards(store: Store, count: int) -> list[str]:
    """Names of queues that all live in different shards."""
    found: dict[Shard, str] = {}
    for number in itertools.count():
        name = f"q{number}"
        found.setdefault(store.keys.shard_of_queue(name), name)
        if len(found) == count:
            return list(found.values())
    raise AssertionError


def sibling_queue(store: Store, queue: str = QUEUE) -> str:
    """Another queue of the same shard."""
    shard = shard_of(store, queue)
    return next(
        name
        for name in (f"sibling{number}" for number in itertools.count())
        if store.keys.shard_of_queue(name) is shard
    )


async def clock_ms(store: Store, slot: int) -> int:
    """The time in ms on the master that serves ``slot``."""
    seconds, micros = cast(list[bytes], await store.redis.call(slot, "TIME"))
    return int(seconds) * 1000 + int(micros) // 1000


async def reap_all(store: Store, queue: str = QUEUE, limit: int = 100) -> SweepResult:
    """One reap of a queue's shard."""
    return await reap(store, shard_of(store, queue), limit)


async def promote_all(store: Store, queue: str = QUEUE, limit: int = 100) -> SweepResult:
    """One promote of a queue's shard."""
    return await promote(store, shard_of(store, queue), limit)


async def until(
    probe: Callable[[], Awaitable[T]], accept: Callable[[T], bool], *, timeout_s: float = 60
) -> T:
    """Poll until ``probe`` returns something acceptable.

    Raises:
        trio.TooSlowError: it did not in time.
    """
    with trio.fail_after(timeout_s):
        while not accept(value := await probe()):  # noqa: ASYNC110 - the state polled is in Redis
            await trio.sleep(0.01)
    return value


def lock_of(store: Store, lease: LeaderLease) -> RedisLeaderLock:
    """Return the lock of a lease, as the process of ``store`` uses it."""
    return RedisLeaderLock(store, lease.shard, lease.group, lease.identity, lease.ttl_ms)


async def restore(store: Store) -> None:
    """Record what masters have lost, and restore what the others know."""

    async def may_continue() -> bool:
        return True

    if await record_losses(store):
        await rebuild(store, may_continue)
