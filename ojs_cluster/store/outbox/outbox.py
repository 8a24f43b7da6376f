"""The outbox: effects that reach another shard than the transition that caused them.

A transition writes what it owes into its own shard's outbox, in the same script (see
``store/include/base/append_effect.lua``), and returns the entries. ``deliver`` carries them out at
once, for a second at most; whatever is left the scheduler's ``drain`` takes up after a grace
period. So an effect happens at least once, and every handler is idempotent. An entry that keeps
failing is tried ever more seldom, then parked where operators see it (``parked``); it is never
dropped and never blocks another.

An entry whose handler found a shard that does not answer waits for that shard, in a set of its own
(``keys.Shard.waiting``), and nothing is counted against it. So entries for a shard that is away
never stand before those for healthy shards, however many they are: each is read twice, and while
the shard is away one of them is tried at a time (``drain_waiting``, docs/adr/026). Reading the
shard from the entry instead was refused: a workflow or a batch reaches many shards, and only the
handler finds out which.

Entries are carried out in any order, many at a time: one batch may owe a thousand.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.sweeps.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

ATTEMPTS = 20
FIRST_PAUSE_MS = 500
LONGEST_PAUSE_MS = 5 * 60_000
AWAY_PAUSE_MS = 5_000
"""Time between two tries of a shard that does not answer, in ms."""
DELIVER_S = 1.0
"""How long a transition's caller waits for its effects, in seconds; then the drainer goes on."""
_WHY = 500
"""Characters that are kept of an error."""

Outcome = Literal["done", "failed", "away", "again"]
OnWaiting = Callable[[int, int], None]
"""Is told that entries of a shard (by index) wait for another, and the ms of the next try."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One outbox entry. ``attempts`` is how often it has failed."""

    shard: Shard
    number: str
    kind: str
    attempts: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Try:
    """What became of one try.

    Args:
        outcome: None when it could not be written down, or is not confirmed.
        blocker: index of the shard that did not answer (``keys.META`` for the meta tag), if known.
    """

    outcome: Outcome | None
    blocker: int | None = None


@dataclass(frozen=True, slots=True)
class _Tried:
    """What became of a try of a shard that entries wait for.

    Args:
        more: whether more of them could be carried out at once.
        next_ms: when shards are tried next because of it, in ms of the entries' shard.
    """

    more: bool
    next_ms: Sequence[int]


def entries(shard: Shard, flat: Sequence[bytes]) -> list[Entry]:
    """Entries from a script's reply: number, entry, number, entry..."""
    items = iter(flat)
    found = []
    for number, raw in zip(items, items, strict=True):
        kind, attempts, payload = raw.split(b" ", 2)
        found.append(Entry(shard, number.decode(), kind.decode(), int(attempts), payload))
    return found


async def deliver(store: Store, shard: Shard, flat: Sequence[bytes]) -> None:
    """Carry out what a script has just owed, for ``DELIVER_S`` at most. Never raises.

    What fails, or takes longer, is the drainer's. Effects for a shard that did not answer a moment
    ago fail at once. Where the shard is not known, or nothing is confirmed, the rest is left.
    """
    if not flat:
        return
    await ensure_task()
    stopped = False

    async def one(entry: Entry) -> None:
        nonlocal stopped
        if not stopped:
            tried = await _try(store, entry, shard.outbox_due)
            stopped = tried.outcome is None or (tried.outcome == "away" and tried.blocker is None)

    with trio.move_on_after(DELIVER_S):
        await _each(entries(shard, flat), one)


async def drain(
    store: Store, shard: Shard, limit: int, on_waiting: OnWaiting | None = None
) -> SweepResult:
    """Carry out up to ``limit`` due entries of a shard that wait for no other shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await store.run(
        shard, "outbox_due", [shard.outbox_due, shard.outbox], [limit], idempotent=True
    )
    found = entries(shard, reply[2:])
    blocked = await _try_all(store, shard.outbox_due, found, patient=False)
    for blocker, numbers in blocked.items():
        at_ms = await _put_off(store, shard, shard.outbox_due, blocker, numbers)
        if at_ms is not None and on_waiting is not None:
            on_waiting(shard.index, at_ms)
    return SweepResult(
        len(found), None if reply[1] < 0 else reply[1], reply[0], len(found) >= limit
    )


async def drain_waiting(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Try the shards that entries of ``shard`` wait for, and carry out what waits for those that
    answer: up to ``limit`` entries for each.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now, following, *due = await store.run(
        shard, "outbox_unreachable", [shard.outbox_blocked_shards], idempotent=True
    )
    moments = [] if following < 0 else [following]
    more = False

    async def one(raw: bytes) -> None:
        nonlocal more
        tried = await _try_shard(store, shard, int(raw), limit)
        more |= tried.more
        # What could not be written down is still due: it must not be tried without a pause.
        moments.extend(max(at_ms, now + FIRST_PAUSE_MS) for at_ms in tried.next_ms)

    await over_shards(due, one)
    return SweepResult(len(due), min(moments, default=None), now, more)


async def _try_shard(store: Store, shard: Shard, blocker: int, limit: int) -> _Tried:
    """Carry out what waits for one shard: one entry after the other until one shows that the shard
    answers, then the rest.

    An entry that another shard holds up shows nothing. Such a shard is noted (``away``), so the
    next ones that need it fail at once.
    """
    waiting, slot = shard.outbox_waiting(blocker), store.keys.slot_of_index(blocker)
    pause_ms, moments, more = AWAY_PAUSE_MS, [], False
    blocked: dict[int | None, list[str]] = {}
    if store.away.begin_probe(slot):
        try:
            reply = await store.run(
                shard, "outbox_due", [waiting, shard.outbox], [limit], idempotent=True
            )
            found = entries(shard, reply[2:])
            more, left = len(found) >= limit or reply[1] == reply[0], iter(found)
            for entry in left:
                held_up = await _try_all(store, waiting, [entry], patient=True, probed=slot)
                for other, numbers in held_up.items():
                    blocked.setdefault(other, []).extend(numbers)
                if not held_up or blocker in held_up:
                    break
        finally:
            # Entries of other shards need not wait for the rest: the shard answers, or is noted.
            store.away.end_probe(slot)
        if blocker not in blocked:
            pause_ms = 0
            rest = await _try_all(store, waiting, list(left), patient=True)
            for other, numbers in rest.items():
                blocked.setdefault(other, []).extend(numbers)
        if blocked.pop(blocker, None):
            pause_ms = AWAY_PAUSE_MS
        for other, numbers in blocked.items():
            moments.append(await _put_off(store, shard, waiting, other, numbers))
    args = [blocker, pause_ms]
    at_ms = await store.run(
        shard, "outbox_retried", [shard.outbox_blocked_shards, waiting], args, idempotent=True
    )
    moments.append(at_ms if at_ms >= 0 else None)
    return _Tried(pause_ms == 0 and more, [at for at in moments if at is not None])


async def _put_off(
    store: Store, shard: Shard, index: bytes, blocker: int | None, numbers: Sequence[str]
) -> int | None:
    """Let entries of ``index`` wait for a shard, or for a while where none is known.

    Returns the ms at which that shard is tried again. Never raises: entries that cannot be moved
    are tried again where they are.
    """
    with suppress(BackendUnavailable):
        if blocker is not None and blocker != shard.index:
            keys = [index, shard.outbox_waiting(blocker), shard.outbox_blocked_shards]
            at_ms = await store.run(
                shard, "outbox_wait", keys, [blocker, AWAY_PAUSE_MS, *numbers], idempotent=True
            )
            return int(at_ms)
        for number in numbers:
            await settle(store, shard, number, "away", index=index)
    return None


async def _try_all(
    store: Store,
    index: bytes,
    found: Sequence[Entry],
    *,
    patient: bool,
    probed: int | None = None,
) -> dict[int | None, list[str]]:
    """Carry entries out; returns the numbers of those that could not be, by the shard at fault."""
    blocked: dict[int | None, list[str]] = {}

    async def one(entry: Entry) -> None:
        tried = await _try(store, entry, index, patient=patient, probed=probed)
        if tried.outcome == "away":
            blocked.setdefault(tried.blocker, []).append(entry.number)

    await _each(found, one)
    return blocked


async def _each(found: Sequence[Entry], one: Callable[[Entry], Awaitable[None]]) -> None:
    if len(found) == 1:
        await one(found[0])  # nearly always: without a nursery
    elif found:
        await over_shards(found, one)


async def _try(
    store: Store,
    entry: Entry,
    index: bytes,
    *,
    patient: bool = False,
    probed: int | None = None,
) -> _Try:
    """Carry out an entry, which is in ``index``, and write down what became of it."""
    handler = store.effects.get(entry.kind, _unknown)
    watched, client = store.for_effect(patient=patient, probed=probed)
    outcome: Outcome
    try:
        await handler(watched, entry.shard, entry.payload)
    except BackendUnavailable:
        # Nothing is wrong with the entry.
        slot = client.failed_slot
        return _Try("away", None if slot is None else store.keys.index_of_slot(slot))
    except Exception as error:
        log.warning("effect %s of shard %d failed", entry.kind, entry.shard.index, exc_info=error)
        outcome, why = "failed", f"{type(error).__name__}: {error}"[:_WHY]
    else:
        if has_unconfirmed_writes():
            return _Try(None)  # a node may still forget what was done; the drainer sees to it
        outcome, why = "done", ""
    try:
        result = await settle(store, entry.shard, entry.number, outcome, why, index=index)
    except BackendUnavailable:
        return _Try(None)  # it will be carried out once more, which changes nothing
    if result == b"parked":
        log.error(
            "effect %s of shard %d is parked after %d attempts",
            entry.kind,
            entry.shard.index,
            ATTEMPTS,
        )
    return _Try(outcome)


async def _unknown(_store: Store, shard: Shard, _payload: bytes) -> None:
    # A newer version wrote it: whoever knows the kind will take it up.
    raise LookupError(f"an effect of shard {shard.index} is of an unknown kind")


async def settle(
    store: Store,
    shard: Shard,
    number: str,
    outcome: Outcome,
    why: str = "",
    *,
    index: bytes | None = None,
) -> bytes:
    """Write down what became of a try, as ``store/outbox/outbox_settle.lua`` says.

    Args:
        index: the sorted set that the entry is in, ``out`` unless told otherwise.
    """
    first_ms = AWAY_PAUSE_MS if outcome == "away" else FIRST_PAUSE_MS
    reply: bytes = await store.run(
        shard,
        "outbox_settle",
        [index or shard.outbox_due, shard.outbox, shard.outbox_dead_letters],
        [number, outcome, ATTEMPTS, first_ms, LONGEST_PAUSE_MS, why],
        idempotent=outcome != "failed",
    )
    return reply
