"""Find the operations that have done what dry runs had counted before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.store.bulk.operation import BulkOperation, BulkState
from ojs_cluster.store.bulk.operations import stored_ids
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently

_FIELDS: Final = (
    *("action", "filter", "priority", "created"),
    *("state", "dry_run", "named", "searched"),
)
_SKEW_MS: Final = 60_000
"""Maximum difference between the clock of Redis and those of API processes, in milliseconds. An id
has the time of the process, and the order of operations is by the clock of Redis."""


class Follower(NamedTuple):
    """An operation that has followed a dry run."""

    id: str
    state: BulkState


class _Started(NamedTuple):
    """An operation that changes jobs, with what it has in common with its dry run."""

    created_ms: int
    follower: Follower
    action: BulkAction
    selection: Selection
    priority: int


def is_followed(operation: BulkOperation) -> bool:
    """Return whether it can be known which operation has followed this one.

    Only a dry run that has ended is followed. Which jobs were named by ids is not known after the
    end, so a dry run on named jobs is not followed.
    """
    named = operation.named is not None and not operation.searched
    return operation.dry_run and operation.state is BulkState.COMPLETED and not named


async def find_followers(store: Store, operations: Iterable[BulkOperation]) -> dict[str, Follower]:
    """Return by the ids of dry runs the first operations that were created after them.

    A follower has the same action, selection and priority. Any user may have created it.

    Args:
        store: the store.
        operations: operations, of which only those that ``is_followed`` admits count.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    counts = [operation for operation in operations if is_followed(operation)]
    if not counts:
        return {}
    since_ms = min(count.created_ms for count in counts)
    started = await _started_since(store, since_ms)
    found: dict[str, Follower] = {}
    for count in counts:
        wanted = count.action, count.selection, count.priority
        for each in started:
            if (
                each.created_ms >= count.created_ms
                and (each.action, each.selection, each.priority) == wanted
            ):
                found[count.id] = each.follower
                break
    return found


async def _started_since(store: Store, since_ms: int) -> list[_Started]:
    """Return the operations that change all jobs of a selection, the oldest first."""
    meta = store.keys.meta
    found: list[_Started] = []

    async def read_one(name: str) -> None:
        values: Any = await store.redis.call(
            meta.slot, "HMGET", meta.bulk(name), *_FIELDS, idempotent=True
        )
        started = _read(name, values)
        if started is not None:
            found.append(started)

    names = [name for name in await stored_ids(store) if _id_ms(name) >= since_ms - _SKEW_MS]
    await run_concurrently(names, read_one)
    return sorted(found, key=lambda each: (each.created_ms, each.follower.id))


def _id_ms(operation_id: str) -> int:
    """Return the time in an id, in Unix milliseconds."""
    return int(operation_id[:8] + operation_id[9:13], 16)


def _read(name: str, values: Sequence[bytes | None]) -> _Started | None:
    """Return an operation, None if it changes no job, its jobs were named, or it is damaged."""
    action, selection, priority, created, state, dry_run, named, searched = (
        value or b"" for value in values
    )
    if dry_run == b"1" or (named and searched != b"1"):
        return None
    try:
        return _Started(
            int(created),
            Follower(name, BulkState(state.decode())),
            BulkAction(action.decode()),
            Selection.of_members(orjson.loads(selection)),
            int(priority or 0),
        )
    except ValueError:
        return None
