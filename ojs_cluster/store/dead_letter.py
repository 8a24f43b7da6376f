"""Dead letters: jobs that failed for good and wait for a human (spec: ojs-dead-letter)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import Conflict, InvalidRequest, MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store import deals, jobs, unique_retry
from ojs_cluster.store import fields as f
from ojs_cluster.store.aliases import remove_due
from ojs_cluster.store.begun import begun
from ojs_cluster.store.by_id import on_job
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.malformed import remove_malformed
from ojs_cluster.store.record import JobRecord

MAX_DEPTH = 10_000
"""How far into the list of all queues a page may lie; one queue's list has no such bound."""
_MOST_QUEUES = 1000
MOST_TYPED = 10_000
"""Of how many dead letters the statistics look at the type: as many as one queue may have."""


@dataclass(frozen=True, slots=True)
class DeadStats:
    """Dead letters now. Times in ms, None when there are none.

    ``by_queue`` covers the first 1000 queues by name. ``by_type`` counts all of them when there are
    no more than ``MOST_TYPED``; else that many, of each shard its share, and those its newest.
    """

    total: int
    by_queue: Mapping[str, int]
    by_type: Mapping[str, int]
    oldest_ms: int | None
    newest_ms: int | None


async def list_dead(
    store: Store, *, queue: str | None = None, limit: int, offset: int = 0
) -> tuple[list[JobRecord], int]:
    """Dead letters, newest first, and how many there are. Of large ones fewer than asked for.

    Parameters
    ----------
    queue: only this queue's.

    Raises
    ------
    InvalidRequest: the page of several shards lies deeper than ``MAX_DEPTH``.
    BackendUnavailable: Redis did not answer in time.
    """
    shards = store.keys if queue is None else await store.partitions.held(store, queue)
    if queue is not None and len(shards) == 1:
        [shard] = shards
        ids, total = await _newest(store, shard, shard.dead_of(queue), offset, limit)
        return await _read(store, [(shard, job_id) for _, job_id in ids]), total
    if offset + limit > MAX_DEPTH:
        raise InvalidRequest(
            f"a page over several shards ends at entry {MAX_DEPTH}: ask for one queue that has "
            "one partition",
            field="offset",
        )
    merged: list[tuple[float, str, Shard]] = []
    count = 0

    async def look(shard: Shard) -> None:
        nonlocal count
        key = shard.dead if queue is None else shard.dead_of(queue)
        ids, total = await _newest(store, shard, key, 0, offset + limit)
        count += total
        merged.extend((score, job_id, shard) for score, job_id in ids)

    await over_shards(shards, look)
    merged.sort(key=lambda item: item[:2], reverse=True)
    page = merged[offset : offset + limit]
    return await _read(store, [(shard, job_id) for _, job_id, shard in page]), count


async def stats(store: Store) -> DeadStats:
    """How many dead letters there are, where, and how old."""
    here: dict[Shard, int] = {}
    oldest: list[int] = []
    newest: list[int] = []

    async def look(shard: Shard) -> None:
        here[shard] = int(await _call(store, shard, "ZCARD", shard.dead))
        for command, ends in (("ZRANGE", oldest), ("ZREVRANGE", newest)):
            flat = await _call(store, shard, command, shard.dead, 0, 0, "WITHSCORES")
            if flat:
                ends.append(int(float(flat[1])))

    await over_shards(store.keys, look)
    total = sum(here.values())
    by_queue: dict[str, int] = {}

    async def look_at(name: bytes) -> None:
        queue = name.decode()
        dead = 0
        for shard in await store.partitions.held(store, queue):
            dead += int(await _call(store, shard, "ZCARD", shard.dead_of(queue)))
        if dead:
            by_queue[queue] = dead

    if total:
        meta = store.keys.meta
        names: Any = await store.redis.call(
            meta.slot, "ZRANGE", meta.queues, 0, _MOST_QUEUES - 1, idempotent=True
        )
        await over_shards(names, look_at)
    return DeadStats(
        total,
        dict(sorted(by_queue.items())),
        await _by_type(store, here),
        min(oldest, default=None),
        max(newest, default=None),
    )


async def _by_type(store: Store, here: Mapping[Shard, int]) -> dict[str, int]:
    """How many dead letters each type has, given how many each shard has.

    Counters that the transitions keep would be exact for any number, and cost every death, retry
    and removal a write for a question that few ask. So: looked at, up to a bound.
    """
    total = sum(here.values())
    places: list[tuple[Shard, bytes]] = []

    async def list_ids(shard: Shard) -> None:
        count = here[shard] if total <= MOST_TYPED else here[shard] * MOST_TYPED // total
        if count:
            ids = await _call(store, shard, "ZREVRANGE", shard.dead, 0, count - 1)
            places.extend((shard, job_id) for job_id in ids)

    types: Counter[str] = Counter()

    async def look_at(place: tuple[Shard, bytes]) -> None:
        shard, job_id = place
        name = await _call(store, shard, "HGET", shard.job(job_id.decode()), f.TYPE)
        if name is not None:  # else removed meanwhile
            types[name.decode()] += 1

    await over_shards(here, list_ids)
    await over_shards(places, look_at)
    return dict(sorted(types.items()))


async def get(store: Store, job_id: str) -> JobRecord:
    """One dead letter.

    Raises
    ------
    NotFound: no such job, or it is not a dead letter.
    """
    job = await jobs.get(store, job_id)
    if not job.dead:
        raise NotFound("dead letter", job_id)
    return job


async def retry(store: Store, job_id: str) -> JobRecord:
    """Run a dead letter again: same id, attempt 0, errors gone, replay counted.

    Raises
    ------
    NotFound: not a dead letter (also when it has been retried already).
    Duplicate: it is a unique job, and another one of its uniqueness has not ended.
    """
    try:
        return await _revive(store, job_id, "dead")
    except Conflict:
        raise NotFound("dead letter", job_id) from None


async def retry_discarded(store: Store, job_id: str) -> JobRecord:
    """Run a discarded job again as ``retry`` does, whether or not it is a dead letter.

    Raises
    ------
    NotFound: no such job, or its retention is over.
    Conflict: it is not discarded.
    Duplicate: as ``retry``.
    """
    return await _revive(store, job_id, "discarded")


async def _revive(store: Store, job_id: str, must_be: str) -> JobRecord:
    if f.UNIQUE in (await jobs.get(store, job_id)).fields:
        return await unique_retry.revive(store, job_id, must_be)
    job = await on_job(
        store, "retry_dead", job_id, deals.REVIVE, [store.settings.events_per_shard, must_be, ""]
    )
    with begun():
        shard = await jobs.shard_of(store, job.queue, job_id)
        await store.partitions.admit(store, shard, [job.queue])
    return job


async def delete(store: Store, job_id: str) -> JobRecord:
    """Remove a dead letter and its job for good; returns the job as it was.

    A job whose id was fixed in advance, a workflow's or a cron job's, cannot be found any more; the
    rest of it keeps the id taken until two minutes after its death.

    Raises
    ------
    NotFound: not a dead letter.
    """
    try:
        job = await on_job(store, "delete_dead", job_id, ("finished", "dead"), [])
    except Conflict:
        raise NotFound("dead letter", job_id) from None
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
    if not job.hidden:
        with begun():
            shard = await jobs.shard_of(store, job.queue, job_id)
            removal = await remove_due(store, shard, [job_id])
            if removal.error is not None:
                raise removal.error
    return job


async def _read(store: Store, places: Sequence[tuple[Shard, str]]) -> list[JobRecord]:
    return [job for job in await jobs.read_some(store, places) if job is not None and job.dead]


async def _newest(
    store: Store, shard: Shard, key: bytes, offset: int, limit: int
) -> tuple[list[tuple[float, str]], int]:
    total = int(await _call(store, shard, "ZCARD", key))
    flat = (
        await _call(store, shard, "ZREVRANGE", key, offset, offset + limit - 1, "WITHSCORES")
        if total and limit
        else []
    )
    items = iter(flat)
    return [(float(score), name.decode()) for name, score in zip(items, items, strict=True)], total


async def _call(store: Store, shard: Shard, *args: bytes | str | int) -> Any:
    return await store.redis.call(shard.slot, *args, idempotent=True)
