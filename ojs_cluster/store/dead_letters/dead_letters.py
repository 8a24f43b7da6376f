"""Dead letters: jobs without attempts left, kept for an operator (spec: ojs-dead-letter)."""

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
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.by_id import run_on_job
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.partial_failures import after_first_write
from ojs_cluster.store.queues.queues import list_names_within
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique import unique_retry

MAX_OFFSET = 10_000
"""Last entry of a page over several shards. A queue with one partition has no such bound."""
_MAX_QUEUES = 1000
MAX_TYPED = 10_000
"""Dead letters whose type the statistics read: as many as one queue may have."""


@dataclass(frozen=True, slots=True)
class DeadLetterStats:
    """Dead letters at one moment.

    Args:
        total: their number.
        by_queue: their number in each of the first 1000 queues by name.
        by_type: their number by job type. With more than ``MAX_TYPED`` it covers that many: of
            each shard a proportional part, newest first.
        oldest_ms: discard time of the oldest one in Unix milliseconds, None without any.
        newest_ms: discard time of the newest one in Unix milliseconds, None without any.
    """

    total: int
    by_queue: Mapping[str, int]
    by_type: Mapping[str, int]
    oldest_ms: int | None
    newest_ms: int | None


async def list_dead_letters(
    store: Store, *, queue: str | None = None, limit: int, offset: int = 0
) -> tuple[list[JobRecord], int]:
    """Return a page of dead letters, newest first, and how many there are.

    The page has fewer than ``limit`` when the jobs are large.

    Args:
        store: the store.
        queue: only the dead letters of this queue; None for all.
        limit: most dead letters of the page.
        offset: dead letters to skip.

    Raises:
        InvalidRequest: the page of several shards ends after ``MAX_OFFSET``.
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

    async def read(shard: Shard) -> None:
        nonlocal count
        key = shard.dead if queue is None else shard.queue_dead(queue)
        ids, total = await _newest(store, shard, key, 0, offset + limit)
        count += total
        merged.extend((score, job_id, shard) for score, job_id in ids)

    await run_concurrently(shards, read)
    merged.sort(key=lambda item: item[:2], reverse=True)
    page = merged[offset : offset + limit]
    return await _read(store, [(shard, job_id) for _, job_id, shard in page]), count


_DeadSet = tuple[Shard, bytes]
"""Shard and key of a sorted set of dead letters: those of a shard, or of a queue in a shard."""


async def get_stats(store: Store, within: QueuePatterns | None = None) -> DeadLetterStats:
    """Return how many dead letters there are, in which queues, and their age.

    Args:
        store: the store.
        within: the queues that the reader may access, None for all. With it, all numbers cover only
            the first 1000 of these queues by name.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if within is None:
        sizes_by_set = await _sizes(store, [(shard, shard.dead) for shard in store.keys])
        names: Sequence[bytes] = await _queue_names(store) if sizes_by_set else []
    else:
        names = (await list_names_within(store, within))[:_MAX_QUEUES]
        sizes_by_set = {}
    of_queues: dict[str, dict[_DeadSet, int]] = {}

    async def read_queue(name: bytes) -> None:
        queue = name.decode()
        shards = await store.partitions.occupied_shards(store, queue)
        of_queues[queue] = await _sizes(
            store, [(shard, shard.queue_dead(queue)) for shard in shards]
        )

    await run_concurrently(names, read_queue)
    if within is not None:
        sizes_by_set = {key: count for sizes in of_queues.values() for key, count in sizes.items()}
    oldest, newest = await _ends(store, list(sizes_by_set))
    return DeadLetterStats(
        sum(sizes_by_set.values()),
        {queue: sum(sizes.values()) for queue, sizes in sorted(of_queues.items()) if sizes},
        await _by_type(store, sizes_by_set),
        min(oldest, default=None),
        max(newest, default=None),
    )


async def _queue_names(store: Store) -> Sequence[bytes]:
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot, "ZRANGE", meta.queues, 0, _MAX_QUEUES - 1, idempotent=True
    )
    return list(names)


async def _sizes(store: Store, dead_sets: Sequence[_DeadSet]) -> dict[_DeadSet, int]:
    """Return the size of each set, without the empty ones."""
    found: dict[_DeadSet, int] = {}

    async def read(dead_set: _DeadSet) -> None:
        shard, key = dead_set
        count = int(await _call(store, shard, "ZCARD", key))
        if count:
            found[dead_set] = count

    await run_concurrently(dead_sets, read)
    return found


async def _ends(store: Store, dead_sets: Sequence[_DeadSet]) -> tuple[list[int], list[int]]:
    """Return the discard times of the oldest and the newest dead letter of each set, in ms."""
    oldest: list[int] = []
    newest: list[int] = []

    async def read(dead_set: _DeadSet) -> None:
        shard, key = dead_set
        for command, ends in (("ZRANGE", oldest), ("ZREVRANGE", newest)):
            flat = await _call(store, shard, command, key, 0, 0, "WITHSCORES")
            if flat:
                ends.append(int(float(flat[1])))

    await run_concurrently(dead_sets, read)
    return oldest, newest


async def _by_type(store: Store, sizes_by_set: Mapping[_DeadSet, int]) -> dict[str, int]:
    """Return how many dead letters each type has, for the sets and their sizes.

    The refused alternative is a counter for each type. It would be exact for any number, but would
    cost every dead letter, retry and removal a write. So the jobs are read, up to a bound.
    """
    total = sum(sizes_by_set.values())
    places: list[tuple[Shard, bytes]] = []

    async def list_ids(dead_set: _DeadSet) -> None:
        shard, key = dead_set
        size = sizes_by_set[dead_set]
        count = size if total <= MAX_TYPED else size * MAX_TYPED // total
        if count:
            ids = await _call(store, shard, "ZREVRANGE", key, 0, count - 1)
            places.extend((shard, job_id) for job_id in ids)

    types: Counter[str] = Counter()

    async def read_type(found: tuple[Shard, bytes]) -> None:
        shard, job_id = found
        name = await _call(store, shard, "HGET", shard.job(job_id.decode()), f.TYPE)
        if name is not None:  # else removed since it was listed
            types[name.decode()] += 1

    await run_concurrently(sizes_by_set, list_ids)
    await run_concurrently(places, read_type)
    return dict(sorted(types.items()))


async def get(store: Store, job_id: str) -> JobRecord:
    """Return one dead letter.

    Raises:
        NotFound: no such job, or it is not a dead letter.
    """
    job = await read_jobs.get(store, job_id)
    if not job.dead:
        raise NotFound("dead letter", job_id)
    return job


async def retry(store: Store, job_id: str) -> JobRecord:
    """Make a dead letter available again, with the same id, attempt 0 and without its errors.

    Raises:
        NotFound: the job is not a dead letter, or has already been retried.
        Duplicate: the job is unique, and another job with its fingerprint has not ended.
    """
    try:
        return await _retry_by_id(store, job_id, "dead")
    except Conflict:
        raise NotFound("dead letter", job_id) from None


async def retry_discarded(
    store: Store, job_id: str, *, expected_replays: int | None = None
) -> JobRecord:
    """Make a discarded job available again, whether or not it is a dead letter.

    Args:
        store: the store.
        job_id: the job.
        expected_replays: how often an operator has retried the job before, None for any number.
            With it a repeated call retries the job once.

    Raises:
        NotFound: no such job, or its retention is over.
        Conflict: the job is not discarded, or was retried since.
        Duplicate: the job is unique, and another job with its fingerprint has not ended.
    """
    return await _retry_by_id(store, job_id, "discarded", expected_replays)


async def _retry_by_id(
    store: Store, job_id: str, must_be: str, expected_replays: int | None = None
) -> JobRecord:
    found = await read_jobs.get(store, job_id)
    if expected_replays is not None and found.replays != expected_replays:
        raise Conflict(f"job '{job_id}' was retried since", job_id=job_id, state=found.state)
    if f.UNIQUE in found.fields:
        return await unique_retry.retry_unique_job(store, job_id, must_be)
    job = await run_on_job(
        store,
        "retry_dead",
        job_id,
        transactions.RETRY_KEYS,
        [
            store.settings.events_per_shard,
            must_be,
            "" if expected_replays is None else expected_replays,
        ],
    )
    with after_first_write():
        shard = await read_jobs.shard_of(store, job.queue, job_id)
        await store.partitions.ensure_open(store, shard, [job.queue])
    return job


async def delete(store: Store, job_id: str) -> JobRecord:
    """Remove a dead letter and its job permanently; return the job as it was.

    A job whose id was fixed in advance (by a workflow or a cron job) is only hidden at first. The
    rest of it reserves the id until two minutes after the job was discarded.

    Raises:
        NotFound: the job is not a dead letter.
    """
    try:
        job = await run_on_job(store, "delete_dead", job_id, ("finished", "dead"), [])
    except Conflict:
        raise NotFound("dead letter", job_id) from None
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
    if not job.hidden:
        with after_first_write():
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
