"""Choose the jobs of a bulk operation by the group of their last error.

No index has the errors of jobs, so the operation reads every job whose small fields match. An index
was refused: each failed attempt would pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ojs_cluster.core.bulk.selection import JobSummary, Selection
from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.error_groups.error_groups import group_of
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.record import JobRecord


async def with_last_error(
    store: Store, selection: Selection, jobs: Sequence[JobSummary], shard: Shard | None
) -> tuple[list[JobSummary], int]:
    """Return those jobs whose last error is in the group that a selection names.

    Args:
        store: the store.
        selection: the selection, which names a type of errors.
        jobs: the jobs.
        shard: the shard of all jobs; None if they may be in several.

    Returns:
        The jobs, and the bytes that were read.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    chosen: list[JobSummary] = []
    size = 0
    rest = list(jobs)
    while rest:
        some = await _read_some(store, rest, shard)
        for job, record in zip(rest, some, strict=False):
            if record is not None:
                size += record.size
                if _is_in_group(record, selection):
                    chosen.append(job)
        rest = rest[len(some) :]
    return chosen, size


async def _read_some(
    store: Store, jobs: Sequence[JobSummary], shard: Shard | None
) -> Sequence[JobRecord | None]:
    """Read the first of these jobs, at least one."""
    if shard is not None:
        return await read_jobs.read_some(store, [(shard, job.id) for job in jobs])
    with suppress(NotFound, MalformedJob):
        return [await read_jobs.get(store, jobs[0].id)]
    return [None]


def _is_in_group(record: JobRecord, selection: Selection) -> bool:
    errors = record.errors()
    if not errors:
        return False
    kind, message = group_of(errors[-1])
    return kind == selection.error_type and selection.error_message in (None, message)
