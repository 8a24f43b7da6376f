"""Choose the jobs of the next slice of a bulk operation.

Small fields come from indexes. No index has the tenant, the last error and the searched content of
jobs, so the operation reads every job whose small fields match. An index was rejected: each job
would pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ojs_cluster.core.bulk.selection import BulkAction, JobSummary, Selection
from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.bulk.candidates import PAGE, Page, read_page
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, Position, Slice, Target
from ojs_cluster.store.features.error_groups.error_groups import group_of
from ojs_cluster.store.features.search.compare import search_admits
from ojs_cluster.store.ground.fanout import run_concurrently

_MAX_PAGES: Final = 25
"""Maximum number of pages that one slice reads to find jobs: 5000 entries."""
_MAX_BYTES: Final = 32 * 1024 * 1024
"""Bytes of jobs after which a slice reads no further page to compare their content."""


async def choose(
    store: Store, operation: BulkOperation, position: Position
) -> tuple[BulkOperation, Slice | None]:
    """Read pages until one has jobs to change.

    The jobs of a dry run are only counted.

    Returns:
        The operation with new counts and a new position, and the jobs to change, None for none.
    """
    following: Position | None = position
    examined, matched, read_bytes = operation.examined, operation.matched, 0
    targets: list[Target] = []
    for _ in range(_MAX_PAGES):
        if following is None or targets or read_bytes > _MAX_BYTES:
            break
        page = await _read(store, operation, following)
        following = page.following
        chosen = [job for job in page.jobs if _is_chosen(operation, job)]
        if operation.selection.needs_content:
            chosen, size = await _with_content(store, operation.selection, chosen, page.shard)
            read_bytes += size
        # A deletion discards malformed jobs, too, or names one that it cannot move.
        unreadable = page.unreadable if operation.deletion is not None else ()
        examined += len(page.jobs) + len(unreadable)
        matched += len(chosen) + len(unreadable)
        if not operation.dry_run:
            targets = [Target(job.id, job.replays, job.state, job.created_ms) for job in chosen]
            targets += unreadable
    operation = replace(operation, examined=examined, matched=matched)
    if targets:
        return operation, Slice(targets, following)
    return replace(operation, position=following), None


def _is_chosen(operation: BulkOperation, job: JobSummary) -> bool:
    if operation.deletion is not None:  # the queue drains, so the walk ends all the same
        return operation.selection.admits(job)
    # A job whose priority is lowered may move ahead of the walk, which then reads it again.
    if operation.action is BulkAction.PRIORITY and job.priority == operation.priority:
        return False
    last_change_ms = job.created_ms if job.finished_ms is None else job.finished_ms
    return last_change_ms <= operation.created_ms and operation.selection.admits(job)


async def _read(store: Store, operation: BulkOperation, position: Position) -> Page:
    if operation.ids is None:
        return await read_page(store, operation.selection, position)
    ids = operation.ids[position.ids : position.ids + PAGE]
    found: dict[str, JobSummary] = {}

    async def read_one(job_id: str) -> None:
        try:
            job = await read_jobs.get(store, job_id)
        except (NotFound, MalformedJob):
            return
        found[job_id] = JobSummary(
            *(job_id, job.state, job.queue, job.type, job.created_ms, job.finished_ms),
            *(job.priority, job.dead, job.hidden, job.replays),
            *(job.attempt, job.worker),
        )

    await run_concurrently(ids, read_one)
    end = position.ids + len(ids)
    jobs = [found[job_id] for job_id in ids if job_id in found]
    return Page(jobs, Position(ids=end) if end < len(operation.ids) else None)


async def _with_content(
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
    errors, failed_ms = record.errors(), record.last_failed_ms or 0
    until_ms = selection.error_until_ms
    if not errors or failed_ms < (selection.error_since_ms or 0):
        return False
    if until_ms is not None and failed_ms >= until_ms:
        return False
    if selection.error_type is None:
        return True
    kind, message = group_of(errors[-1])
    return kind == selection.error_type and selection.error_message in (None, message)
