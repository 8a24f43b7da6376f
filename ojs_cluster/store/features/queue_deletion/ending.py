"""End a deletion after a walk over the jobs of its queue, or plan the next walk."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records.operation import (
    BulkOperation,
    BulkState,
    QueueDeletion,
)
from ojs_cluster.store.features.bulk_records.updates import PAUSE_MS, update
from ojs_cluster.store.features.queue_deletion.deletion import (
    DeletionStep,
    abandon,
    has_drain,
    try_to_delete,
)
from ojs_cluster.store.features.queue_deletion.walks import after_walk

_NO_DRAIN: Final = (
    "the queue does not drain for it: an operator or another request has taken over the drain, or "
    "the process died before the drain began"
)


async def end_deletion(
    store: Store, operation: BulkOperation, deletion: QueueDeletion
) -> BulkOperation:
    """Delete the queue after a walk over its jobs, or plan the next walk."""
    if operation.state is BulkState.STOPPING and await has_drain(store, deletion):
        return await give_up(store, operation, deletion, BulkState.STOPPED)
    # Without a drain of its own, it must not end the deletion of another request.
    step = DeletionStep.NO_DRAIN
    if operation.is_claimed:
        step = await try_to_delete(store, deletion)
    if step is DeletionStep.DELETED:
        return await update(store, replace(operation, state=BulkState.COMPLETED, reason=""), None)
    if step is DeletionStep.NO_DRAIN:
        reason = operation.reason
        if not reason and operation.state is not BulkState.STOPPING:
            reason = _NO_DRAIN
        stopped = replace(operation, state=BulkState.STOPPED, reason=reason)
        return await update(store, stopped, None)
    operation, delay_ms = after_walk(operation, step)
    if operation.state is BulkState.FAILED:
        return await give_up(store, operation, deletion, BulkState.FAILED)
    return await update(store, operation, delay_ms)


async def give_up(
    store: Store, operation: BulkOperation, deletion: QueueDeletion, state: BulkState
) -> BulkOperation:
    """End a deletion and its drain. If the process dies in between, the reason is kept."""
    if operation.reason:
        operation = await update(store, operation, PAUSE_MS, progress=False)
    await abandon(store, deletion)
    return await update(store, replace(operation, state=state), None)
