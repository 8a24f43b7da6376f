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
from ojs_cluster.store.engine.changes.delete_finished import remove_deleted
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause, history_arg
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.engine.newest import read_newest
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.queues.queues import list_names_within
from ojs_cluster.store.engine.read_sets import ShardKey, read_sizes
from ojs_cluster.store.engine.transactions.apply_steps import RETRY_KEYS
from ojs_cluster.store.engine.unique import unique_retry
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.portions import PORTION_KEYS

MAX_OFFSET = 10_000
"""Maximum offset of the last entry of a page over several shards.

A page of a queue with one partition has no such limit."""
_MAX_QUEUES = 1000
"""Maximum number of queues in the statistics."""
MAX_TYPED = 10_000
"""Maximum number of dead letters whose types the statistics read.

By default, one queue may have this number of dead letters."""


@dataclass(frozen=True, slots=True)
class DeadLetterStats:
    """Numbers of dead letters.

    Args:
        total: number of all dead letters.
        by_queue: number of dead letters in each of the first 1000 queues by name.
        by_type: number of dead letters of each job type. If there are more than ``MAX_TYPED`` dead
            letters, only ``MAX_TYPED`` of them are counted: the newest ones of each shard, in
            proportion to the number in that shard.
        oldest_ms: discard time of the oldest dead letter in Unix milliseconds, None for none.
        newest_ms: discard time of the newest dead letter in Unix milliseconds, None for none.
    """

    total: int
    by_queue: Mapping[str, int]
    by_type: Mapping[str, int]
    oldest_ms: int | None
    newest_ms: int | None


async def list_dead_letters(
    store: Store,
    *,
    queue: str | None = None,
    limit: int,
    offset: int = 0,
    after: Position | None = None,
) -> Listed[JobRecord]:
    """Return a page of dead letters, newest first, with the number of all dead letters.

    The page has fewer than ``limit`` dead letters when the jobs are large.

    Args:
        store: the store.
        queue: the queue whose dead letters are listed; None for all queues.
        limit: maximum number of dead letters on the page.
        offset: number of dead letters before the page, unless ``after`` is given.
        after: discard time in Unix milliseconds of the last dead letter before the page, and its
            id.

    Raises:
        InvalidRequest: the page is found by its offset, covers several shards and ends after
            ``MAX_OFFSET``.
        BackendUnavailable: Redis did not answer in time.
    """
    shards = store.keys if queue is None else await store.partitions.occupied_shards(store, queue)
    skip = offset if after is None else 0
    begin = 0
    if queue is not None and len(shards) == 1:
        begin, skip = skip, 0
    elif skip + limit > MAX_OFFSET:
        raise InvalidRequest(
            f"a page over several shards ends at entry {MAX_OFFSET}: list one queue that has one "
            "partition, or use the cursor",
            field="offset",
        )
    merged: list[tuple[int, str, Shard]] = []
    total = 0

    async def read(shard: Shard) -> None:
        nonlocal total
        key = shard.dead if queue is None else shard.queue_dead(queue)
        # One more dead letter than requested tells whether others follow.
        found, size = await read_newest(
            store, shard, key, limit=skip + limit + 1, offset=begin, after=after
        )
        total += size
        merged.extend((score, job_id, shard) for score, job_id in found)

    await run_concurrently(shards, read)
    merged.sort(key=lambda item: item[:2], reverse=True)
    page = merged[skip : skip + limit]
    jobs = await read_jobs.read_some(store, [(shard, job_id) for _, job_id, shard in page])
    # Jobs that are no dead letters any more are left out.
    shown = [job for job in jobs if job is not None and job.dead]
    last = page[len(jobs) - 1][:2] if len(merged) > skip + len(jobs) and page else None
    return Listed(shown, total, last)


async def get_stats(store: Store, within: QueuePatterns | None = None) -> DeadLetterStats:
    """Return how many dead letters there are, in which queues and of which types, and their age.

    Args:
        store: the store.
        within: patterns of the queues that the API key may access, None for all queues. With
            patterns, all numbers cover only the first 1000 of these queues by name.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.refresh_if_stale(store)
    if within is None:
        sizes_by_set = await read_sizes(store, [(shard, shard.dead) for shard in store.keys])
        names: Sequence[bytes] = await _queue_names(store) if sizes_by_set else []
    else:
        names = (await list_names_within(store, within))[:_MAX_QUEUES]
        sizes_by_set = {}
    sets_by_queue: dict[str, list[ShardKey]] = {}
    for name in names:
        queue = name.decode()
        shards = store.keys.partitions(queue, store.partitions.layout(queue).occupied_count)
        sets_by_queue[queue] = [(shard, shard.queue_dead(queue)) for shard in shards]
    sizes_of_queues = await read_sizes(
        store, (dead_set for sets in sets_by_queue.values() for dead_set in sets)
    )
    if within is not None:
        sizes_by_set = sizes_of_queues
    by_queue = {
        queue: sum(sizes_of_queues.get(dead_set, 0) for dead_set in sets)
        for queue, sets in sorted(sets_by_queue.items())
    }
    oldest, newest = await _discard_times(store, list(sizes_by_set))
    return DeadLetterStats(
        sum(sizes_by_set.values()),
        {queue: size for queue, size in by_queue.items() if size},
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


async def _discard_times(
    store: Store, dead_sets: Sequence[ShardKey]
) -> tuple[list[int], list[int]]:
    """Return the discard times of the oldest and the newest dead letter of each set.

    Returns:
        The oldest times and the newest times, in Unix milliseconds.
    """
    oldest: list[int] = []
    newest: list[int] = []

    async def read(dead_set: ShardKey) -> None:
        shard, key = dead_set
        for command, times in (("ZRANGE", oldest), ("ZREVRANGE", newest)):
            id_and_score = await _call(store, shard, command, key, 0, 0, "WITHSCORES")
            if id_and_score:
                times.append(int(float(id_and_score[1])))

    await run_concurrently(dead_sets, read)
    return oldest, newest


async def _by_type(store: Store, sizes_by_set: Mapping[ShardKey, int]) -> dict[str, int]:
    """Return how many dead letters each job type has, from up to ``MAX_TYPED`` dead letters.

    A counter for each type was refused: each dead letter, retry and removal would cost one more
    write.

    Args:
        store: the store.
        sizes_by_set: the sets of dead letters, and the size of each.
    """
    total = sum(sizes_by_set.values())
    chunks: list[tuple[ShardKey, int, int]] = []
    for dead_set, size in sizes_by_set.items():
        count = size if total <= MAX_TYPED else size * MAX_TYPED // total
        chunks += [
            (dead_set, start, min(start + PORTION_KEYS, count) - 1)
            for start in range(0, count, PORTION_KEYS)
        ]
    types: Counter[str] = Counter()

    async def count_types(chunk: tuple[ShardKey, int, int]) -> None:
        (shard, key), first, last = chunk
        found = await store.run(shard, "dead_letter_types", [key], [first, last], idempotent=True)
        items = iter(found)
        for name, number in zip(items, items, strict=True):
            types[name.decode(errors="replace")] += number

    await run_concurrently(chunks, count_types)
    return dict(sorted(types.items()))


async def get(store: Store, job_id: str) -> JobRecord:
    """Return one dead letter.

    Raises:
        NotFound: there is no such job, or the job is not a dead letter.
    """
    job = await read_jobs.get(store, job_id)
    if not job.dead:
        raise NotFound("dead letter", job_id)
    return job


async def retry(store: Store, job_id: str, cause: Cause = UNKNOWN) -> JobRecord:
    """Make a dead letter available again: it keeps its id, has attempt 0 and no errors.

    Raises:
        NotFound: the job is not a dead letter, or has already been retried.
        Duplicate: the job is unique, and another job with its fingerprint has not ended.
    """
    try:
        return await _retry_by_id(store, job_id, "dead", cause)
    except Conflict:
        raise NotFound("dead letter", job_id) from None


async def retry_discarded(
    store: Store, job_id: str, cause: Cause = UNKNOWN, *, expected_replays: int | None = None
) -> JobRecord:
    """Make a discarded job available again, whether or not it is a dead letter.

    Args:
        store: the store.
        job_id: the job.
        cause: who retries the job, for its history.
        expected_replays: how often an operator has retried the job before, None for any number.
            With it a repeated call retries the job once.

    Raises:
        NotFound: there is no such job, or its retention is over.
        Conflict: the job is not discarded, or its number of retries is not ``expected_replays``.
        Duplicate: the job is unique, and another job with its fingerprint has not ended.
    """
    return await _retry_by_id(store, job_id, "discarded", cause, expected_replays)


async def _retry_by_id(
    store: Store,
    job_id: str,
    required_kind: str,
    cause: Cause,
    expected_replays: int | None = None,
) -> JobRecord:
    """Retry a job of the ``required_kind`` (see ``retry_dead.lua``)."""
    found = await read_jobs.get(store, job_id)
    if expected_replays is not None and found.replays != expected_replays:
        raise Conflict(f"job '{job_id}' was retried since", job_id=job_id, state=found.state)
    if f.UNIQUE in found.fields:
        return await unique_retry.retry_unique_job(
            store, job_id, required_kind, expected_replays, cause
        )
    job = await run_on_job(
        store,
        "retry_dead",
        job_id,
        RETRY_KEYS,
        [
            store.events_arg,
            required_kind,
            "" if expected_replays is None else expected_replays,
            history_arg(store, cause),
        ],
    )
    with after_first_write():
        shard = await read_jobs.shard_of(store, job.queue, job_id)
        await ensure_open(store, shard, [job.queue])
    return job


async def delete(store: Store, job_id: str) -> JobRecord:
    """Remove a dead letter and its job permanently; return the job as it was before.

    A job whose id was fixed in advance (by a workflow or a cron job) is only hidden at first. It is
    removed two minutes after the job was discarded, so that its id stays reserved until then.

    Raises:
        NotFound: the job is not a dead letter.
    """
    try:
        job = await run_on_job(store, "delete_dead", job_id, ("finished", "dead"), [])
    except Conflict:
        raise NotFound("dead letter", job_id) from None
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
    await remove_deleted(store, job)
    return job


async def _call(store: Store, shard: Shard, *args: bytes | str | int) -> Any:
    return await store.redis.call(shard.slot, *args, idempotent=True)
