"""The outbox: effects that reach another shard than the transition that caused them.

A transition writes what it owes into its own shard's outbox, in the same script (see
``lua/include/effect.lua``), and returns the entries. ``deliver`` carries them out at once; whatever
is left, because this process or its connection died in between, the scheduler's ``drain`` takes up
after a grace period. So an effect happens at least once, and every handler is idempotent. An entry
that keeps failing is tried ever more seldom, then parked where operators see it; it is never
dropped and never blocks another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.tick import Tick

log = logging.getLogger(__name__)

ATTEMPTS = 20
FIRST_PAUSE_MS = 500
LONGEST_PAUSE_MS = 5 * 60_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One outbox entry. ``attempts`` is how often it has failed."""

    shard: Shard
    number: str
    kind: str
    attempts: int
    payload: bytes


def entries(shard: Shard, flat: Sequence[bytes]) -> list[Entry]:
    """Entries from a script's reply: number, entry, number, entry..."""
    items = iter(flat)
    found = []
    for number, raw in zip(items, items, strict=True):
        kind, attempts, payload = raw.split(b" ", 2)
        found.append(Entry(shard, number.decode(), kind.decode(), int(attempts), payload))
    return found


async def deliver(store: Store, shard: Shard, flat: Sequence[bytes]) -> None:
    """Carry out what a script has just owed. Never raises: what fails is the drainer's."""
    for entry in entries(shard, flat):
        await _try(store, entry)


async def drain(store: Store, shard: Shard, limit: int) -> Tick:
    """Carry out up to ``limit`` due entries of a shard.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    reply = await store.run(
        shard, "outbox_due", [shard.out, shard.outbox], [limit], idempotent=True
    )
    found = entries(shard, reply[2:])
    for entry in found:
        await _try(store, entry)
    return Tick(len(found), None if reply[1] < 0 else reply[1], reply[0], len(found) >= limit)


async def parked(store: Store, shard: Shard, limit: int) -> list[Entry]:
    """Entries that have had their attempts, oldest first."""
    numbers: Any = await store.redis.call(
        shard.slot, "ZRANGE", shard.parked, 0, limit - 1, idempotent=True
    )
    found: list[bytes] = []
    for number in numbers:
        raw = await store.redis.call(shard.slot, "HGET", shard.outbox, number, idempotent=True)
        if isinstance(raw, bytes):
            found += (number, raw)
    return entries(shard, found)


async def retry_parked(store: Store, shard: Shard, number: str) -> None:
    """Try a parked entry anew, all its attempts before it.

    Raises
    ------
    NotFound: there is no such entry.
    """
    if await _settle(store, shard, number, "again") == b"gone":
        raise NotFound("outbox entry", f"{shard.index}-{number}")


async def _try(store: Store, entry: Entry) -> None:
    handler = store.effects.get(entry.kind, _unknown)
    try:
        await handler(store, entry.shard, entry.payload)
    except BackendUnavailable:
        return  # the entry stays due; nothing is wrong with it
    except Exception as error:
        log.warning("effect %s of shard %d failed", entry.kind, entry.shard.index, exc_info=error)
        outcome = "failed"
    else:
        outcome = "done"
    try:
        result = await _settle(store, entry.shard, entry.number, outcome)
    except BackendUnavailable:
        return  # it will be carried out once more, which changes nothing
    if result == b"parked":
        log.error(
            "effect %s of shard %d is parked after %d attempts",
            entry.kind,
            entry.shard.index,
            ATTEMPTS,
        )


async def _unknown(_store: Store, shard: Shard, _payload: bytes) -> None:
    # A newer version wrote it: whoever knows the kind will take it up.
    raise LookupError(f"an effect of shard {shard.index} is of an unknown kind")


async def _settle(store: Store, shard: Shard, number: str, outcome: str) -> bytes:
    reply: bytes = await store.run(
        shard,
        "outbox_settle",
        [shard.out, shard.outbox, shard.parked],
        [number, outcome, ATTEMPTS, FIRST_PAUSE_MS, LONGEST_PAUSE_MS],
        idempotent=outcome != "failed",
    )
    return reply
