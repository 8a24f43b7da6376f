"""Choose the jobs of a bulk operation by their content: tenant, last error, and what is searched.

No index has the content of jobs, so the operation reads every job whose small fields match. An
index was refused: each job would pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ojs_cluster.core.bulk.selection import JobSummary, Selection
from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.error_groups.error_groups import group_of
from ojs_cluster.store.features.search.compare import search_admits


async def with_content(
    store: Store, selection: Selection, jobs: Sequence[JobSummary], shard: Shard | None
) -> tuple[list[JobSummary], int]:
    """Return those jobs whose content a selection admits.

    Args:
        store: the store.
        selection: the selection, which needs the content of jobs.
        jobs: the jobs, whose small fields match.
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
                if await _admits(selection, record):
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


async def _admits(selection: Selection, record: JobRecord) -> bool:
    # The meta that the search compares is not enough: a job that was stored before there were
    # tenants has none, whatever its meta has.
    if selection.tenant not in (None, record.tenant):
        return False
    if selection.names_error and not _has_error(record, selection):
        return False
    search = selection.search
    if search is None or not search.needs_content:
        return True
    return await search_admits(search, record)


def _has_error(record: JobRecord, selection: Selection) -> bool:
    errors = record.errors()
    if not errors or (record.last_failed_ms or 0) < (selection.error_since_ms or 0):
        return False
    if selection.error_type is None:
        return True
    kind, message = group_of(errors[-1])
    return kind == selection.error_type and selection.error_message in (None, message)
