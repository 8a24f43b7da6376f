"""Which queues the workers serve, and which workers are silent, by their heartbeats."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.fetch.parked import read_parked_types
from ojs_cluster.store.engine.jobs.listing import JobFilter, ListingPosition
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.search.merged_indexes import walk_index
from ojs_cluster.store.features.search.small_fields import read_matching
from ojs_cluster.store.features.workers.lists import list_workers
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.redaction.redaction import Value
from ojs_cluster.ui.visit import Visit
from ojs_cluster.ui.workers_by_queue import RECENT_MINUTES, WorkersByQueue

_KEPT_S: Final = 15.0
"""Maximum age of the numbers in seconds. Each reads a record per worker, so it is expensive."""
MAX_WORKERS: Final = 1000
"""Maximum number of workers that are read, those that were seen last."""
_MAX_QUEUES: Final = 20_000
"""Maximum number of names that are counted: clients choose them."""
_MAX_UNSERVED: Final = 10
"""Maximum number of queues whose numbers are read to find those without workers."""
_MAX_PARTITIONS: Final = 64
"""Maximum number of partitions of these queues together. The first queue is read with all its
partitions."""
_MAX_ACTIVE: Final = 100
"""Maximum number of active jobs that are read to find those of stale workers."""
_UNRUN_MS: Final = 60_000
"""Age in milliseconds of the oldest parked job of a type from which they are a problem."""
_UNKNOWN_MS: Final = 5 * 60_000
"""For how long a worker without a list of queues may be one that serves any of them."""


class ParkedType(msgspec.Struct, frozen=True, order=True):
    """Jobs of one type that wait in a queue, and that no fetch of late has named.

    Args:
        queue: the name of the queue.
        type: the type of the jobs.
        count: the number of the jobs.
        since_ms: when the oldest of them became available, in Unix milliseconds.
    """

    queue: str
    type: str
    count: int
    since_ms: int = 0


class _Reported(msgspec.Struct):
    """What a worker reports of itself."""

    queues: list[str] = []


class _ReportedTypes(msgspec.Struct):
    types: list[str] = []


_decoder = msgspec.json.Decoder(_Reported)
_types_decoder = msgspec.json.Decoder(_ReportedTypes)


async def read_workers_by_queue(visit: Visit) -> WorkersByQueue | None:
    """Return the numbers, which viewers share.

    They count as no request: the pages that show them read the queues, which does.

    Returns:
        The numbers, without those of queues if the operator hides the queues of workers; None for a
        key for some queues, and while Redis does not answer.
    """
    if not visit.sees_cluster:
        return None
    try:
        return await await_while_healthy(
            visit.app,
            lambda: visit.workers_by_queue.get("", lambda: _count(visit.as_any_viewer()), _KEPT_S),
        )
    except OJSError:
        return None


async def read_unserved(visit: Visit) -> list[str]:
    """Return queues whose jobs wait because no worker fetches them, the longest waiting first.

    Viewers share them. Of at most ten queues more is read than what the problems are found by
    anyway, and only while it seems that they lack workers.

    Returns:
        The names; none for a key for some queues, and while Redis does not answer.
    """
    if not visit.sees_cluster:
        return []
    neutral = visit.as_any_viewer()
    try:
        raw = await await_while_healthy(
            visit.app,
            lambda: visit.snapshots.get("unserved", lambda: _find_unserved(neutral), _KEPT_S),
        )
    except OJSError:
        return []
    return [] if raw is None else msgspec.json.decode(raw, type=list[str])


async def _find_unserved(visit: Visit) -> bytes:
    """Return the names of the queues, as JSON."""
    by_queue = await read_workers_by_queue(visit)
    if by_queue is None:
        return b"[]"
    ages = {
        name: queue.oldest_ms
        for name, queue in (await visit.app.brief_metrics.get()).queues.items()
        if queue.oldest_ms and not queue.paused and by_queue.may_lack(name, queue.oldest_ms)
    }
    found: set[str] = set()

    async def read(name: str) -> None:
        # A worker without a name, which sends no heartbeats, may hold jobs of the queue.
        stats = await get_stats(visit.app.store, name)
        queue = {"name": name, "paused": stats.paused, "counts": stats.counts}
        if by_queue.lacks(queue, ages[name], stats.has_run_since(RECENT_MINUTES)):
            found.add(name)

    oldest = heapq.nlargest(_MAX_UNSERVED, ages, key=lambda name: ages[name])
    layout = visit.app.store.partitions.layout
    oldest = _with_few_partitions(oldest, lambda name: layout(name).occupied_count)
    await run_concurrently(oldest, read)
    return msgspec.json.encode([name for name in oldest if name in found])


async def read_parked(visit: Visit) -> list[ParkedType]:
    """Return job types that no worker runs, and whose jobs wait in a queue; most jobs first.

    Of at most ten queues more is read than what the problems are found by anyway.

    Returns:
        The types; none for a key for some queues, and while Redis does not answer.
    """
    if not visit.sees_cluster:
        return []
    neutral = visit.as_any_viewer()
    try:
        raw = await await_while_healthy(
            visit.app,
            lambda: visit.snapshots.get("parked", lambda: _find_parked(neutral), _KEPT_S),
        )
    except OJSError:
        return []
    return [] if raw is None else msgspec.json.decode(raw, type=list[ParkedType])


async def _find_parked(visit: Visit) -> bytes:
    """Return the types, as JSON."""
    store, by_queue = visit.app.store, await read_workers_by_queue(visit)
    if by_queue is None:
        return b"[]"
    queues = {
        name: queue.oldest_ms
        for name, queue in (await visit.app.brief_metrics.get()).queues.items()
        if queue.parked > 0 and queue.oldest_ms >= _UNRUN_MS and not queue.paused
    }
    found: list[ParkedType] = []
    before_ms = store.clock.now_ms() - _UNRUN_MS

    async def read(name: str) -> None:
        found.extend(
            ParkedType(name, job_type, jobs.count, jobs.since_ms)
            for job_type, jobs in (await read_parked_types(store, name)).items()
            if jobs.since_ms <= before_ms and not by_queue.runs(name, job_type)
        )

    oldest = heapq.nlargest(_MAX_UNSERVED, queues, key=lambda name: queues[name])
    layout = store.partitions.layout
    await run_concurrently(
        _with_few_partitions(oldest, lambda name: layout(name).occupied_count), read
    )
    return msgspec.json.encode(sorted(found, key=lambda each: (-each.count, each)))


def _with_few_partitions(names: Sequence[str], partitions_of: Callable[[str], int]) -> list[str]:
    """Return the first queues, as many as have at most ``_MAX_PARTITIONS``, but at least one."""
    found: list[str] = []
    total = 0
    for name in names:
        total += partitions_of(name)
        if found and total > _MAX_PARTITIONS:
            break
        found.append(name)
    return found


async def _count(visit: Visit) -> WorkersByQueue:
    store = visit.app.store
    now_ms = store.clock.now_ms()
    workers, total, _ = await list_workers(store, limit=MAX_WORKERS)
    counts: dict[str, int] = {}
    types_of: dict[str, set[tuple[str, ...]]] = {}
    is_complete = total <= MAX_WORKERS
    reported: list[bytes] = []
    stale: set[str] = set()
    for worker in workers:
        await trio.lowlevel.checkpoint()  # a worker may report hundreds of names
        status = worker.status(store, now_ms)
        if status == "stale":
            stale.add(worker.id)
        if status != "running":
            continue
        queues = _queues_of(worker.info)
        if not queues:
            is_complete &= now_ms - worker.last_seen_ms > _UNKNOWN_MS
            continue
        reported.append(msgspec.json.encode(queues))
        types = _types_of(worker.info)
        for name in dict.fromkeys(queues):
            if name in counts or len(counts) < _MAX_QUEUES:
                counts[name] = counts.get(name, 0) + 1
                types_of.setdefault(name, set()).add(types)
            else:
                is_complete = False
    values = [Value(raw, ("worker", "queues")) for raw in reported]
    silent = await _holding(visit, stale)
    if await visit.redaction.apply(values) != reported:
        return WorkersByQueue({}, False, {}, silent)
    return WorkersByQueue(counts, is_complete, types_of, silent)


async def _holding(visit: Visit, stale: Collection[str]) -> list[str]:
    """Return those of the stale workers that hold active jobs, by name.

    The record of a worker stays for long after the scheduler has given its jobs to others, with the
    number that it reported last. So the active jobs are read. A stale worker does not extend its
    leases, so its jobs are among those whose leases end first.
    """
    if not stale:
        return []
    store = visit.app.store
    ids: list[tuple[Shard, str]] = []
    walk = walk_index(store, "active", "", ListingPosition(), newest=False)
    async with aclosing(walk) as entries:
        async for entry in entries:
            ids.append((entry.shard, entry.job_id))
            if len(ids) >= _MAX_ACTIVE:
                break
    jobs = await read_matching(store, JobFilter(state=State.ACTIVE), ids)
    return sorted({job.worker_id for job in jobs if job.worker_id}.intersection(stale))


def _queues_of(info: bytes) -> list[str]:
    """Return the queues that a worker reports; none if it does not report a list of names."""
    try:
        return _decoder.decode(info).queues
    except msgspec.DecodeError:
        return []


def _types_of(info: bytes) -> tuple[str, ...]:
    """Return the job types that a worker reports; none if it may run any."""
    try:
        return tuple(sorted(_types_decoder.decode(info).types))
    except msgspec.DecodeError:
        return ()
