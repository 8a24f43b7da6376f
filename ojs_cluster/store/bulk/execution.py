"""Carry out bulk operations, slice by slice.

A slice is at most one page of an index. Its jobs are stored with the operation before the first of
them is changed. So a process that continues after a crash changes the rest, and counts every job
once. Each update compares the version of the operation. If two processes carry out the same
operation, one of them stores its progress, and the other one stops.

An operation leaves out jobs that were created, or have ended, after its own creation. So it does
not retry a job again that it has retried, and its walk ends although new jobs arrive.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.bulk.selection import BulkAction, JobSummary
from ojs_cluster.core.errors import (
    BackendUnavailable,
    Conflict,
    MalformedJob,
    NotFound,
    OJSError,
)
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.bulk import operations
from ojs_cluster.store.bulk.apply import apply
from ojs_cluster.store.bulk.by_content import with_content
from ojs_cluster.store.bulk.candidates import PAGE, Page, read_page
from ojs_cluster.store.bulk.operation import (
    BulkOperation,
    BulkState,
    DamagedOperation,
    Position,
    QueueDeletion,
    Slice,
    Target,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.history.entries import Cause
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.searched_record import SearchedRecord
from ojs_cluster.store.jobs.validate_job import read_number
from ojs_cluster.store.queue_deletion.deletion import (
    DeletionStep,
    abandon,
    end_late_drain,
    has_drain,
    open_target,
    try_to_delete,
)
from ojs_cluster.store.queue_deletion.walks import after_walk
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.sweeps.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

_MAX_PAGES: Final = 25
"""Maximum number of pages that one slice reads to find jobs: 5000 entries."""
_MAX_BYTES: Final = 32 * 1024 * 1024
"""Bytes of jobs after which a slice reads no further page to compare their content."""
_OPERATIONS_AT_ONCE: Final = 4
"""Maximum number of operations that one sweep continues, by one slice each."""
_PAUSE_MS: Final = 5000
"""Milliseconds until an operation continues after Redis has not answered."""
_MAX_FAULTS: Final = 5
"""Number of failures other than those of Redis after which the scheduler ends an operation."""
_NEXT_SLICE_MS: Final = 1
"""Milliseconds until the scheduler's next slice. Not 0, which would wake the scheduler again."""
_UNKNOWN: Final = "some of the last slice's jobs may have been changed and are not counted"
_NO_DRAIN: Final = (
    "the queue does not drain for it: an operator or another request has taken over the drain, or "
    "the process died before the drain began"
)
REQUEST_LEASE_MS: Final = 15_000
"""Milliseconds for which the scheduler leaves an operation to the request that has created it."""


class Superseded(Exception):
    """Another process has continued the operation, or ended it."""


async def run_due(store: Store) -> SweepResult:
    """Continue the operations that are due, by one slice each; remove old ones.

    An operation that fails, such as when its shard does not answer, is postponed, and delays no
    other. After ``_MAX_FAULTS`` failures that are no lack of an answer, it has failed.

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
        try:
            if operation_id.encode() != name:
                await _end_damaged(store, name, DamagedOperation("its id is damaged"))
                continue
            operation = await _continue(store, operation_id, _NEXT_SLICE_MS)
        except Superseded:
            continue
        except (OJSError, RedisReplyError) as error:
            log.warning("bulk operation %s is postponed: %s", operation_id, error)
            await _postpone(store, name, now + _PAUSE_MS)
            following = min(following, now + _PAUSE_MS) if following >= 0 else now + _PAUSE_MS
            continue
        except Exception as error:  # it must not keep the other operations from their slices
            log.exception("bulk operation %s has met a fault", operation_id)
            if not await _end_faulty(store, operation_id, error):
                following = min(following, now + _PAUSE_MS) if following >= 0 else now + _PAUSE_MS
            continue
        done += 1
        more = more or not operation.ended
    return SweepResult(done, None if following < 0 else following, now, more)


async def _postpone(store: Store, name: bytes, at_ms: int) -> None:
    meta = store.keys.meta
    await store.run_meta("postpone_members", [meta.bulk_running], [at_ms, name])


async def _end_faulty(store: Store, operation_id: str, error: Exception) -> bool:
    """Postpone an operation after a fault of the data or the program, or end it after too many.

    Returns:
        Whether it has ended.
    """
    meta, name = store.keys.meta, operation_id.encode()
    found: Any = await store.redis.call(
        meta.slot, "HGET", meta.bulk(operation_id), "faults", idempotent=True
    )
    faults = read_number(found) + 1
    if faults >= _MAX_FAULTS and await _has_no_drain(store, operation_id):
        damage = DamagedOperation(f"it cannot be carried out: {error!r}")
        await _end_damaged(store, name, damage)
        return True
    await _store_fields(store, name, "", _PAUSE_MS, ["faults", faults])
    return False


async def _has_no_drain(store: Store, operation_id: str) -> bool:
    """End the drain of a faulty deletion; return False if it must be tried again later."""
    try:
        operation = await operations.read(store, operation_id)
        if operation is not None and operation.deletion is not None:
            await abandon(store, operation.deletion)
    except (OJSError, RedisReplyError) as away:  # such as the shard of the queue
        log.warning("bulk operation %s is postponed: %s", operation_id, away)
        return False
    except Exception:  # a later try would meet the same fault
        log.exception("bulk operation %s cannot end the drain of its queue", operation_id)
    return True


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
            operation = await advance(store, operation, REQUEST_LEASE_MS)
            if operation.deletion is not None and operation.position in (None, Position()):
                return operation  # jobs are left in the queue, and the scheduler deletes it later
        if not operation.ended:
            operation = await _update(store, operation, 0)
    except DamagedOperation as error:
        return await _fail(store, operation, error)
    except Superseded:
        found = await _read_again(store, operation)
        if found.ended and found.deletion is not None:
            # This process may have been so slow that it has begun the drain after the end.
            await abandon(store, found.deletion)
        return found
    except OJSError:
        if operation.deletion is not None and not operation.has_begun:
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
    """End a damaged operation; return it with the counts that the caller knows."""
    ended_ms = await _end_damaged(store, operation.id.encode(), error)
    reason = str(error)[:300]
    return replace(operation, state=BulkState.FAILED, reason=reason, slice=None, ended_ms=ended_ms)


async def _continue(store: Store, operation_id: str, delay_ms: int) -> BulkOperation:
    try:
        operation = await operations.read_stored(store, operation_id)
        if operation is None or operation.ended:
            raise Superseded
        return await advance(store, operation, delay_ms)
    except DamagedOperation as error:
        await _end_damaged(store, operation_id.encode(), error)
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
        if not operation.has_begun:  # a drain that began after the end must delete nothing
            operation = await _update(store, operation, delay_ms)
    if operation.slice is not None:
        try:
            return await _finish_slice(store, operation, operation.slice, delay_ms)
        except BackendUnavailable as error:
            if operation.state is not BulkState.STOPPING:
                raise
            # An operator who stops an operation need not wait for a master that is away.
            return await _end(store, replace(operation, reason=f"{_UNKNOWN}: {error.message}"))
    if operation.state is BulkState.STOPPING or operation.position is None:
        return await _end(store, operation)
    operation, chosen = await _choose(store, operation, operation.position)
    if chosen is None:
        if operation.position is None:
            return await _end(store, operation)
        return await _update(store, operation, delay_ms)
    operation = await _update(store, replace(operation, slice=chosen), delay_ms)
    return await _finish_slice(store, operation, chosen, delay_ms)


async def _choose(
    store: Store, operation: BulkOperation, position: Position
) -> tuple[BulkOperation, Slice | None]:
    """Read pages until one has jobs to change.

    The jobs of a dry run are only counted.

    Returns:
        The operation with new counts and a new position, and the jobs to change, None for none.
    """
    following: Position | None = position
    examined, matched, read_bytes = operation.examined, operation.matched, 0
    targets: list[Target] = []
    for _ in range(_MAX_PAGES):
        if following is None or targets or read_bytes > _MAX_BYTES:
            break
        page = await _read(store, operation, following)
        following = page.following
        chosen = [job for job in page.jobs if _is_chosen(operation, job)]
        if operation.selection.needs_content:
            chosen, size = await with_content(store, operation.selection, chosen, page.shard)
            read_bytes += size
        # A deletion discards malformed jobs, too, or names one that it cannot move.
        unreadable = page.unreadable if operation.deletion is not None else ()
        examined += len(page.jobs) + len(unreadable)
        matched += len(chosen) + len(unreadable)
        if not operation.dry_run:
            targets = [Target(job.id, job.replays, job.state, job.created_ms) for job in chosen]
            targets += unreadable
    operation = replace(operation, examined=examined, matched=matched)
    if targets:
        return operation, Slice(targets, following)
    return replace(operation, position=following), None


def _is_chosen(operation: BulkOperation, job: JobSummary) -> bool:
    if operation.deletion is not None:  # the queue drains, so the walk ends all the same
        return operation.selection.admits(job)
    # A job whose priority is lowered may move ahead of the walk, which then reads it again.
    if operation.action is BulkAction.PRIORITY and job.priority == operation.priority:
        return False
    last_change_ms = job.created_ms if job.finished_ms is None else job.finished_ms
    return last_change_ms <= operation.created_ms and operation.selection.admits(job)


async def _read(store: Store, operation: BulkOperation, position: Position) -> Page:
    if operation.ids is None:
        return await read_page(store, operation.selection, position)
    ids = operation.ids[position.ids : position.ids + PAGE]
    found: dict[str, JobSummary] = {}

    async def read_one(job_id: str) -> None:
        try:
            job = await read_jobs.get(store, job_id)
        except (NotFound, MalformedJob):
            return
        found[job_id] = JobSummary(
            *(job_id, job.state, job.queue, job.type, job.created_ms, job.finished_ms),
            *(job.priority, job.dead, job.hidden, job.replays),
            *(job.attempt, SearchedRecord(job).worker),
        )

    await run_concurrently(ids, read_one)
    end = position.ids + len(ids)
    jobs = [found[job_id] for job_id in ids if job_id in found]
    return Page(jobs, Position(ids=end) if end < len(operation.ids) else None)


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
                return await _give_up(store, stopped, operation.deletion, BulkState.STOPPED)
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
            operation = await _update(store, operation, delay_ms)
        return await _end(store, operation)
    return await _update(store, operation, delay_ms)


async def _end(store: Store, operation: BulkOperation) -> BulkOperation:
    if operation.deletion is not None:
        return await _end_deletion(store, operation, operation.deletion)
    stopped = operation.position is not None
    state = BulkState.STOPPED if stopped else BulkState.COMPLETED
    return await _update(store, replace(operation, state=state), None)


async def _end_deletion(
    store: Store, operation: BulkOperation, deletion: QueueDeletion
) -> BulkOperation:
    """Delete the queue after a walk over its jobs, or plan the next walk."""
    if operation.state is BulkState.STOPPING and await has_drain(store, deletion):
        return await _give_up(store, operation, deletion, BulkState.STOPPED)
    # Without a drain of its own, it must not end the deletion of another request.
    step = DeletionStep.NO_DRAIN
    if operation.has_begun:
        step = await try_to_delete(store, deletion)
    if step is DeletionStep.DELETED:
        return await _update(store, replace(operation, state=BulkState.COMPLETED, reason=""), None)
    if step is DeletionStep.NO_DRAIN:
        reason = operation.reason
        if not reason and operation.state is not BulkState.STOPPING:
            reason = _NO_DRAIN
        stopped = replace(operation, state=BulkState.STOPPED, reason=reason)
        return await _update(store, stopped, None)
    operation, delay_ms = after_walk(operation, step)
    if operation.state is BulkState.FAILED:
        return await _give_up(store, operation, deletion, BulkState.FAILED)
    return await _update(store, operation, delay_ms)


async def _give_up(
    store: Store, operation: BulkOperation, deletion: QueueDeletion, state: BulkState
) -> BulkOperation:
    """End a deletion and its drain. If the process dies in between, the reason is kept."""
    if operation.reason:
        operation = await _update(store, operation, _PAUSE_MS)
    await abandon(store, deletion)
    return await _update(store, replace(operation, state=state), None)


async def _update(store: Store, operation: BulkOperation, delay_ms: int | None) -> BulkOperation:
    """Store the progress of an operation; with a delay of None, its end.

    Raises:
        Superseded: another process has updated the operation.
    """
    position = None if operation.position is None else operation.position.members()
    fields: list[Arg] = [
        *("position", orjson.dumps(position)),
        *("slice", b"" if operation.slice is None else operation.slice.encode()),
        *("examined", operation.examined, "matched", operation.matched),
        *("succeeded", operation.succeeded, "failed", operation.failed),
        *("failures", orjson.dumps(operation.failures)),
    ]
    if operation.deletion is not None:
        fields += ["walk", operation.walk.encode(), "reason", operation.reason]
    if delay_ms is None:
        fields += ["state", operation.state.value, "reason", operation.reason]
    name = operation.id.encode()
    reply = await _store_fields(store, name, operation.version, delay_ms, fields)
    if reply[0] != b"ok":
        raise Superseded
    operation = replace(operation, version=reply[1].decode())
    if delay_ms is None:
        return replace(operation, ended_ms=int(reply[2]))
    # An operator may have stopped the operation since it was read.
    return replace(operation, state=BulkState.STOPPING) if reply[3] == b"stopping" else operation


async def _end_damaged(store: Store, name: bytes, error: DamagedOperation) -> int:
    """End an operation of which no process can read which jobs it would change.

    Args:
        store: the store.
        name: its id as stored, which may be damaged.
        error: what is damaged.

    Returns:
        When it ended, in Unix milliseconds; 0 if it had ended before.
    """
    log.error("bulk operation %s has failed: %s", name.decode(errors="replace"), error)
    fields: list[Arg] = ["state", BulkState.FAILED.value, "reason", str(error)[:300]]
    reply = await _store_fields(store, name, "", None, fields)
    return int(reply[2]) if reply[0] == b"ok" else 0


async def _store_fields(
    store: Store, name: bytes, version: str, delay_ms: int | None, fields: list[Arg]
) -> Any:
    meta = store.keys.meta
    # Not idempotent: a repetition would find the version that it has written, and report that
    # another process has continued the operation. The outcome of a lost reply is read again.
    return await store.run_meta(
        "bulk_update",
        [meta.bulk("") + name, meta.bulk_running, meta.bulk_ended],
        [
            *(name, version, "" if delay_ms is None else delay_ms),
            *(store.settings.retention_bulk_ms, *fields),
        ],
        idempotent=False,
    )
