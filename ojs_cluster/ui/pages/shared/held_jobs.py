"""The jobs that workers hold: how many, and which of them has run for the longest time."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.read_sets import read_members, read_sizes
from ojs_cluster.store.features.search.small_fields import read_matching
from ojs_cluster.store.features.search.sorted_jobs import keys_of_indexes
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.visit import Visit

MAX_ACTIVE: Final = 2000
"""Maximum number of active jobs that are read. Redis needs about 3 µs for each."""
_NAME: Final = "held-jobs"


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The active jobs of one worker.

    Attributes:
        count: their number.
        since_ms: when the one that has run for the longest time has started, as Unix time in ms.
        job_id: the id of this job.
    """

    count: int
    since_ms: int
    job_id: str


class HeldJobs(msgspec.Struct, frozen=True):
    """The active jobs of all workers.

    Attributes:
        by_worker: those of each worker, in the order in which their oldest jobs have started.
        is_complete: whether all active jobs were read.
    """

    by_worker: dict[str, Held]
    is_complete: bool


_decode: Final = msgspec.json.Decoder(HeldJobs).decode


async def read_held_jobs(visit: Visit) -> HeldJobs | None:
    """Return the jobs that workers hold, which viewers share.

    Returns:
        The jobs; None for a key for some queues, which may not count others, and while Redis does
        not answer.
    """
    if not visit.sees_cluster:
        return None
    if visit.follows_change:
        visit.snapshots.forget(_NAME)
    store = visit.app.store
    try:
        found = await await_while_healthy(
            visit.app, lambda: visit.snapshots.get(_NAME, lambda: _read(store))
        )
    except OJSError:
        return None
    return None if found is None else _decode(found)


async def _read(store: Store) -> bytes:
    """Read the active jobs; if there are too many, those of each shard whose leases end first."""
    wanted = JobFilter(state=State.ACTIVE)
    sizes = await read_sizes(store, await keys_of_indexes(store, wanted))
    is_complete = sum(sizes.values()) <= MAX_ACTIVE
    if not is_complete:
        share = max(1, MAX_ACTIVE // len(sizes))
        sizes = {key: min(size, share) for key, size in sizes.items()}
    members = await read_members(store, sizes)
    ids = [
        (shard, name.decode(errors="replace"))
        for (shard, _), names in members.items()
        for name in names
    ]
    oldest: dict[str, tuple[int, str]] = {}
    counts: dict[str, int] = {}
    for job in await read_matching(store, wanted, ids):
        # Other programs can damage a job. The others are shown.
        with suppress(KeyError, ValueError):
            if worker := job.worker_id:
                began = job.started_ms or job.created_ms, job.id
                oldest[worker] = min(oldest.get(worker, began), began)
                counts[worker] = counts.get(worker, 0) + 1
    held = {
        worker: Held(counts[worker], *began)
        for worker, began in sorted(oldest.items(), key=lambda each: each[1])
    }
    return msgspec.json.encode(HeldJobs(held, is_complete))
