"""Create jobs for benchmarks that use the store without HTTP, and read Redis's memory use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack

CHUNK = 1000
"""Jobs per script while filling."""


def new_job(queue: str, size: int = 200, more: bytes = b"") -> NewJob:
    """Return a job with ``size`` bytes of args; ``more`` are further members of its options."""
    return parse_job(
        b'{"type":"bench.job","args":["%b"],"options":{"queue":"%b"%b}}'
        % (b"x" * (size - 4), queue.encode(), more)
    )


async def fill(store: Store, queue: str, count: int, size: int = 200, more: bytes = b"") -> None:
    """Enqueue ``count`` jobs."""
    job = new_job(queue, size, more)
    for start in range(0, count, CHUNK):
        await enqueue_many(store, [job] * min(CHUNK, count - start))


async def lifecycles(store: Store, queue: str, count: int, size: int = 200) -> None:
    """Enqueue, fetch and acknowledge ``count`` jobs one by one, 16 at a time."""
    job = new_job(queue, size)

    async def one() -> None:
        await enqueue(store, job)
        for found in await fetch(store, [queue], count=1, worker_id="bench"):
            await ack(store, found.id, worker_id="bench", lease_id=found.lease_id, result=None)

    await at_once(16, count // 16, one)


async def at_once(tasks: int, times: int, call: Callable[[], Awaitable[object]]) -> None:
    """Run ``call`` ``times`` times in each of ``tasks`` tasks."""

    async def repeat() -> None:
        for _ in range(times):
            await call()

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(repeat)


async def used_memory(store: Store) -> int:
    """Return the bytes that all masters use."""
    total = 0
    for reply in (await store.redis.call_masters("INFO", "memory")).values():
        assert isinstance(reply, bytes)
        line = next(line for line in reply.splitlines() if line.startswith(b"used_memory:"))
        total += int(line.partition(b":")[2])
    return total
