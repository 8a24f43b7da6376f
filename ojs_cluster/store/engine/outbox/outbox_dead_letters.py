"""Outbox dead letters: effects that failed too often, which operators inspect and retry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import OutboxEntry, parse_entries, record_attempt
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.fanout import run_concurrently

MAX_RETRIED = 1000
"""Maximum number of entries that one request retries."""


@dataclass(frozen=True, slots=True)
class OutboxDeadLetter:
    """An effect that failed too often.

    Args:
        entry: the outbox entry.
        tried_ms: Unix time of its last attempt in ms.
        error: the error of that attempt.
    """

    entry: OutboxEntry
    tried_ms: int
    error: str

    @property
    def id(self) -> str:
        """The id of the entry, unique in the whole cluster."""
        return f"{self.entry.shard.index}-{self.entry.number}"


async def count(store: Store) -> int:
    """Return the number of outbox dead letters.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    total = 0

    async def count_shard(shard: Shard) -> None:
        nonlocal total
        found: Any = await store.redis.call(
            shard.slot, "ZCARD", shard.outbox_dead_letters, idempotent=True
        )
        total += found

    await run_concurrently(store.keys, count_shard)
    return total


async def list_dead_letters(
    store: Store, *, limit: int, cursor: str | None = None
) -> tuple[list[OutboxDeadLetter], str | None]:
    """Return outbox dead letters shard by shard, oldest first, and the next page's cursor.

    Args:
        store: the store.
        limit: maximum number of entries of the page.
        cursor: the cursor that the page before returned; None for the first page.

    Raises:
        InvalidRequest: this server did not issue the cursor.
        BackendUnavailable: Redis did not answer in time.
    """
    # A cursor has the index of a shard, the score of the last entry (the time of its last attempt),
    # and how many entries with this score were returned already.
    index, score, skip = _parse_cursor(cursor, len(store.keys)) if cursor else (0, 0, 0)
    found: list[OutboxDeadLetter] = []
    while index < len(store.keys):
        page = await _page(store, store.keys.shard(index), score, skip, limit - len(found))
        for dead_letter in page:
            score, skip = dead_letter.tried_ms, skip + 1 if dead_letter.tried_ms == score else 1
        found += page
        if len(found) >= limit:
            return found, cursors.encode([index, score, skip])
        if not page:  # a page with few entries may have reached its limit of bytes
            index, score, skip = index + 1, 0, 0
    return found, None


async def retry(store: Store, ids: Iterable[str]) -> tuple[int, list[str]]:
    """Give outbox dead letters all their attempts again; the scheduler delivers them.

    Args:
        store: the store.
        ids: ids of dead letters.

    Returns:
        The number of dead letters that are retried, and the ids without a dead letter.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    unknown: list[str] = []
    retried = 0

    async def retry_one(name: str) -> None:
        nonlocal retried
        index, _, number = name.partition("-")
        known = index.isdecimal() and number.isdecimal() and len(name) < 40
        if known and int(index) < len(store.keys):
            shard = store.keys.shard(int(index))
            if await record_attempt(store, shard, number, "retry") != b"gone":
                retried += 1
                return
        unknown.append(name)

    await run_concurrently(dict.fromkeys(ids), retry_one)
    return retried, unknown


async def retry_all(store: Store) -> tuple[int, int]:
    """Retry up to ``MAX_RETRIED`` outbox dead letters, shard by shard, oldest first.

    Returns:
        The number of dead letters that are retried, and the number that remain.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found, _ = await list_dead_letters(store, limit=MAX_RETRIED)
    retried, _ = await retry(store, [dead_letter.id for dead_letter in found])
    return retried, await count(store)


async def _page(
    store: Store, shard: Shard, score: int, skip: int, limit: int
) -> list[OutboxDeadLetter]:
    reply = await store.run(
        shard,
        "outbox_dead_letters",
        [shard.outbox_dead_letters, shard.outbox],
        [score, skip, limit],
        idempotent=True,
    )
    page: list[OutboxDeadLetter] = []
    items = iter(reply)
    for number, tried, raw, error in zip(items, items, items, items, strict=True):
        [entry] = parse_entries(shard, [number, raw])
        page.append(OutboxDeadLetter(entry, int(float(tried)), error.decode(errors="replace")))
    return page


def _parse_cursor(text: str, shards: int) -> tuple[int, int, int]:
    match cursors.decode(text):
        case [int(index), int(score), int(skip)] if cursors.are_numbers((index, score, skip)):
            if index < shards and skip < 2**31:
                return index, score, skip
    raise InvalidRequest("cursor is not one that this server issued", field="cursor")
