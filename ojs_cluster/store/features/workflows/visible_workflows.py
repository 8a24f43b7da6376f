"""List the workflows that a reader of some queues may see, or those in one state.

A workflow is visible when the reader may see the queues of all its jobs. Only the record of the
workflow names these queues; there is no index of workflows by queue or state. So a page reads up to
``MAX_WORKFLOWS_READ`` workflows after its cursor and leaves out those that do not match.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest, MalformedRecord, NotFound
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord, get
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.fanout import WIDTH, run_concurrently

MAX_WORKFLOWS_READ: Final = 500
"""Maximum number of workflows that one page reads, visible or not."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Number of bytes of workflow records after which a page ends."""

_Position = tuple[int, str]
"""Unix time of creation in ms, and id. Pages list workflows by descending position."""
_FIRST: Final[_Position] = (2**53, "")
"""A position before every workflow: no time in ms reaches 2**53."""


async def list_visible(
    store: Store,
    within: QueuePatterns | None,
    *,
    limit: int,
    cursor: str | None = None,
    state: str | None = None,
    tenant: str | None = None,
) -> tuple[list[WorkflowRecord], str | None]:
    """Return visible workflows, newest first, without their jobs, and the next page's cursor.

    A page may hold fewer than ``limit`` and still have a cursor.

    Args:
        store: the store.
        within: the queues that the reader may see, None for all.
        limit: maximum number of workflows of the page.
        cursor: the cursor that the page before returned; None for the first page.
        state: the state of the workflows, None for any.
        tenant: the tenant of the workflows, None for any.

    Raises:
        InvalidRequest: this server did not issue the cursor.
        BackendUnavailable: Redis did not answer in time.
    """
    position = _parse_cursor(cursor) if cursor else _FIRST
    found: list[WorkflowRecord] = []
    read = size = 0
    while True:
        newest = await _read_positions(store, position, WIDTH)
        records = await _read_records(store, newest)
        for position in newest:
            read += 1
            record = records.get(position[1])
            if record is not None:
                size += len(record.fields.get(b"plan", b""))
                visible = within is None or all(map(within.admits, record.queues))
                visible = visible and tenant in (None, record.plan.tenant)
                if visible and state in (None, record.state):
                    found.append(record)
            if len(found) >= limit or read >= MAX_WORKFLOWS_READ or size >= MAX_BYTES:
                return found, cursors.encode(position)
        if len(newest) < WIDTH:
            return found, None


async def _read_positions(store: Store, position: _Position, limit: int) -> list[_Position]:
    """Return the positions of the next workflows of all shards after ``position``."""
    newest: list[_Position] = []

    async def read(shard: Shard) -> None:
        newest.extend(await _read_positions_of_shard(store, shard, position, limit))

    await run_concurrently(store.keys, read)
    newest.sort(reverse=True)
    return newest[:limit]


async def _read_positions_of_shard(
    store: Store, shard: Shard, position: _Position, limit: int
) -> list[_Position]:
    """Return the positions of the next workflows of one shard after ``position``.

    Redis can start at a time, but not at an id. So this reads also the workflows that were created
    in the same millisecond as ``position`` and were on an earlier page.
    """
    positions: list[_Position] = []
    skip = 0
    while len(positions) < limit:
        flat: Any = await store.redis.call(
            shard.slot,
            *("ZRANGE", shard.workflows, position[0], "-inf", "BYSCORE", "REV"),
            *("LIMIT", skip, limit, "WITHSCORES"),
            idempotent=True,
        )
        items = iter(flat)
        for name, score in zip(items, items, strict=True):
            listed = int(float(score)), name.decode(errors="replace")
            if listed < position:
                positions.append(listed)
        skip += limit
        if len(flat) < 2 * limit:
            break
    return positions[:limit]


async def _read_records(store: Store, positions: list[_Position]) -> dict[str, WorkflowRecord]:
    found: dict[str, WorkflowRecord] = {}

    async def read(position: _Position) -> None:
        # Its retention may have ended since. A malformed workflow is left out.
        with suppress(NotFound, MalformedRecord):
            found[position[1]] = await get(store, position[1], jobs=False)

    await run_concurrently(positions, read)
    return found


def _parse_cursor(text: str) -> _Position:
    match cursors.decode(text):
        case [int(created_ms), str(workflow_id)] if cursors.are_numbers((created_ms,)):
            if is_job_id(workflow_id):
                return created_ms, workflow_id
    raise InvalidRequest("cursor is not one that this server issued", field="cursor")
