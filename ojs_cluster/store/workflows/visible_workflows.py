"""The workflows that a reader of some queues may see.

A workflow is in reach when the queues of all its jobs are, and its plan alone tells them. Nobody
counts workflows by queue, so a page is a bounded look at the newest ones after its cursor.
"""

from __future__ import annotations

from typing import Any, Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import WIDTH, over_shards
from ojs_cluster.store.workflows.workflows import WorkflowRecord, get

MOST_LOOKED_AT: Final = 500
"""Workflows that one page looks at, whatever the key may reach."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Bytes of records after which a page ends."""

_Place = tuple[int, str]
"""Creation in milliseconds and id; the list goes from high to low."""
_FIRST: Final[_Place] = (2**53, "")


async def list_within(
    store: Store, within: QueuePatterns, *, limit: int, cursor: str | None = None
) -> tuple[list[WorkflowRecord], str | None]:
    """Return workflows in reach, newest first, without their jobs, and the next page's cursor.

    A page may hold fewer than ``limit`` and still have a cursor.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time.
    """
    place = _parse(cursor) if cursor else _FIRST
    found: list[WorkflowRecord] = []
    looked_at = size = 0
    while True:
        newest = await _after(store, place, WIDTH)
        records = await _read(store, newest)
        for candidate in newest:
            place, looked_at = candidate, looked_at + 1
            record = records.get(candidate[1])
            if record is not None:
                size += len(record.fields.get(b"plan", b""))
                if all(within.admits(node.queue) for node in record.plan.jobs):
                    found.append(record)
            if len(found) >= limit or looked_at >= MOST_LOOKED_AT or size >= MOST_BYTES:
                return found, cursors.encode(place)
        if len(newest) < WIDTH:
            return found, None


async def _after(store: Store, place: _Place, most: int) -> list[_Place]:
    """Return the next workflows of all shards after ``place``."""
    newest: list[_Place] = []

    async def read(shard: Shard) -> None:
        newest.extend(await _after_in(store, shard, place, most))

    await over_shards(store.keys, read)
    newest.sort(reverse=True)
    return newest[:most]


async def _after_in(store: Store, shard: Shard, place: _Place, most: int) -> list[_Place]:
    """Return the next workflows of one shard. Those of the same millisecond are passed over."""
    found: list[_Place] = []
    skip = 0
    while len(found) < most:
        flat: Any = await store.redis.call(
            shard.slot,
            *("ZRANGE", shard.workflows, place[0], "-inf", "BYSCORE", "REV"),
            *("LIMIT", skip, most, "WITHSCORES"),
            idempotent=True,
        )
        items = iter(flat)
        for name, score in zip(items, items, strict=True):
            candidate = int(float(score)), name.decode()
            if candidate < place:
                found.append(candidate)
        skip += most
        if len(flat) < 2 * most:
            break
    return found[:most]


async def _read(store: Store, places: list[_Place]) -> dict[str, WorkflowRecord]:
    found: dict[str, WorkflowRecord] = {}

    async def look(place: _Place) -> None:
        try:
            found[place[1]] = await get(store, place[1], jobs=False)
        except NotFound:
            return  # its retention ended meanwhile

    await over_shards(places, look)
    return found


def _parse(text: str) -> _Place:
    match cursors.decode(text):
        case [int(created_ms), str(workflow_id)] if cursors.are_numbers((created_ms,)):
            if is_job_id(workflow_id):
                return created_ms, workflow_id
    raise InvalidRequest("cursor is not one that this server issued", field="cursor")
