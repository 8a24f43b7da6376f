"""Store large workflows in portions, so that no script blocks its node for long.

The portions are stored before the record of the workflow. They are not read until the record
exists. If the process dies before it stores the record, the janitor removes the portions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.portions import PORTION_BYTES, portion_ranges
from ojs_cluster.store.ground.runtime import Arg

_Pair = tuple[bytes | int, bytes]
"""Name and value of a field."""
RESTORE_MS = 24 * 60 * 60_000
"""Time in ms after which the janitor removes portions of an imported workflow without a record."""
_MAX_FIELDS = 1000
"""Maximum number of fields that one script writes."""


def is_large(*values: Sequence[bytes]) -> bool:
    """Return whether one script cannot write the values, because of their number or their bytes."""
    return (
        sum(map(len, values)) > _MAX_FIELDS
        or sum(len(value) for part in values for value in part) > PORTION_BYTES
    )


async def store_portions(
    store: Store,
    owner: Shard,
    workflow_id: str,
    key: bytes,
    pairs: Sequence[_Pair],
    *,
    wait_ms: int,
) -> bool:
    """Store fields of a workflow that does not exist yet; return False when it does.

    Args:
        store: the store.
        owner: the shard of the workflow.
        workflow_id: id of the workflow.
        key: Redis key of the fields' hash: the workflow's record, its definitions or its results.
        pairs: names and values of the fields.
        wait_ms: time in ms after which the janitor removes the fields if there is no workflow.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [owner.workflow(workflow_id), key, owner.ended_workflows]
    for portion in _portions(pairs):
        args: list[Arg] = [workflow_id, wait_ms, *(part for pair in portion for part in pair)]
        reply = await store.run(owner, "workflow_store_portion", keys, args, idempotent=True)
        if reply[0] != b"ok":
            return False
    return True


def _portions(pairs: Sequence[_Pair]) -> Iterator[Sequence[_Pair]]:
    for start, end in portion_ranges([len(value) for _, value in pairs], _MAX_FIELDS):
        yield pairs[start:end]
