"""Outbox entries that have had their attempts: for operators to look at and to try again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.keys import Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.outbox.outbox import Entry, entries, settle

MOST_RETRIED = 1000
"""Entries that one request tries again."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked entry, the ms of its last try, and the error that this ended with."""

    entry: Entry
    tried_ms: int
    error: str

    @property
    def id(self) -> str:
        """Names the entry in the whole cluster."""
        return f"{self.entry.shard.index}-{self.entry.number}"


async def count(store: Store) -> int:
    """How many entries are parked.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    total = 0

    async def look(shard: Shard) -> None:
        nonlocal total
        here: Any = await store.redis.call(
            shard.slot, "ZCARD", shard.outbox_dead_letters, idempotent=True
        )
        total += here

    await over_shards(store.keys, look)
    return total


async def list_parked(
    store: Store, *, limit: int, cursor: str | None = None
) -> tuple[list[Parked], str | None]:
    """Parked entries, shard after shard, the oldest of each first; and the next page's cursor.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time.
    """
    index, score, skip = _place(cursor, len(store.keys)) if cursor else (0, 0, 0)
    found: list[Parked] = []
    while index < len(store.keys):
        page = await _page(store, store.keys.shard(index), score, skip, limit - len(found))
        for parked in page:
            score, skip = parked.tried_ms, skip + 1 if parked.tried_ms == score else 1
        found += page
        if len(found) >= limit:
            return found, cursors.encode([index, score, skip])
        if not page:  # one that is not full may only have been large
            index, score, skip = index + 1, 0, 0
    return found, None


async def retry(store: Store, ids: Iterable[str]) -> tuple[int, list[str]]:
    """Try parked entries anew, all their attempts before them; the scheduler carries them out.

    Returns how many there are, and the ids of which there is none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    unknown: list[str] = []
    retried = 0

    async def again(name: str) -> None:
        nonlocal retried
        index, _, number = name.partition("-")
        known = index.isdecimal() and number.isdecimal() and len(name) < 40
        if known and int(index) < len(store.keys):
            shard = store.keys.shard(int(index))
            if await settle(store, shard, number, "again") != b"gone":
                retried += 1
                return
        unknown.append(name)

    await over_shards(dict.fromkeys(ids), again)
    return retried, unknown


async def retry_all(store: Store) -> tuple[int, int]:
    """Try all anew, ``MOST_RETRIED`` at most; returns how many that were and how many are left.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found, _ = await list_parked(store, limit=MOST_RETRIED)
    retried, _ = await retry(store, [parked.id for parked in found])
    return retried, await count(store)


async def _page(store: Store, shard: Shard, score: int, skip: int, limit: int) -> list[Parked]:
    reply = await store.run(
        shard,
        "outbox_dead_letters",
        [shard.outbox_dead_letters, shard.outbox],
        [score, skip, limit],
        idempotent=True,
    )
    page: list[Parked] = []
    for at in range(0, len(reply), 4):
        number, tried, raw, error = reply[at : at + 4]
        [entry] = entries(shard, [number, raw])
        page.append(Parked(entry, int(float(tried)), error.decode(errors="replace")))
    return page


def _place(text: str, shards: int) -> tuple[int, int, int]:
    match cursors.decode(text):
        case [int(index), int(score), int(skip)] if cursors.are_numbers((index, score, skip)):
            if index < shards and skip < 2**31:
                return index, score, skip
    raise InvalidRequest("cursor is not one that this server gave", field="cursor")
