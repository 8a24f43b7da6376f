"""Carry out bulk operations, slice by slice.

A slice is at most one page of an index. Its jobs are stored with the operation before the first of
them is changed. So a process that continues after a crash changes the rest, and counts every job
once. Each update compares the version of the operation. If two processes carry out the same
operation, one of them stores its progress, and the other one stops. A failure is counted for the
version that the step has read or written last, so a slow process postpones and ends nothing.

An operation leaves out jobs that were created, or have ended, after its own creation. So it does
not retry a job again that it has retried, and its walk ends although new jobs arrive. The deletion
of a queue takes these jobs, too: the queue drains, so its walk ends all the same.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import (
    BackendUnavailable,
    Conflict,
    NotFound,
    OJSError,
)
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk.choosing import choose
from ojs_cluster.store.features.bulk.failures import postpone_or_end
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import (
    MAX_REASON,
    BulkOperation,
    BulkState,
    DamagedOperation,
    KnownVersion,
    Position,
    Slice,
    Target,
)
from ojs_cluster.store.features.bulk_records.updates import (
    PAUSE_MS,
    Superseded,
    end_damaged,
    update,
)
from ojs_cluster.store.features.queue_deletion.deletion import (
    abandon,
    end_late_drain,
    has_drain,
    open_target,
)
from ojs_cluster.store.features.queue_deletion.ending import end_deletion, give_up
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

_OPERATIONS_AT_ONCE: Final = 4
"""Maximum number of operations that one sweep continues, by one slice each."""
_NEXT_SLICE_MS: Final = 1
"""Milliseconds until the scheduler's next slice. Not 0, which would wake the scheduler again."""
_UNCOUNTED: Final = "some of the last slice's jobs may have been changed and are not counted"


async def run_due(store: Store) -> SweepResult:
    """Continue the operations that are due, by one slice each; remove old ones.

    An operation that fails, such as when its shard does not answer, is postponed, and delays no
    other. It has failed after too many failures without progress (``failures.py``).

    Raises:
        BackendUnavailable: the master of the meta tag did not answer in time.
    """
    meta = store.keys.meta
    now, following, removed, *names = await store.run_meta(
        "bulk_due", [meta.bulk_running, meta.bulk_ended], [_OPERATIONS_AT_ONCE]
    )
    done = int(removed)
    more = False
    for name in names:
        operation_id = name.decode(errors="replace")
        known = KnownVersion()
        try:
            if operation_id.encode() != name:
                await end_damaged(store, name, DamagedOperation("its id is damaged"))
                continue
            operation = await _continue(store, operation_id, known)
        except Superseded:
            continue
        except Exception as error:  # it must not keep the other operations from their slices
            if not await postpone_or_end(store, name, error, known.version):
                following = min(following, now + PAUSE_MS) if following >= 0 else now + PAUSE_MS
            continue
        done += 1
        more = more or not operation.ended
    return SweepResult(done, None if following < 0 else following, now, more)


async def run_for(store: Store, operation: BulkOperation, seconds: float) -> BulkOperation:
    """Carry out an operation for at most ``seconds``, then leave the rest to the scheduler.

    Returns:
        The operation as it is then. It has failed if its record is damaged.

    Raises:
        NotFound: its record is gone.
        BackendUnavailable: Redis did not answer in time. The scheduler continues the operation.
    """
    deadline = trio.current_time() + seconds
    try:
        while not operation.ended and trio.current_time() < deadline:
            operation = await advance(store, operation, operations.REQUEST_LEASE_MS)
            if operation.deletion is not None and operation.position in (None, Position()):
                return operation  # jobs are left in the queue, and the scheduler deletes it later
        if not operation.ended:
            operation = await update(store, operation, 0)
    except DamagedOperation as error:
        return await _fail(store, operation, error)
    except Superseded:
        found = await _read_again(store, operation)
        if found.ended and found.deletion is not None:
            # This process may have been so slow that it has begun the drain after the end.
            await abandon(store, found.deletion)
        return found
    except OJSError:
        if operation.deletion is not None and not operation.is_claimed:
            with suppress(OJSError, DamagedOperation), cleaning_up():
                await end_late_drain(store, operation)
        raise
    return operation


async def _read_again(store: Store, operation: BulkOperation) -> BulkOperation:
    try:
        found = await operations.read_stored(store, operation.id)
    except DamagedOperation as error:
        return await _fail(store, operation, error)
    if found is None:
        raise NotFound("bulk operation", operation.id)
    return found


async def _fail(store: Store, operation: BulkOperation, error: DamagedOperation) -> BulkOperation:
    """End a damaged operation; return it with the counts that this process has read last."""
    ended_ms = await end_damaged(store, operation.id.encode(), error)
    reason = str(error)[:MAX_REASON]
    return replace(operation, state=BulkState.FAILED, reason=reason, slice=None, ended_ms=ended_ms)


async def _continue(store: Store, operation_id: str, known: KnownVersion) -> BulkOperation:
    try:
        operation = await operations.read_stored(store, operation_id)
        if operation is None or operation.ended:
            raise Superseded
        known.version = operation.version
        return await advance(store, replace(operation, known=known), _NEXT_SLICE_MS)
    except DamagedOperation as error:
        await end_damaged(store, operation_id.encode(), error)
        raise Superseded from None


async def advance(store: Store, operation: BulkOperation, delay_ms: int) -> BulkOperation:
    """Carry out one slice of an operation that is not over; return the operation after it.

    Args:
        store: the store.
        operation: the operation as it was read.
        delay_ms: milliseconds until the scheduler continues it, unless it ends.

    Raises:
        Superseded: another process has updated the operation.
        DamagedOperation: its position is damaged.
        BackendUnavailable: Redis did not answer in time. The scheduler continues the operation.
    """
    if operation.deletion is not None:
        if not await has_drain(store, operation.deletion):
            return await _end(store, replace(operation, slice=None, position=None))
        if not operation.is_claimed:  # a drain that began after the end must delete nothing
            operation = await update(store, operation, delay_ms, progress=False)
    if operation.slice is not None:
        try:
            return await _finish_slice(store, operation, operation.slice, delay_ms)
        except BackendUnavailable as error:
            if operation.state is not BulkState.STOPPING:
                raise
            # An operator who stops an operation need not wait for a master that is away.
            return await _end(store, replace(operation, reason=f"{_UNCOUNTED}: {error.message}"))
    if operation.state is BulkState.STOPPING or operation.position is None:
        return await _end(store, operation)
    operation, chosen = await choose(store, operation, operation.position)
    if chosen is None:
        if operation.position is None:
            return await _end(store, operation)
        return await update(store, operation, delay_ms)
    operation = await update(store, replace(operation, slice=chosen), delay_ms)
    return await _finish_slice(store, operation, chosen, delay_ms)


async def _finish_slice(
    store: Store, operation: BulkOperation, current: Slice, delay_ms: int
) -> BulkOperation:
    failures: dict[str, str] = {}
    active = State.ACTIVE in operation.selection.states
    cause = Cause("client", operation.principal, f"bulk operation {operation.id}")

    async def change(target: Target) -> None:
        error = await apply(
            *(store, operation.action, target),
            active=active,
            priority=operation.priority,
            cause=cause,
            deletion=operation.deletion,
        )
        if error is not None:
            failures[target.job_id] = error.message

    if operation.action is BulkAction.MOVE:
        if operation.deletion is not None:
            try:
                await open_target(store, operation.deletion)
            except Conflict as refusal:
                stopped = replace(operation, slice=None, reason=refusal.message)
                return await give_up(store, stopped, operation.deletion, BulkState.STOPPED)
        for target in current.targets:  # in the order of their arrival
            await change(target)
        if operation.deletion is not None:
            await store.pressure.notice(store, [operation.deletion.target])
    else:
        await run_concurrently(current.targets, change)
    found = [(t.job_id, failures[t.job_id]) for t in current.targets if t.job_id in failures]
    walk = operation.walk
    if found and not walk.failure:
        walk = replace(walk, failure=f"job {found[0][0]}: {found[0][1]}")
    operation = replace(
        operation,
        slice=None,
        walk=walk,
        position=current.following,
        succeeded=operation.succeeded + len(current.targets) - len(found),
        # A deletion walks again over the jobs that have changed meanwhile.
        failed=operation.failed + (len(found) if operation.deletion is None else 0),
        failures=operation.with_failures(found if operation.deletion is None else []),
    )
    if operation.position is None or operation.state is BulkState.STOPPING:
        if operation.deletion is not None:  # after the deletion, nothing tells who changed the jobs
            operation = await update(store, operation, delay_ms)
        return await _end(store, operation)
    return await update(store, operation, delay_ms)


async def _end(store: Store, operation: BulkOperation) -> BulkOperation:
    if operation.deletion is not None:
        return await end_deletion(store, operation, operation.deletion)
    stopped = operation.position is not None
    state = BulkState.STOPPED if stopped else BulkState.COMPLETED
    return await update(store, replace(operation, state=state), None)
