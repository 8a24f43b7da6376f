"""Create, read, list and stop bulk operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.errors import Conflict, NotFound, RateLimited
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records.operation import (
    BulkOperation,
    BulkState,
    DamagedOperation,
    QueueDeletion,
    read_deletion,
    read_operation,
)
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

MAX_IDS: Final = 1000
"""Maximum number of ids of one operation (spec: ojs-bulk-operations 9.1)."""
MAX_RUNNING: Final = 100
"""Maximum number of operations that run or are stopping."""
MAX_OPERATIONS: Final = 1000
"""Maximum number of operations. If there are more, the oldest ended operation is removed."""
REQUEST_LEASE_MS: Final = 15_000
"""Milliseconds for which the scheduler leaves an operation to the request that has created it."""
_FULL_RETRY_S: Final = 10.0
"""Seconds after which a client may try again when ``MAX_RUNNING`` operations have not ended."""


async def create(
    store: Store,
    operation_id: str,
    action: BulkAction,
    selection: Selection,
    *,
    ids: Sequence[str] | None = None,
    searched: bool = False,
    dry_run: bool = False,
    priority: int = 0,
    principal: str = "",
    delay_ms: int = 0,
    follows: str | None = None,
    deletion: QueueDeletion | None = None,
) -> BulkOperation:
    """Store a bulk operation. Until its first slice, no job is changed.

    Args:
        store: the store.
        operation_id: a new id. A repetition with the same id changes nothing.
        action: what is done to each job.
        selection: which jobs are chosen.
        ids: the ids of the jobs, None for all jobs that ``selection`` admits.
        searched: whether the search of ``selection`` lists the ids, and no client has named them.
        dry_run: only count the jobs.
        priority: the priority that the action ``priority`` gives to each job.
        principal: name of the API key that creates the operation.
        delay_ms: milliseconds after which the scheduler continues the operation.
        follows: id of the dry run that the operation follows; None for none.
        deletion: the queue that the operation deletes; None for none.

    Raises:
        NotFound: the dry run does not exist.
        Conflict: another operation has followed the dry run.
        RateLimited: ``MAX_RUNNING`` operations have not ended.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    fields: list[Arg] = [
        *("action", action.value, "filter", orjson.dumps(selection.members())),
        *("dry_run", int(dry_run), "priority", priority, "principal", principal),
    ]
    if ids is not None:
        fields += ["ids", orjson.dumps(list(ids)), "named", len(ids), "searched", int(searched)]
    if deletion is not None:
        fields += ["deletion", deletion.encode()]
    dry_run_keys = [] if follows is None else [meta.bulk(follows)]
    reply = await store.run_meta(
        "bulk_create",
        [meta.bulk(operation_id), meta.bulk_running, meta.bulk_ended, *dry_run_keys],
        [operation_id, MAX_RUNNING, MAX_OPERATIONS, delay_ms, *fields],
    )
    if reply[0] == b"full":
        raise RateLimited(
            f"{MAX_RUNNING} bulk operations have not ended: wait for one, or stop one",
            retry_after_s=_FULL_RETRY_S,
        )
    if follows is not None and reply[0] == b"missing":
        raise _not_found(follows)
    if reply[0] == b"followed":
        raise Conflict(
            "an operation has followed this dry run: count the jobs again",
            operation_id=reply[1].decode(errors="replace"),
        )
    return read_operation(operation_id, reply[1])


async def get(store: Store, operation_id: str) -> BulkOperation:
    """Return a bulk operation.

    Raises:
        NotFound: there is no such operation, or its record is damaged.
        BackendUnavailable: Redis did not answer in time.
    """
    if is_job_id(operation_id):
        found = await read(store, operation_id)
        if found is not None:
            return found
    raise _not_found(operation_id)


async def read(store: Store, operation_id: str) -> BulkOperation | None:
    """Return an operation, None if there is none or its record is damaged."""
    try:
        return await read_stored(store, operation_id)
    except DamagedOperation:
        return None


async def read_stored(store: Store, operation_id: str) -> BulkOperation | None:
    """Return an operation, None if there is none.

    Raises:
        DamagedOperation: its record is damaged.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    flat: Any = await store.redis.call(
        meta.slot, "HGETALL", meta.bulk(operation_id), idempotent=True
    )
    return read_operation(operation_id, flat) if flat else None


async def read_states(store: Store, operation_ids: Iterable[str]) -> dict[str, BulkState]:
    """Return the states of operations by their ids. Absent and damaged ones are left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    found: dict[str, BulkState] = {}

    async def read_one(operation_id: str) -> None:
        raw: Any = await store.redis.call(
            meta.slot, "HGET", meta.bulk(operation_id), "state", idempotent=True
        )
        with suppress(ValueError):
            found[operation_id] = BulkState((raw or b"").decode())

    await run_concurrently(sorted(set(operation_ids)), read_one)
    return found


async def has_running_deletion(store: Store, token: str) -> bool:
    """Return whether an operation that has not ended deletes a queue with this token of a drain.

    A damaged deletion has none: its operation ends without a further step.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot, "ZRANGE", meta.bulk_running, 0, -1, idempotent=True
    )
    tokens: set[str] = set()

    async def read_one(name: bytes) -> None:
        raw: Any = await store.redis.call(
            meta.slot, "HGET", meta.bulk("") + name, "deletion", idempotent=True
        )
        with suppress(DamagedOperation, ValueError):
            if raw is not None:
                tokens.add(read_deletion(orjson.loads(raw)).token)

    await run_concurrently(names, read_one)
    return token in tokens


async def list_operations(
    store: Store,
    *,
    limit: int,
    offset: int = 0,
    wanted: Callable[[Selection], bool] | None = None,
) -> tuple[list[BulkOperation], int]:
    """Return a page of operations, the newest first, and the number of all.

    Operations that have not ended come first. Damaged operations are left out.

    Args:
        store: the store.
        limit: maximum number of operations of the page.
        offset: number of operations before the page.
        wanted: returns whether to list and count the operation of a selection; None for all.
    """
    names = await _stored_ids(store)
    if wanted is not None:
        names = await _with_selection(store, names, wanted)
    found: dict[str, BulkOperation | None] = {}

    async def read_one(name: str) -> None:
        found[name] = await read(store, name)

    page = names[offset : offset + limit]
    await run_concurrently(page, read_one)
    listed = [found[name] for name in page]
    return [operation for operation in listed if operation is not None], len(names)


async def _stored_ids(store: Store) -> list[str]:
    """Return the ids of all operations: those that have not ended first, each newest first."""
    meta = store.keys.meta
    names: list[str] = []
    for key in (meta.bulk_running, meta.bulk_ended):
        raw_ids: Any = await store.redis.call(meta.slot, "ZREVRANGE", key, 0, -1, idempotent=True)
        ids = (raw_id.decode(errors="replace") for raw_id in raw_ids)
        # Ids are UUIDv7, so they sort by the time of creation. Other members are damaged.
        names += sorted(filter(is_job_id, ids), reverse=True)
    return names


async def _with_selection(
    store: Store, names: Sequence[str], wanted: Callable[[Selection], bool]
) -> list[str]:
    """Return the ids, of ``MAX_OPERATIONS`` at most, whose selections are wanted."""
    meta = store.keys.meta
    kept: set[str] = set()

    async def read_one(name: str) -> None:
        raw: Any = await store.redis.call(
            meta.slot, "HGET", meta.bulk(name), "filter", idempotent=True
        )
        with suppress(ValueError):  # a damaged operation is in no list
            if raw is not None and wanted(Selection.of_members(orjson.loads(raw))):
                kept.add(name)

    await run_concurrently(names, read_one)
    return [name for name in names if name in kept]


async def stop(store: Store, operation_id: str) -> BulkOperation:
    """Request that an operation ends after its current slice. A repetition changes nothing.

    A deletion that may not drain yet ends after the request that has created it: otherwise nothing
    would end a drain that begins later, if that request dies then.

    Returns:
        The operation, which is stopping.

    Raises:
        NotFound: there is no such operation.
        Conflict: it has ended.
        BackendUnavailable: Redis did not answer in time.
    """
    if not is_job_id(operation_id):
        raise _not_found(operation_id)
    meta = store.keys.meta
    reply = await store.run_meta(
        *("bulk_stop", [meta.bulk(operation_id), meta.bulk_running]),
        [operation_id, REQUEST_LEASE_MS],
    )
    if reply[0] == b"missing":
        raise _not_found(operation_id)
    if reply[0] == b"conflict":
        state = reply[1].decode(errors="replace")
        raise Conflict(f"bulk operation '{operation_id}' is {state}", state=state)
    try:
        return read_operation(operation_id, reply[1])
    except DamagedOperation:  # the scheduler ends it
        raise _not_found(operation_id) from None


def _not_found(operation_id: str) -> NotFound:
    return NotFound("bulk operation", operation_id[:100])
