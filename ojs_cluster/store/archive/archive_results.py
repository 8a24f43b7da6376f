"""Results of a workflow's jobs in an archive, portion by portion.

All of them may be a thousand times the largest result, far more than a reply of Redis or a line of
the file can be. What is more than one portion stands in lines before the workflow's, which
has the last one: so a workflow that goes on after its import has all results that it needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ojs_cluster.keys import Shard
from ojs_cluster.store.archive.import_archive import Outcome
from ojs_cluster.store.archive.line_values import ResultsLine, WorkflowLine
from ojs_cluster.store.context import Store
from ojs_cluster.store.workflows.workflow_portions import RESTORE_MS, store_ahead


async def portions(
    store: Store, shard: Shard, line: WorkflowLine, portion_bytes: int
) -> AsyncIterator[dict[int, bytes]]:
    """The results of a workflow of ``shard``; one portion, an empty one, when there are none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    number, read = 0, False
    while number >= 0:
        args = [portion_bytes, number, len(line.definitions)]
        number, *flat = await store.run(
            shard, "archive_results", [shard.workflow_results(line.id)], args, idempotent=True
        )
        if flat or (number < 0 and not read):
            items, read = iter(flat), True
            yield dict(zip(items, items, strict=True))


async def restore_results(store: Store, line: ResultsLine) -> Outcome:
    """Store results of a workflow that is to come after them, unless it is there.

    Raises:
        BackendUnavailable: they could not be stored now.
    """
    home = store.keys.shard_of_id(line.workflow_id)
    results = list(line.results.items())
    key = home.workflow_results(line.workflow_id)
    stored = await store_ahead(store, home, line.workflow_id, key, results, wait_ms=RESTORE_MS)
    return "created" if stored else "there"
