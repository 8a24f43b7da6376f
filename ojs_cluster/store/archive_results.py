"""Results of a workflow's jobs in an archive, portion by portion.

All of them may be a thousand times the largest result, far more than a reply of Redis or a line of
the file can be. What is more than one portion stands in lines before the workflow's, which
has the last one: so a workflow that goes on after its import has all results that it needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ojs_cluster.keys import Shard
from ojs_cluster.store.archive_in import Outcome
from ojs_cluster.store.archive_lines import ResultsLine, WorkflowLine
from ojs_cluster.store.context import Store

PORTION_BYTES = 4 * 1024 * 1024
"""Most bytes of results in one reply and one line, unless a single one is larger."""
_WAIT_MS = 24 * 60 * 60_000
"""How long restored results wait for their workflow, which stands in one of the next lines."""


async def portions(
    store: Store, shard: Shard, line: WorkflowLine, portion_bytes: int
) -> AsyncIterator[dict[int, bytes]]:
    """The results of a workflow of ``shard``; one portion, an empty one, when there are none.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    number = 0
    while number >= 0:
        args = [portion_bytes, number, len(line.definitions)]
        number, *flat = await store.run(
            shard, "archive_results", [shard.results(line.id)], args, idempotent=True
        )
        items = iter(flat)
        yield dict(zip(items, items, strict=True))


async def restore_results(store: Store, line: ResultsLine) -> Outcome:
    """Store results of a workflow that is to come after them, unless it is there.

    Raises
    ------
    BackendUnavailable: they could not be stored now.
    """
    home = store.keys.shard_of_id(line.workflow_id)
    reply = await store.run(
        home,
        "restore_results",
        [home.workflow(line.workflow_id), home.results(line.workflow_id), home.ended],
        [
            *(line.workflow_id, _WAIT_MS),
            *(part for pair in line.results.items() for part in pair),
        ],
        idempotent=True,
    )
    return "created" if reply[0] == b"ok" else "there"
