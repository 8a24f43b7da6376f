"""Change one job of a bulk operation, by the same transition as a request for that single job.

``apply`` may be called again for a job that another process changed before it crashed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import Conflict, Duplicate, MalformedJob, NotFound, OJSError
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.delete_finished import delete_finished
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause
from ojs_cluster.store.features.bulk_records.operation import QueueDeletion, Target
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.queue_deletion.change_job import discard_job, move_job


async def apply(
    store: Store,
    action: BulkAction,
    target: Target,
    *,
    active: bool = False,
    priority: int = 0,
    cause: Cause = UNKNOWN,
    deletion: QueueDeletion | None = None,
) -> OJSError | None:
    """Change one job.

    Args:
        store: the store.
        action: what to do.
        target: the job.
        active: whether to cancel the job even if it is active.
        priority: the priority that the job gets.
        cause: who changes the job, for its history.
        deletion: the deletion that discards or moves the job.

    Returns:
        None when the job was changed, now or before; otherwise the error that tells why not.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    try:
        if action is BulkAction.PRIORITY:
            await change_priority(store, target.job_id, priority, cause)
        elif deletion is not None:
            await _delete_from_queue(store, deletion, target, cause)
        else:
            await _change(store, action, target, active, cause)
    except (Conflict, Duplicate, MalformedJob, NotFound) as error:
        # An earlier process, or an earlier call whose reply was lost, may have changed the job.
        return None if await _is_changed(store, action, target, error) else error
    return None


async def _change(
    store: Store, action: BulkAction, target: Target, active: bool, cause: Cause
) -> None:
    match action:
        case BulkAction.CANCEL:
            only: Literal["", "waiting"] = "" if active else "waiting"
            await _cancel(store, target, only=only, cause=cause)
        case BulkAction.RETRY:
            await dead_letters.retry_discarded(
                store, target.job_id, cause, expected_replays=target.replays
            )
        case BulkAction.DELETE:
            await _delete(store, target, target.state)
        case BulkAction.PURGE if target.state in TERMINAL:
            await _delete(store, target, target.state)
        case BulkAction.PURGE:
            # The cancelled job is deleted. If the process dies before that, the janitor removes
            # the job. A job that has run and ended since it was chosen is kept.
            with suppress(Conflict):
                await _cancel(store, target, only="waiting", keep_ms=0)
            await _delete(store, target, None if target.state is None else State.CANCELLED)


async def _delete_from_queue(
    store: Store, deletion: QueueDeletion, target: Target, cause: Cause
) -> None:
    queue, created_ms = deletion.queue, target.created_ms or 0
    if deletion.target:
        await move_job(store, target.job_id, queue, deletion.target, created_ms, cause)
    else:
        await discard_job(store, target.job_id, queue, created_ms)


async def _cancel(
    store: Store,
    target: Target,
    *,
    only: Literal["", "waiting"],
    keep_ms: int | None = None,
    cause: Cause = UNKNOWN,
) -> None:
    await cancel(
        store,
        target.job_id,
        keep_ms=keep_ms,
        only=only,
        repeatable=True,
        created_ms=target.created_ms,
        cause=cause,
    )


async def _delete(store: Store, target: Target, state: State | None) -> None:
    await delete_finished(
        store,
        target.job_id,
        expected_state=state,
        expected_replays=target.replays,
        created_ms=target.created_ms,
    )


async def _is_changed(store: Store, action: BulkAction, target: Target, error: OJSError) -> bool:
    """Return whether ``error`` shows that the job has been changed before."""
    match action, error:
        case BulkAction.DELETE | BulkAction.PURGE, NotFound():
            return True
        case BulkAction.CANCEL, Conflict():
            return error.details.get("state") == State.CANCELLED
        case BulkAction.DISCARD, Conflict():
            return error.details.get("state") == State.DISCARDED
        case BulkAction.RETRY, Conflict() if target.replays is not None:
            try:
                return (await read_jobs.get(store, target.job_id)).replays > target.replays
            except (NotFound, MalformedJob):
                return False
    return False
