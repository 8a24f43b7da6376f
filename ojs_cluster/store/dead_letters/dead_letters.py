"""Dead letters: jobs that failed for good and wait for a human (spec: ojs-dead-letter)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import Conflict, InvalidRequest, MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.aliases import remove_expired_jobs
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.by_id import on_job
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.queues.queues import list_names_within
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique import unique_retry

MAX_OFFSET = 10_000
"""How far into the list of all queues a page may lie; one queue's list has no such bound."""
_MOST_QUEUES = 1000
MOST_TYPED = 10_000
"""Of how many dead letters the statistics look at the type: as many as one queue may have."""


@dataclass(frozen=True, slots=True)
class DeadLetterStats:
    """Dead letters now. Times in ms, None when there are none.

    ``by_queue`` covers the first 1000 queues by name. ``by_type`` counts all of them when there are
    no more than ``MOST_TYPED``; else that many, of each shard its share, and those its newest.
    """

    total: int
    by_queue: Mapping[str, int]
    by_type: Mapping[str, int]
    oldest_ms: int | None
    newest_ms: int | None


async def list_dead_letters(
    store: Store, *, queue: str | None = None, limit: int, offset: int = 0
) -> tuple[list[JobRecord], int]:
    """Dead letters, newest first, and how many there are. Of large ones fewer than asked for.

    Args:
        queue: only this queue's.

    Raises:
        InvalidRequest: the page of several shards lies deeper than ``MAX_DEPTH``.
        BackendUnavailable: Redis did not answer in time.
    """
    shards = store.keys if queue is None else await store.partitions.occupied_shards(store, queue)
    if queue is not None and len(shards) == 1:
        [shard] = shards
        ids, total = await _newest(store, shard, shard.queue_dead(queue), offset, limit)
        return await _read(store, [(shard, job_id) for _, job_id in ids]), total
    if offset + limit > MAX_OFFSET:
        raise InvalidRequest(
            f"a page over several shards ends at entry {MAX_OFFSET}: ask for one queue that has "
            "one partition",
            field="offset",
        )
    merged: list[tuple[float, str, Shard]] = []
    count = 0

    async def look(shard: Shard) -> None:
        nonlocal count
        key = shard.dead if queue is None else shard.queue_dead(queue)
        ids, total = await _newest(store, shard, key, 0, offset + limit)
        count += total
        merged.extend((score, job_id, shard) for score, job_id in ids)

    await over_shards(shards, look)
    merged.sort(key=lambda item: item[:2], reverse=True)
    page = merged[offset : offset + limit]
    return await _read(store, [(shard, job_id) for _, job_id, shard in page]), count


_Place = tuple[Shard, bytes]
"""A sorted set of dead letters: those of a shard, or those of a queue in one of its shards."""


async def get_stats(store: Store, within: QueuePatterns | None = None) -> DeadLetterStats:
    """How many dead letters there are, where, and how old.

    Args:
        within: the queues that the reader may reach, None for all. Then all numbers are about
            the first 1000 of them by name.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if within is None:
        here = await _sizes(store, [(shard, shard.dead) for shard in store.keys])
        names: Sequence[bytes] = await _queue_names(store) if here else []
    else:
        names = (await list_names_within(store, within))[:_MOST_QUEUES]
        here = {}
    of_queues: dict[str, dict[_Place, int]] = {}

    async def look_at(name: bytes) -> None:
        queue = name.decode()
        shards = await store.partitions.occupied_shards(store, queue)
        of_queues[queue] = await _sizes(
            store, [(shard, shard.queue_dead(queue)) for shard in shards]
        )

    await over_shards(names, look_at)
    if within is not None:
        here = {place: count for sizes in of_queues.values() for place, count in sizes.items()}
    oldest, newest = await _ends(store, list(here))
    return DeadLetterStats(
        sum(here.values()),
        {queue: sum(sizes.values()) for queue, sizes in sorted(of_queues.items()) if sizes},
        await _by_type(store, here),
        min(oldest, default=None),
        max(newest, default=None),
    )


async def _queue_names(store: Store) -> Sequence[bytes]:
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot, "ZRANGE", meta.queues, 0, _MOST_QUEUES - 1, idempotent=True
    )
    return list(names)


async def _sizes(store: Store, places: Sequence[_Place]) -> dict[_Place, int]:
    """How many dead letters lie in each of the sets; those without any are left out."""
    found: dict[_Place, int] = {}

    async def look(place: _Place) -> None:
        shard, key = place
        count = int(await _call(store, shard, "ZCARD", key))
        if count:
            found[place] = count

    await over_shards(places, look)
    return found


async def _ends(store: Store, places: Sequence[_Place]) -> tuple[list[int], list[int]]:
    """The times of the oldest and of the newest dead letter of each set, in ms."""
    oldest: list[int] = []
    newest: list[int] = []

    async def look(place: _Place) -> None:
        shard, key = place
        for command, ends in (("ZRANGE", oldest), ("ZREVRANGE", newest)):
            flat = await _call(store, shard, command, key, 0, 0, "WITHSCORES")
            if flat:
                ends.append(int(float(flat[1])))

    await over_shards(places, look)
    return oldest, newest


async def _by_type(store: Store, here: Mapping[_Place, int]) -> dict[str, int]:
    """How many dead letters each type has, given how many each set has.

    Counters that the transitions keep would be exact for any number, and cost every death, retry
    and removal a write for a question that few ask. So: looked at, up to a bound.
    """
    total = sum(here.values())
    places: list[tuple[Shard, bytes]] = []

    async def list_ids(place: _Place) -> None:
        shard, key = place
        count = here[place] if total <= MOST_TYPED else here[place] * MOST_TYPED // total
        if count:
            ids = await _call(store, shard, "ZREVRANGE", key, 0, count - 1)
            places.extend((shard, job_id) for job_id in ids)

    types: Counter[str] = Counter()

    async def look_at(found: tuple[Shard, bytes]) -> None:
        shard, job_id = found
        name = await _call(store, shard, "HGET", shard.job(job_id.decode()), f.TYPE)
        if name is not None:  # else removed meanwhile
            types[name.decode()] += 1

    await over_shards(here, list_ids)
    await over_shards(places, look_at)
    return dict(sorted(types.items()))


async def get(store: Store, job_id: str) -> JobRecord:
    """One dead letter.

    Raises:
        NotFound: no such job, or it is not a dead letter.
    """
    job = await read_jobs.get(store, job_id)
    if not job.dead:
        raise NotFound("dead letter", job_id)
    return job


async def retry(store: Store, job_id: str) -> JobRecord:
    """Run a dead letter again: same id, attempt 0, errors gone, replay counted.

    Raises:
        NotFound: not a dead letter (also when it has been retried already).
        Duplicate: it is a unique job, and another one of its uniqueness has not ended.
    """
    try:
        return await _retry_by_id(store, job_id, "dead")
    except Conflict:
        raise NotFound("dead letter", job_id) from None


async def retry_discarded(store: Store, job_id: str) -> JobRecord:
    """Run a discarded job again as ``retry`` does, whether or not it is a dead letter.

    Raises:
        NotFound: no such job, or its retention is over.
        Conflict: it is not discarded.
        Duplicate: as ``retry``.
    """
    return await _retry_by_id(store, job_id, "discarded")


async def _retry_by_id(store: Store, job_id: str, must_be: str) -> JobRecord:
    if f.UNIQUE in (await read_jobs.get(store, job_id)).fields:
        return await unique_retry.revive(store, job_id, must_be)
    job = await on_job(
        store,
        "retry_dead",
        job_id,
        transactions.RETRY_KEYS,
        [store.settings.events_per_shard, must_be, ""],
    )
    with begun():
        shard = await read_jobs.shard_of(store, job.queue, job_id)
        await store.partitions.ensure_open(store, shard, [job.queue])
    return job


async def delete(store: Store, job_id: str) -> JobRecord:
    """Remove a dead letter and its job for good; returns the job as it was.

    A job whose id was fixed in advance, a workflow's or a cron job's, cannot be found any more; the
    rest of it keeps the id taken until two minutes after its death.

    Raises:
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
            shard = await read_jobs.shard_of(store, job.queue, job_id)
            removal = await remove_expired_jobs(store, shard, [job_id])
            if removal.error is not None:
                raise removal.error
    return job


async def _read(store: Store, places: Sequence[tuple[Shard, str]]) -> list[JobRecord]:
    return [job for job in await read_jobs.read_some(store, places) if job is not None and job.dead]


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
