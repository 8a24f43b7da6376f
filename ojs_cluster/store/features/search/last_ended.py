"""Read the last jobs of a type in a queue that have completed or were discarded.

No index has the jobs of one type, and a finished job is in the order of its removal. So the ended
jobs of the queue's shards are walked in three lists, whose order is that of their ends: completed
jobs, discarded ones, and dead letters. Each list is read back to some time only, and each state has
a retention of its own. Before the latest of these times, jobs of one list would be without those of
another, so no job from before it is returned.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.queue_defaults import POLICY, layered
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import JobFilter, ListingPosition
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search.merged_indexes import IndexEntry, walk_index
from ojs_cluster.store.features.search.small_fields import read_matching
from ojs_cluster.store.ground.process_state.queue_defaults import get_defaults

BUDGET: Final = 10_000
"""Maximum number of entries that are examined in each list."""
BATCH: Final = 200
"""Number of jobs whose small fields are read together."""
_MAX_S: Final = 0.1
"""Time in seconds after which a list ends, if it has examined ``_MIN_EFFORT`` entries."""
_MIN_EFFORT: Final = 2000
_EARLY_MS: Final = 180_000
"""How far above the usual removal time a walk begins: a job with a fixed id is kept for two minutes
at least (``removal_time.lua``), and the clock of Redis may be ahead."""


@dataclass(frozen=True, slots=True)
class LastEnded:
    """The last ended jobs.

    Attributes:
        jobs: the jobs with their small fields, those that ended first in front.
        is_cut: whether there may be earlier ones among jobs that were not examined.
    """

    jobs: list[JobRecord]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class _List:
    """Jobs that one index has in the order of their ends.

    Attributes:
        index: the index, as an attribute of ``keys.Shard``.
        wanted: which of its jobs belong to the list.
        after_end_ms: the score of a job, as milliseconds after its end.
    """

    index: str
    wanted: JobFilter
    after_end_ms: int


async def read_last_ended(store: Store, queue: str, job_type: str, limit: int) -> LastEnded:
    """Return the last jobs of a type in a queue that have completed or were discarded.

    Args and results are not read. After the retention of a queue was changed, jobs that were
    enqueued before may be missing.

    Args:
        store: the store.
        queue: the queue.
        job_type: the type.
        limit: maximum number of jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    defaults = layered(await get_defaults(store, queue), await get_defaults(store, POLICY))
    given = defaults.retention or {}
    keep_ms = {
        State.COMPLETED: settings.retention_completed_ms,
        State.DISCARDED: settings.retention_discarded_ms,
    }
    keep_ms |= {state: parse_duration_ms(given[state]) for state in keep_ms if state in given}
    lists = [
        _List("finished", JobFilter(state=state, queue=queue, type=job_type), kept)
        for state, kept in keep_ms.items()
    ]
    lists.append(_List("queue_dead", JobFilter(dead=True, queue=queue, type=job_type), 0))
    after_ms = store.clock.now_ms() - min(*keep_ms.values(), settings.retention_dead_ms)
    found: dict[str, JobRecord] = {}
    is_cut = False
    for each in lists:
        jobs, after_ms, was_cut = await _read(store, each, after_ms, limit)
        is_cut = is_cut or was_cut
        found.update((job.id, job) for job in jobs)  # a dead letter may be in two lists
    ended = [job for job in found.values() if (job.finished_ms or 0) > after_ms]
    ended.sort(key=lambda job: (job.finished_ms, job.id))
    return LastEnded(ended[-limit:], is_cut and len(ended) < limit)


async def _read(
    store: Store, of: _List, after_ms: int, limit: int
) -> tuple[list[JobRecord], int, bool]:
    """Return jobs of a list, all of them that ended after a time.

    Args:
        store: the store.
        of: the list.
        after_ms: Unix milliseconds; jobs that ended then or earlier are not wanted.
        limit: number of jobs of which the time may be later.

    Returns:
        The jobs, the time, and whether it is later because too many jobs were to be examined.
    """
    start = ListingPosition()
    if of.after_end_ms:
        first_ms = store.clock.now_ms() + of.after_end_ms + _EARLY_MS
        start = ListingPosition(score=str(first_ms))
    found: list[JobRecord] = []
    batch: list[IndexEntry] = []
    examined, end = 0, time.monotonic() + _MAX_S
    async with aclosing(walk_index(store, of.index, of.wanted.queue or "", start)) as entries:
        async for entry in entries:
            assert isinstance(entry.position, ListingPosition)  # noqa: S101 - narrows the type
            ended_ms = int(float(entry.position.score)) - of.after_end_ms
            if ended_ms <= after_ms:
                break
            batch.append(entry)
            if len(batch) < BATCH:
                continue
            found += await _matching(store, of, batch)
            examined, batch = examined + len(batch), []
            if len(found) > limit:
                return found, ended_ms, False
            is_late = examined >= _MIN_EFFORT and time.monotonic() >= end
            if examined >= BUDGET or is_late:
                return found, ended_ms, True
    found += await _matching(store, of, batch)
    return found, after_ms, False


async def _matching(store: Store, of: _List, batch: list[IndexEntry]) -> list[JobRecord]:
    return await read_matching(store, of.wanted, [(entry.shard, entry.job_id) for entry in batch])
