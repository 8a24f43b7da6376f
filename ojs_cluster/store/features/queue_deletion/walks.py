"""What follows a walk of a deletion over the jobs of its queue that has left some of them.

Jobs may be retried or promoted after the walk has passed them, so one walk that has changed nothing
tells little. After three in a row that left waiting jobs, something is wrong with these jobs, and
the deletion fails. Nothing is wrong with active jobs, for which it waits longer and longer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.store.features.bulk_records.operation import (
    BulkOperation,
    BulkState,
    Position,
    Walk,
)
from ojs_cluster.store.features.queue_deletion.deletion import DeletionStep

_MAX_STUCK: Final = 3
"""Number of walks in a row that may leave waiting jobs and change nothing."""
_WAIT_MS: Final = 2000
"""Milliseconds between two walks."""
_MAX_WAIT_MS: Final = 30_000
"""Maximum milliseconds between two walks while only active jobs are left."""


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
        return replace(operation, state=BulkState.FAILED, reason=reason[:300]), 0
    # Jobs that only wait for their workers need no walk.
    waits = step is DeletionStep.ACTIVE_JOBS and operation.action is BulkAction.MOVE
    position = None if waits else Position()
    operation = replace(
        operation, position=position, walk=Walk(operation.succeeded, waits, stuck, idle)
    )
    return operation, min(_WAIT_MS << min(max(idle - 1, 0), 4), _MAX_WAIT_MS)
