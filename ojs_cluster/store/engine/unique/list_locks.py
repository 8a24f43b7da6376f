"""List the unique locks of all shards with the jobs that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.read_jobs import read_some
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position, scored_names


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


async def list_locks(
    store: Store, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[HeldLock]:
    """Return a page of locks, shard by shard, with the number of all locks.

    The locks of a shard are in the order in which the janitor checks them. A lock that is checked
    between two requests moves to the end of its shard. It may be listed twice, and none is skipped.
    A lock whose holder is not stored is left out. The janitor releases it.

    Args:
        store: the store.
        limit: maximum number of locks of the page.
        offset: number of locks before the page, unless ``after`` is given.
        after: index of the shard, Unix time of the next check in ms and fingerprint of the last
            lock before the page.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    sizes: dict[Shard, int] = {}

    async def count(shard: Shard) -> None:
        size: Any = await store.redis.call(shard.slot, "ZCARD", shard.locks, idempotent=True)
        sizes[shard] = size

    await run_concurrently(store.keys, count)
    positions: list[tuple[int, int, str]] = []
    skip, first_shard = (offset, 0) if after is None else (0, int(after[0]))
    for shard in store.keys:
        missing = limit + 1 - len(positions)  # one more lock tells whether others follow
        if sizes[shard] > skip and missing > 0 and shard.index >= first_shard:
            start = after[1:] if after is not None and shard.index == first_shard else None
            positions += await _positions(store, shard, missing, skip, start)
        skip = max(0, skip - sizes[shard])
    found: list[HeldLock] = []
    for index, part in groupby(positions[:limit], key=itemgetter(0)):
        found += await _read(store, store.keys.shard(index), [name for *_, name in part])
    last = positions[limit - 1] if len(positions) > limit else None
    return Listed(found, sum(sizes.values()), last)


async def _positions(
    store: Store, shard: Shard, limit: int, offset: int, after: Position | None
) -> list[tuple[int, int, str]]:
    """Return the positions of locks of a shard, after ``offset`` others or after a position."""
    flat: Any
    if after is None:
        flat = await store.redis.call(
            shard.slot,
            *("ZRANGE", shard.locks, offset, offset + limit - 1, "WITHSCORES"),
            idempotent=True,
        )
    else:
        _, *flat = await store.run(
            shard, "sorted_set_after", [shard.locks], [*after, 0, limit], idempotent=True
        )
    return [(shard.index, *each) for each in scored_names(flat)]


async def _read(store: Store, shard: Shard, fingerprints: Sequence[str]) -> list[HeldLock]:
    """Return the locks of a shard with these fingerprints."""
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
