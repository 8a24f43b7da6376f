"""End a deletion after a walk over the jobs of its queue, or plan the next walk.

Jobs may be retried or promoted after the walk has passed them, so one walk that has changed nothing
tells little. After three in a row that left waiting jobs, something is wrong with these jobs, and
the deletion fails. Nothing is wrong with active jobs, for which it waits longer and longer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records.operation import (
    MAX_REASON,
    BulkOperation,
    BulkState,
    Position,
    QueueDeletion,
    Walk,
)
from ojs_cluster.store.features.bulk_records.updates import PAUSE_MS, update
from ojs_cluster.store.features.queue_deletion.deletion import (
    DeletionStep,
    abandon,
    has_drain,
    try_to_delete,
)

_MAX_STUCK: Final = 3
"""Number of walks in a row that may leave waiting jobs and change nothing."""
_WAIT_MS: Final = 2000
"""Milliseconds between two walks."""
_MAX_WAIT_MS: Final = 30_000
"""Maximum milliseconds between two walks while only active jobs are left."""
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


def after_walk(operation: BulkOperation, step: DeletionStep) -> tuple[BulkOperation, int]:
    """Return a deletion with its next walk, and the milliseconds until then.

    It has failed instead if it does not get on. It still has its drain then.

    Args:
        operation: the deletion after a walk.
        step: which jobs the walk has left: ``WAITING_JOBS`` or ``ACTIVE_JOBS``.
    """
    walk = operation.walk
    changed = operation.succeeded > walk.changed_before
    stuck = idle = 0
    if step is DeletionStep.ACTIVE_JOBS:
        idle = 0 if changed else walk.idle + 1
    elif not changed and not walk.waits:
        stuck = walk.stuck + 1
    if stuck == _MAX_STUCK:
        reason = f"its jobs cannot be changed: {walk.failure or 'they are in no index'}"
        return replace(operation, state=BulkState.FAILED, reason=reason[:MAX_REASON]), 0
    # Jobs that only wait for their workers need no walk.
    waits = step is DeletionStep.ACTIVE_JOBS and operation.action is BulkAction.MOVE
    position = None if waits else Position()
    operation = replace(
        operation, position=position, walk=Walk(operation.succeeded, waits, stuck, idle)
    )
    return operation, min(_WAIT_MS << min(max(idle - 1, 0), 4), _MAX_WAIT_MS)
