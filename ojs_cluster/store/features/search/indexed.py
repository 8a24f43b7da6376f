"""Find jobs by the index of the search: look up a value instead of reading all jobs.

A search can use the index if one of its terms has one exact value of an indexed field. Of several
such terms the one whose jobs go back furthest is taken, because a field that was added later lacks
older jobs; then the one with the fewest jobs. Its jobs are candidates only: the list compares each
with the whole filter.

The index may lack jobs (``store.search.index_values``). So it is not used

* if it has no job with the value: older jobs may have it;
* if a set has as many jobs as it may have: older jobs have left it;
* for dead letters, and for searches whose terms or filter name the states and admit one of
  finished jobs: these may live longer than their entries. A search without a state uses the index,
  and may lack such jobs;
* if the filter has indexes of its own with fewer jobs;
* for sorted lists, which have all jobs.

A caller that may see only some queues or one tenant does not use the index: its sizes and positions
would reveal other jobs. A page says by which field it was found, and a client can always search
without the index.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.indexed_fields import terms_in_index
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.index_values import MAX_JOBS_OF_VALUE, value_digest
from ojs_cluster.store.engine.jobs.listing import INDEXES_OF_QUEUE, JobFilter, ListingPosition
from ojs_cluster.store.engine.read_sets import ShardKey, read_lowest_scores, read_sizes
from ojs_cluster.store.features.search.merged_indexes import IndexEntry, walk_sets
from ojs_cluster.store.features.search.sorted_jobs import keys_of_indexes
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.fanout import run_concurrently

MAX_SETS: Final = 5000
"""Maximum number of sets of which a page reads the size. With very many shards, not every term is
compared."""
_KIND: Final = "indexed"
"""Begins the cursor of a list that the index has found."""
_CHECKED_AT_ONCE: Final = 200
"""Maximum number of ids of a shard that a page checks before it removes them."""


@dataclass(frozen=True, slots=True)
class IndexedPosition:
    """A position in the jobs of a term.

    Args:
        term: position of the term in the search.
        position: where the walk over its sets is.
    """

    term: int
    position: ListingPosition

    def text(self) -> str:
        """Return the position as an opaque cursor."""
        at = self.position
        return cursors.encode([_KIND, self.term, at.shard, at.score, at.skip])

    @classmethod
    def parse(cls, text: str) -> IndexedPosition | None:
        """Parse a cursor.

        Args:
            text: the cursor.

        Returns:
            The position, None for a cursor of another kind.

        Raises:
            InvalidRequest: this server did not create the cursor.
        """
        match cursors.decode(text):
            case [str(kind), int(term), int(number), str(score), int(skip)] if (
                kind == _KIND and cursors.are_numbers((term, number, skip))
            ):
                at = cursors.encode([0, 0, "", score, skip])
                parsed = ListingPosition.parse(at, 1, 1)
                return cls(term, ListingPosition(0, number, "", parsed.score, parsed.skip))
        return None


@dataclass(frozen=True, slots=True)
class IndexedJobs:
    """The jobs of a term of a search, as the index has them.

    Args:
        name: the field of the term.
        term: position of the term in the search.
        sets: the sorted sets of its value, one per shard.
        start: where the list begins.
        missing: ids that the list has found without a job.
    """

    name: str
    term: int
    sets: Sequence[ShardKey]
    start: ListingPosition = field(default_factory=ListingPosition)
    missing: list[tuple[Shard, str]] = field(default_factory=list)

    async def walk(self, store: Store) -> AsyncGenerator[IndexEntry]:
        """Yield the jobs, newest first."""
        sets = [(shard.index, shard, key) for shard, key in self.sets]
        async with aclosing(walk_sets(store, sets, self.start)) as entries:
            async for entry in entries:
                assert isinstance(entry.position, ListingPosition)  # noqa: S101 - narrows the type
                position = IndexedPosition(self.term, entry.position)
                yield IndexEntry(position, entry.shard, entry.job_id)

    async def remove_missing(self, store: Store) -> None:
        """Remove ids without a job from the index, some of them, in the background."""
        if self.missing:
            await store.background.once("index of the search", partial(self._remove, store), 0)

    async def _remove(self, store: Store) -> None:
        """Remove ids without a job by one script per shard. The next reader removes the others."""
        ids_of: dict[Shard, list[str]] = {}
        for shard, job_id in self.missing:
            ids_of.setdefault(shard, []).append(job_id)

        async def remove(item: ShardKey) -> None:
            shard, key = item
            ids = ids_of[shard][:_CHECKED_AT_ONCE]
            await store.run(shard, "remove_indexed", [key], ids, idempotent=True)

        await run_concurrently([item for item in self.sets if item[0] in ids_of], remove)


async def find_in_index(store: Store, wanted: JobFilter, cursor: str | None) -> IndexedJobs | None:
    """Return the jobs of the index that a filter may admit.

    Args:
        store: the store.
        wanted: the filter.
        cursor: where the last page ended, None for the first page.

    Returns:
        The jobs; None if the index cannot list them, or if the last page did not use it.

    Raises:
        InvalidRequest: this server did not create the cursor, or for another search.
        BackendUnavailable: Redis did not answer in time.
    """
    terms = _terms(store, wanted)
    position = IndexedPosition.parse(cursor) if cursor and wanted.search else None
    if position is not None:
        terms = [term for term in terms if term.term == position.term]
        if not terms:
            raise InvalidRequest(
                "cursor belongs to another search, or this server does not use the index for this "
                "one: start again without a cursor",
                field="cursor",
            )
    if not terms or (cursor and position is None):
        return None
    queue = wanted.queue
    shards = await store.partitions.occupied_shards(store, queue) if queue else list(store.keys)
    if position is not None:
        return replace(_in_shards(terms[0], shards), start=position.position)
    return await _longest_indexed(store, wanted, [_in_shards(term, shards) for term in terms])


@dataclass(frozen=True, slots=True)
class _IndexedTerm:
    """A term whose jobs the index lists.

    Args:
        term: position of the term in the search.
        name: its field.
        digest: the hash of its value.
    """

    term: int
    name: str
    digest: str


def _terms(store: Store, wanted: JobFilter) -> list[_IndexedTerm]:
    """Return the terms by which the index can list the jobs of a filter."""
    search, fields = wanted.search, store.settings.search_index
    if not (fields and wanted.by_index and search):
        return []
    if wanted.within is not None or wanted.tenant is not None:
        return []
    named = search.values_among("state", [state.value for state in TERMINAL])
    if wanted.dead or wanted.order is not None or wanted.state in TERMINAL or named:
        return []
    return [
        _IndexedTerm(number, indexed.name, value_digest(indexed, text))
        for number, indexed, text in terms_in_index(fields, search)
    ]


def _in_shards(term: _IndexedTerm, shards: Sequence[Shard]) -> IndexedJobs:
    sets = [(shard, shard.indexed_value(term.digest)) for shard in shards]
    return IndexedJobs(term.name, term.term, sets)


async def _longest_indexed(
    store: Store, wanted: JobFilter, found: Sequence[IndexedJobs]
) -> IndexedJobs | None:
    """Return the term whose jobs go back furthest, None if the filter's indexes have no more."""
    found = found[: MAX_SETS // max(1, len(found[0].sets))]
    own: list[ShardKey] = []
    # The number of all queues has no small bound.
    if wanted.queue or not set(INDEXES_OF_QUEUE).intersection(wanted.indexes):
        own = await keys_of_indexes(store, wanted)
    sizes = await read_sizes(store, [*own, *(key for jobs in found for key in jobs.sets)])
    usable: list[tuple[IndexedJobs, int]] = []
    for jobs in found:
        counts = [sizes.get(key, 0) for key in jobs.sets]
        if any(counts) and max(counts) < MAX_JOBS_OF_VALUE:
            usable.append((jobs, sum(counts)))
    times: dict[ShardKey, float] = {}
    if len(usable) > 1:
        keys = [key for jobs, _ in usable for key in jobs.sets if key in sizes]
        times = await read_lowest_scores(store, keys)

    def rank(item: tuple[IndexedJobs, int]) -> tuple[float, int]:
        jobs, size = item
        return min((times[key] for key in jobs.sets if key in times), default=inf), size

    chosen, size = min(usable, key=rank, default=(None, 0))
    if own and size >= sum(sizes.get(key, 0) for key in own):
        return None
    return chosen
