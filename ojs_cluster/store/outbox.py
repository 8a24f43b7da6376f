"""The outbox: effects that reach another shard than the transition that caused them.

A transition writes what it owes into its own shard's outbox, in the same script (see
``lua/include/effect.lua``), and returns the entries. ``deliver`` carries them out at once; whatever
is left, because this process or its connection died in between, the scheduler's ``drain`` takes up
after a grace period. So an effect happens at least once, and every handler is idempotent. An entry
that keeps failing is tried ever more seldom, then parked where operators see it (``parked``); it is
never dropped and never blocks another. Nor does one whose shard does not answer: it goes behind the
others, and nothing is counted against it.

Entries are carried out in any order, many at a time: one batch may owe a thousand.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.durability import doubtful
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.tick import Tick

log = logging.getLogger("ojs.store")

ATTEMPTS = 20
FIRST_PAUSE_MS = 500
LONGEST_PAUSE_MS = 5 * 60_000
AWAY_PAUSE_MS = 5_000
_WHY = 500
"""Characters that are kept of an error."""

Outcome = Literal["done", "failed", "away", "again"]


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
    """Carry out what a script has just owed. Never raises: what fails is the drainer's.

    So is all the rest once a shard did not answer or confirm: each of a thousand would wait
    as long again.
    """
    waited = False

    async def one(entry: Entry) -> None:
        nonlocal waited
        if not waited:
            waited = await _try(store, entry) in ("away", None)

    await _each(entries(shard, flat), one)


async def drain(store: Store, shard: Shard, limit: int) -> Tick:
    """Carry out up to ``limit`` due entries of a shard.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    reply = await store.run(
        shard, "outbox_due", [shard.out, shard.outbox], [limit], idempotent=True
    )

    async def one(entry: Entry) -> None:
        if await _try(store, entry) == "away":
            with suppress(BackendUnavailable):
                await settle(store, shard, entry.number, "away")

    found = entries(shard, reply[2:])
    await _each(found, one)
    return Tick(len(found), None if reply[1] < 0 else reply[1], reply[0], len(found) >= limit)


async def _each(found: Sequence[Entry], one: Callable[[Entry], Awaitable[None]]) -> None:
    if len(found) == 1:
        await one(found[0])  # nearly always: without a nursery
    elif found:
        await over_shards(found, one)


async def _try(store: Store, entry: Entry) -> Outcome | None:
    """Carry an entry out. Returns what became of it, None when that could not be written down."""
    handler = store.effects.get(entry.kind, _unknown)
    outcome: Outcome
    try:
        await handler(store, entry.shard, entry.payload)
    except BackendUnavailable:
        return "away"  # nothing is wrong with it
    except Exception as error:
        log.warning("effect %s of shard %d failed", entry.kind, entry.shard.index, exc_info=error)
        outcome, why = "failed", f"{type(error).__name__}: {error}"[:_WHY]
    else:
        if doubtful():
            return None  # a node may still forget what was done; the drainer sees to it
        outcome, why = "done", ""
    try:
        result = await settle(store, entry.shard, entry.number, outcome, why)
    except BackendUnavailable:
        return None  # it will be carried out once more, which changes nothing
    if result == b"parked":
        log.error(
            "effect %s of shard %d is parked after %d attempts",
            entry.kind,
            entry.shard.index,
            ATTEMPTS,
        )
    return outcome


async def _unknown(_store: Store, shard: Shard, _payload: bytes) -> None:
    # A newer version wrote it: whoever knows the kind will take it up.
    raise LookupError(f"an effect of shard {shard.index} is of an unknown kind")


async def settle(store: Store, shard: Shard, number: str, outcome: Outcome, why: str = "") -> bytes:
    """Write down what became of a try, as ``lua/outbox_settle.lua`` says."""
    first_ms = AWAY_PAUSE_MS if outcome == "away" else FIRST_PAUSE_MS
    reply: bytes = await store.run(
        shard,
        "outbox_settle",
        [shard.out, shard.outbox, shard.parked],
        [number, outcome, ATTEMPTS, first_ms, LONGEST_PAUSE_MS, why],
        idempotent=outcome != "failed",
    )
    return reply
