"""List the unique locks of all shards with the jobs that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.read_jobs import read_some
from ojs_cluster.store.jobs.record import JobRecord


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock and the job that holds it.

    Args:
        fingerprint: the fingerprint of the lock.
        job_id: id of the holder.
        type: its type.
        queue: its queue.
        state: its state.
        until_ms: Unix time in ms at which the period of its policy ends; None if it has none.
    """

    fingerprint: str
    job_id: str
    type: str
    queue: str
    state: str
    until_ms: int | None


async def list_locks(store: Store, *, limit: int, offset: int) -> tuple[list[HeldLock], int]:
    """Return a page of locks, shard by shard, and the number of all locks.

    A lock whose holder is not stored is left out. The janitor releases it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    sizes: dict[Shard, int] = {}

    async def count(shard: Shard) -> None:
        size: Any = await store.redis.call(shard.slot, "ZCARD", shard.locks, idempotent=True)
        sizes[shard] = size

    await run_concurrently(store.keys, count)
    found: list[HeldLock] = []
    before, end = 0, offset + limit
    for shard in store.keys:
        first, last = max(offset - before, 0), min(end - before, sizes[shard]) - 1
        before += sizes[shard]
        if first <= last:
            found += await _read(store, shard, first, last)
    return found, before


async def _read(store: Store, shard: Shard, first: int, last: int) -> list[HeldLock]:
    """Return the locks of a shard with these positions in its index."""
    names: Any = await store.redis.call(
        shard.slot, "ZRANGE", shard.locks, first, last, idempotent=True
    )
    fingerprints = [name.decode(errors="replace") for name in names]
    holders: dict[str, tuple[Shard, str]] = {}

    async def read_holder(fingerprint: str) -> None:
        values: Any = await store.redis.call(
            shard.slot, "HMGET", shard.lock(fingerprint), "holder", "shard", idempotent=True
        )
        job_id, number = (value or b"" for value in values)
        if job_id and number.isdigit() and int(number) < len(store.keys):
            holders[fingerprint] = store.keys.shard(int(number)), job_id.decode(errors="replace")

    await run_concurrently(fingerprints, read_holder)
    held = [name for name in fingerprints if name in holders]
    locks: list[HeldLock] = []
    while held:
        jobs = await read_some(store, [holders[name] for name in held])
        locks += [
            _held(name, job) for name, job in zip(held, jobs, strict=False) if job is not None
        ]
        held = held[len(jobs) :]
    return locks


def _held(fingerprint: str, job: JobRecord) -> HeldLock:
    return HeldLock(fingerprint, job.id, job.type, job.queue, job.state.value, _until_ms(job))


def _until_ms(job: JobRecord) -> int | None:
    members = object_members(job.envelope() + b"}") or {}
    try:
        period = orjson.loads(bytes(members["unique"]))["period"]
        return job.created_ms + parse_duration_ms(period)
    except (KeyError, TypeError, ValueError):  # it has no period
        return None
