"""Find jobs by the index of the search: look up a value instead of reading all jobs.

A search can use the index if one of its terms lists exact values of an indexed field. Several terms
of this kind leave a choice: the one with the fewest jobs is taken. Its jobs are candidates only:
the list compares each with the whole filter, so the index decides neither what a search finds nor
what a caller may see.

The index may lack jobs: those that were stored before it was switched on, those with more or longer
values than it takes, and the oldest of more than 10 000 with one value in a shard
(``store.search.index_values``). So a page says by which field it was found, and a client can always
search without the index.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.indexed_fields import terms_in_index
from ojs_cluster.keys import Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.listing import JobFilter, ListingPosition
from ojs_cluster.store.search.index_values import value_digest
from ojs_cluster.store.search.merged_indexes import IndexEntry, walk_sets
from ojs_cluster.store.sorted_sets.read_sets import ShardKey, read_sizes

MAX_SETS: Final = 5000
"""Maximum number of sets of which a page reads the size. With very many shards, a term with many
alternatives does not use the index, and not every term is compared."""
_KIND: Final = "indexed"
"""Begins the cursor of a list that the index has found."""
_CHECKED_AT_ONCE: Final = 200
"""Maximum number of ids that one script checks before it removes them."""
_MAX_CHECKED: Final = 2000
"""Maximum number of ids that a page checks."""


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
        sets: the sorted sets of its values that have jobs, with their sizes.
        numbers: the number of each set in a position.
        start: where the list begins.
        missing: ids that the list has found without a job.
    """

    name: str
    term: int
    sets: Mapping[ShardKey, int]
    numbers: Mapping[ShardKey, int]
    start: ListingPosition
    missing: list[tuple[Shard, str]] = field(default_factory=list)

    async def walk(self, store: Store) -> AsyncGenerator[IndexEntry]:
        """Yield the jobs, newest first, a job with several of the values once."""
        seen: set[str] = set()
        sets = [(self.numbers[each], *each) for each in self.sets]
        async with aclosing(walk_sets(store, sets, self.start)) as entries:
            async for entry in entries:
                if entry.job_id in seen:
                    continue
                if len(sets) > 1:
                    seen.add(entry.job_id)
                assert isinstance(entry.position, ListingPosition)  # noqa: S101 - narrows the type
                position = IndexedPosition(self.term, entry.position)
                yield IndexEntry(position, entry.shard, entry.job_id)

    async def remove_missing(self, store: Store) -> None:
        """Remove ids without a job from the index, some of them. The function never raises."""
        ids_of: dict[Shard, list[str]] = {}
        for shard, job_id in self.missing[:_MAX_CHECKED]:
            ids_of.setdefault(shard, []).append(job_id)

        async def remove(portion: tuple[Shard, bytes, list[str]]) -> None:
            shard, key, ids = portion
            await store.run(shard, "remove_indexed", [key], ids, idempotent=True)

        with suppress(OJSError):  # the next reader of the value removes them
            await run_concurrently(
                [
                    (shard, key, ids_of[shard][start : start + _CHECKED_AT_ONCE])
                    for shard, key in self.sets
                    if shard in ids_of
                    for start in range(0, len(ids_of[shard]), _CHECKED_AT_ONCE)
                ],
                remove,
            )


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
    search, fields = wanted.search, store.settings.search_index
    if not (fields and wanted.by_index and search) or wanted.dead:
        return None
    if wanted.order is not None and not wanted.is_sorted:
        return None  # the indexes of the lifecycle have the order
    terms = terms_in_index(fields, search)
    start = ListingPosition()
    if cursor and not wanted.is_sorted:
        position = IndexedPosition.parse(cursor)
        if position is None:
            return None
        start = position.position
        terms = [term for term in terms if term[0] == position.term]
        if not terms:
            raise InvalidRequest("cursor belongs to another search", field="cursor")
    if not terms:
        return None
    queue = wanted.queue
    shards = await store.partitions.occupied_shards(store, queue) if queue else list(store.keys)
    found: list[IndexedJobs] = []
    sets_left = MAX_SETS
    for number, indexed_field, term in terms:
        texts = dict.fromkeys(pattern.text for pattern in term.texts)
        digests = [value_digest(indexed_field, text) for text in texts]
        sets_left -= len(digests) * len(shards)
        if sets_left < 0:
            break
        numbers = {
            (shard, shard.indexed_value(digest)): shard.index * len(digests) + place
            for shard in shards
            for place, digest in enumerate(digests)
        }
        sets = await read_sizes(store, numbers)
        found.append(IndexedJobs(indexed_field.name, number, sets, numbers, start))
    return min(found, key=_size, default=None)


def _size(jobs: IndexedJobs) -> int:
    return sum(jobs.sets.values())
