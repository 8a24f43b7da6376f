"""Walk the indexes of jobs, newest first, over all shards at once.

The indexes are those that the lifecycle needs (docs/adr/002). Within an index the entries of all
shards are merged by score, the latest first: finished jobs and dead letters by the time of their
end, active jobs by their deadline, pending jobs by the time of their creation. Scheduled and
retryable jobs are in the order in which they are due, or in the reverse order. In a queue, waiting
jobs are in the reverse order of fetches. The waiting jobs of all queues come as
``all_queues`` describes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import JobFilter, ListingPosition
from ojs_cluster.store.features.search.all_queues import WAITING, GroupPosition, walk_all_queues
from ojs_cluster.store.features.search.merged_indexes import IndexEntry, walk_index

_ASCENDING: Final = frozenset({"due"})
"""Indexes that are walked by ascending score, unless the list has another order."""


async def walk_newest_first(
    store: Store, wanted: JobFilter, cursor: str | None
) -> AsyncGenerator[IndexEntry | ListingPosition | GroupPosition]:
    """Yield the entries of all indexes of ``wanted``, and a position after the end of each index.

    The caller closes the generator. Of ``wanted`` only the indexes, the queues and the direction
    are used.

    Args:
        store: the store.
        wanted: the filter.
        cursor: where the last page ended, None for the first page.

    Raises:
        InvalidRequest: this server did not create the cursor.
        BackendUnavailable: Redis did not answer in time.
    """
    indexes = wanted.indexes
    position: ListingPosition | GroupPosition = ListingPosition()
    if cursor:
        in_group = None if wanted.queue else GroupPosition.parse(cursor, indexes)
        position = in_group or ListingPosition.parse(cursor, len(indexes), len(store.keys))
    while position.index < len(indexes):
        index = indexes[position.index]
        if index in WAITING and wanted.queue is None:
            start = indexes.index(WAITING[0])
            async with aclosing(
                walk_all_queues(store, position, start, wanted.queue_test())
            ) as items:
                async for item in items:
                    yield item
            position = ListingPosition(start + len(WAITING))
        else:
            assert isinstance(position, ListingPosition)  # noqa: S101 - narrows the type
            newest = index not in _ASCENDING
            if wanted.order is not None:
                newest = not wanted.order.ascending
            walk = walk_index(store, index, wanted.queue or "", position, newest=newest)
            async with aclosing(walk) as entries:
                async for entry in entries:
                    yield entry
            position = ListingPosition(position.index + 1)
        if position.index < len(indexes):
            yield position
