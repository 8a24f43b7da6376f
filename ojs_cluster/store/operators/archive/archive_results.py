"""Export and restore the results of a workflow in portions.

A workflow may have a thousand results of the maximum size, which is more than a reply of Redis or a
line of the file can hold. The last portion is part of the workflow's line. Each other portion is a
line before it. So an import has stored all other results when it restores the workflow itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows.workflow_portions import RESTORE_MS, store_portions
from ojs_cluster.store.operators.archive.import_archive import RestoreOutcome
from ojs_cluster.store.operators.archive.line_values import ResultsLine, WorkflowLine


async def portions(
    store: Store, shard: Shard, line: WorkflowLine, portion_bytes: int
) -> AsyncIterator[dict[int, bytes]]:
    """Yield the results of a workflow in portions; yield one empty portion if it has no results.

    Args:
        store: the store.
        shard: the shard of the workflow.
        line: the workflow without its results.
        portion_bytes: maximum number of bytes of results in a portion. One result alone may be
            larger.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    number, found = 0, False
    while number >= 0:
        args = [portion_bytes, number, len(line.definitions)]
        number, *flat = await store.run(
            shard, "archive_results", [shard.workflow_results(line.id)], args, idempotent=True
        )
        if flat or (number < 0 and not found):
            items, found = iter(flat), True
            yield dict(zip(items, items, strict=True))


async def restore_results(store: Store, line: ResultsLine) -> RestoreOutcome:
    """Store results of a workflow whose line comes later, unless the workflow exists.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(line.workflow_id)
    results = list(line.results.items())
    key = owner.workflow_results(line.workflow_id)
    stored = await store_portions(store, owner, line.workflow_id, key, results, wait_ms=RESTORE_MS)
    return "created" if stored else "exists"
