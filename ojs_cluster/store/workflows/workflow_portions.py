"""Large workflows are stored in portions, so that no script keeps its node from other clients.

The portions come before the workflow itself: nothing reads them until its record exists, and the
janitor removes them when the process died in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from ojs_cluster.keys import Shard
from ojs_cluster.store.archive.line_values import WorkflowLine
from ojs_cluster.store.context import Store
from ojs_cluster.store.portions import PORTION_BYTES, cuts
from ojs_cluster.store.runtime import Arg

_Pair = tuple[bytes | int, bytes]
RESTORE_MS = 24 * 60 * 60_000
"""How long what is restored ahead waits for its workflow, which stands in one of the next lines."""
_FIELDS_MOST = 1000
"""Fields that one script writes at most."""


def is_large(*values: Sequence[bytes]) -> bool:
    """Whether these are too many values, or too many bytes, for one script."""
    return (
        sum(map(len, values)) > _FIELDS_MOST
        or sum(len(value) for part in values for value in part) > PORTION_BYTES
    )


async def store_ahead(
    store: Store,
    home: Shard,
    workflow_id: str,
    key: bytes,
    pairs: Sequence[_Pair],
    *,
    wait_ms: int,
) -> bool:
    """Store fields of a workflow that does not exist yet; returns False when it does.

    Args:
        key: The hash of the fields: the workflow's record, its definitions or its results.
        wait_ms: How long the fields wait for their workflow.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [home.workflow(workflow_id), key, home.ended_workflows]
    for portion in _portions(pairs):
        args: list[Arg] = [workflow_id, wait_ms, *(part for pair in portion for part in pair)]
        reply = await store.run(home, "workflow_portion", keys, args, idempotent=True)
        if reply[0] != b"ok":
            return False
    return True


async def restore_ahead(store: Store, line: WorkflowLine) -> WorkflowLine | None:
    """Store what is large of a workflow; returns the rest of it, None when the workflow exists.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    fields, results = line.fields, line.results
    if not is_large(list(fields.values()), line.definitions, list(results.values())):
        return line
    home = store.keys.shard_of_id(line.id)
    ahead = partial(store_ahead, store, home, line.id, wait_ms=RESTORE_MS)
    of_jobs = {name: value for name, value in fields.items() if _is_of_a_job(name)}
    if not (
        await ahead(home.workflow(line.id), list(of_jobs.items()))
        and await ahead(home.workflow_definitions(line.id), list(enumerate(line.definitions)))
        and await ahead(home.workflow_results(line.id), list(results.items()))
    ):
        return None
    rest = {name: value for name, value in fields.items() if name not in of_jobs}
    return replace(line, fields=rest, definitions=(), results={})


def _is_of_a_job(name: bytes) -> bool:
    """Whether a field of a workflow's record is the times or the error of one of its jobs."""
    return name[:1] in (b"t", b"e") and name[1:].isdigit()


def _portions(pairs: Sequence[_Pair]) -> Iterator[Sequence[_Pair]]:
    for start, end in cuts([len(value) for _, value in pairs], _FIELDS_MOST):
        yield pairs[start:end]
