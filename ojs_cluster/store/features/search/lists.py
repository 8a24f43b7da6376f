"""List the jobs that a filter or a search admits, page by page, newest first.

A page examines a bounded number of index entries. One script per shard reads the small fields of
many jobs. The page then reads the whole job only if its small fields match. A listing may miss jobs
that change their state in between, or list them twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import JobFilter, JobOrder
from ojs_cluster.store.engine.jobs.read_jobs import PAGE_BYTES, get, read_some
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search.compare import search_admits
from ojs_cluster.store.features.search.indexed import IndexedJobs, find_in_index
from ojs_cluster.store.features.search.merged_indexes import IndexEntry, Position
from ojs_cluster.store.features.search.newest_first import walk_newest_first
from ojs_cluster.store.features.search.small_fields import BATCH, read_matching
from ojs_cluster.store.features.search.sorted_jobs import SortedPosition, read_sorted, sort_key
from ojs_cluster.store.ground.fanout import run_concurrently

SCAN_BUDGET: Final = 2000
"""Maximum number of entries that a page of a plain list examines. ``PAGE_BYTES`` limits the bytes
of the jobs that it reads."""
SEARCH_BUDGET: Final = 20_000
"""Maximum number of entries that a page of a search examines."""
SEARCH_BYTES: Final = 32 * 1024 * 1024
"""Maximum number of bytes of jobs that a page of a search reads."""
MAX_PAGE_S: Final = 0.1
"""Time in seconds after which a page ends, so that a client gets a response within 200 ms. Its
cursor continues the list."""
MIN_EFFORT: Final = SCAN_BUDGET
"""Number of entries and KiB that a page reads even if that takes longer than ``MAX_PAGE_S``."""
_COMPARE_S: Final = 0.1
"""Minimum time in seconds to compare the jobs that were read together, so that a slow read is not
lost."""
_MAX_BATCH: Final = 1000
"""Maximum number of entries whose small fields are read at once, while nothing is found."""
_INDEX_COST: Final = 5
"""Number of entries that the end of an index counts as, because the next index costs calls."""
_EXACT_INDEXES: Final = frozenset({None, State.AVAILABLE, State.ACTIVE, State.PENDING})
"""Values of a filter's state for which the indexes hold no other jobs. None admits all states."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page. It may hold fewer jobs than requested and still have a ``next_cursor``.

    Args:
        jobs: the jobs.
        next_cursor: where the next page starts, None after the last page.
        examined: number of index entries that the page has examined.
        total: number of jobs of all pages. None if it is not known, as in a list of another order
            than a sorted one.
        index: the field by which the index of the search has found the jobs; None if it was not
            used. Other pages may have jobs that the index lacks.
    """

    jobs: list[JobRecord]
    next_cursor: str | None
    examined: int = 0
    total: int | None = None
    index: str | None = None


async def list_jobs(
    store: Store, wanted: JobFilter, *, limit: int, cursor: str | None = None, offset: int = 0
) -> JobPage:
    """Return the jobs that ``wanted`` admits after ``cursor``.

    Args:
        store: the store.
        wanted: the filter.
        limit: maximum number of jobs of the page.
        cursor: where the last page ended, None for the first page.
        offset: number of jobs to leave out before the page, only for a sorted list.

    Raises:
        InvalidRequest: this server did not create the cursor, or there are too many jobs to sort.
        BackendUnavailable: Redis did not answer in time.
    """
    ids = None if wanted.search is None else wanted.search.exact_values("id")
    if ids is not None:
        return await _by_id(store, wanted, ids, limit, cursor)
    indexed = await find_in_index(store, wanted, cursor)
    page = _Page(store, wanted, limit, indexed)
    if indexed is not None:
        filled = await _fill(page, indexed.walk(store))
        await indexed.remove_missing(store)
        return replace(filled, index=indexed.name)
    if not wanted.is_sorted:
        return await _fill(page, walk_newest_first(store, wanted, cursor))
    found = await read_sorted(store, wanted, cursor)
    filled = await _fill(page, found.walk(offset))
    counted = wanted.search is None or not wanted.search.needs_content
    return replace(filled, total=found.matched if counted else None)


async def _fill(page: _Page, walk: AsyncGenerator[IndexEntry | Position]) -> JobPage:
    batch: list[IndexEntry] = []
    async with aclosing(walk) as items:
        async for item in items:
            is_entry = isinstance(item, IndexEntry)
            if isinstance(item, IndexEntry):
                page.budget -= 1
                batch.append(item)
            else:
                page.budget -= _INDEX_COST
            if is_entry and len(batch) < page.batch_size and page.budget > 0:
                continue
            stopped_at = await page.add_admitted(batch)
            batch = []
            if stopped_at is not None:
                return page.ended(stopped_at)
            if page.is_over:
                return page.ended(item.position if isinstance(item, IndexEntry) else item)
    return page.ended(await page.add_admitted(batch))


class _Page:
    """A page that is being filled."""

    def __init__(
        self, store: Store, wanted: JobFilter, limit: int, indexed: IndexedJobs | None
    ) -> None:
        self._store = store
        self._indexed = indexed
        self._wanted = wanted
        self._limit = limit
        self._jobs: list[JobRecord] = []
        self._examined = 0
        self._compares_fields = wanted != JobFilter(
            state=wanted.state if wanted.state in _EXACT_INDEXES else None,
            queue=wanted.queue,
            dead=wanted.dead,
        )
        searches = wanted.search is not None
        self.budget = SEARCH_BUDGET if searches else SCAN_BUDGET
        self._bytes_left = SEARCH_BYTES if searches else PAGE_BYTES
        self._shown_bytes_left = PAGE_BYTES
        self._end = time.monotonic() + MAX_PAGE_S
        self._effort_left: float = MIN_EFFORT
        self._compared_at_once = BATCH

    @property
    def is_over(self) -> bool:
        """Whether the page has used its budget of entries, or its time."""
        return self.budget <= 0 or self._is_late(self._end)

    @property
    def batch_size(self) -> int:
        """Number of entries to pass to ``add_admitted`` together."""
        if self._compares_fields:
            return self._compared_at_once
        return min(BATCH, self._limit - len(self._jobs))

    def _is_late(self, end: float) -> bool:
        return self._effort_left <= 0 and time.monotonic() >= end

    async def add_admitted(self, entries: Sequence[IndexEntry]) -> Position | None:
        """Add the admitted jobs; return where the page is full, None if it is not."""
        before = self._examined
        rest = list(enumerate(entries, before + 1))
        if self._compares_fields and rest:
            ids = [(entry.shard, entry.job_id) for entry in entries]
            missing = None if self._indexed is None else self._indexed.missing
            small = await read_matching(self._store, self._wanted, ids, missing)
            matching = {job.id for job in small}
            rest = [item for item in rest if item[1].job_id in matching]
            # A large batch has fewer and larger calls, but finds more than the page can show.
            self._compared_at_once = BATCH if rest else min(_MAX_BATCH, 2 * len(entries))
        self._effort_left -= len(entries)
        while rest:
            # No more jobs than the page can still show: most of these jobs match.
            some = rest[: max(1, self._limit - len(self._jobs))]
            found = await read_some(self._store, [(e.shard, e.job_id) for _, e in some])
            end = max(self._end, time.monotonic() + _COMPARE_S)
            for (examined, entry), job in zip(rest, found, strict=False):
                self._examined = examined
                if job is not None:
                    await self._add(job)
                full = len(self._jobs) >= self._limit
                used_up = self._bytes_left <= 0 or self._shown_bytes_left <= 0
                if full or used_up or self._is_late(end):
                    return entry.position
            rest = rest[len(found) :]
            if rest and self._is_late(self._end):
                return entry.position
        self._examined = before + len(entries)
        return None

    async def _add(self, job: JobRecord) -> None:
        """Add a job if the filter admits it."""
        self._bytes_left -= job.size
        self._effort_left -= job.size / 1024
        if await _admits(self._wanted, job):
            self._jobs.append(job)
            self._shown_bytes_left -= job.size

    def ended(self, position: Position | None) -> JobPage:
        """Return the page. The next page starts at ``position``; None if there is no next page."""
        return JobPage(self._jobs, None if position is None else position.text(), self._examined)


async def _admits(wanted: JobFilter, job: JobRecord) -> bool:
    """Return whether the filter admits a job, without blocking the event loop for long."""
    if wanted.search is None or not wanted.search.needs_content:
        return wanted.admits(job)
    return wanted.admits_without_content(job) and await search_admits(wanted.search, job)


async def _by_id(
    store: Store, wanted: JobFilter, ids: frozenset[str], limit: int, cursor: str | None
) -> JobPage:
    """Return the admitted jobs with these ids, without a walk over indexes."""
    order = wanted.order or JobOrder("created_at", ascending=False)
    after = SortedPosition.parse(cursor, order) if cursor else None
    found: list[JobRecord] = []

    async def read(job_id: str) -> None:
        with suppress(NotFound, MalformedJob):
            job = await get(store, job_id)
            if await _admits(wanted, job) and (after is None or after.precedes(job)):
                found.append(job)

    await run_concurrently(sorted(ids), read)
    found.sort(key=partial(sort_key, order), reverse=not order.ascending)
    size = 0
    for number, job in enumerate(found, 1):
        size += job.size
        if number < len(found) and (number >= limit or size >= PAGE_BYTES):
            following = SortedPosition(order, *sort_key(order, job)).text()
            return JobPage(found[:number], following, len(ids))
    return JobPage(found, None, len(ids))
