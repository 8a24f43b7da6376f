"""The outbox: effects in other shards than the transition that causes them.

A transition appends its effects to its own shard's outbox, in the same script (see
``store/include/base/append_effect.lua``), and returns the entries. ``deliver`` delivers them at
once, for a second at most. The scheduler's ``drain`` delivers the rest after a grace period. So an
effect happens at least once, and every handler is idempotent. An entry that keeps failing is tried
at growing intervals, then becomes a dead letter that operators see (``outbox_dead_letters``). It is
never dropped and never blocks another entry.

A *blocked* entry needs a shard that does not answer. It is moved to a set of entries that wait for
this shard (``keys.Shard.outbox_waiting``), and its attempts are not counted. So blocked entries
never delay entries for healthy shards. While the shard is unreachable, one blocked entry at a time
is tried (``drain_blocked``, docs/adr/026). (Rejected: to read the shard from the entry. The effect
of a workflow or a batch writes to many shards, and only its handler knows which.)

Entries are delivered in any order, many at a time, because one batch may cause a thousand entries.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, TypeVar

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

ATTEMPTS = 20
"""Number of failed attempts after which an entry becomes a dead letter."""
FIRST_PAUSE_MS = 500
"""Time in ms between the first and the second attempt. Each further pause is twice as long."""
LONGEST_PAUSE_MS = 5 * 60_000
"""Longest time in ms between two attempts."""
UNREACHABLE_PAUSE_MS = 5_000
"""Time between two attempts to reach a shard that does not answer, in milliseconds."""
DELIVER_S = 1.0
"""How long a transition's caller waits for its effects, in seconds."""
RECORD_DELAY_S = 0.05
"""How long the numbers of delivered entries are collected, in seconds; 0 records them at once.

One script then removes the entries of many transitions. The time is far below the grace period
after which the scheduler delivers an entry again. If the process dies before, that happens, and
changes nothing."""
_MAX_RECORDED = 500
"""Maximum number of entries that one script removes."""
_JOINED: Final = {"token_return": 2, "token_start": 1}
"""Effects whose payload ends with a list, by the number of words before it.

One call delivers those of a script with the same words before the list."""
_MAX_JOINED = 200
"""Maximum number of entries that one call delivers together."""
_MAX_ERROR_LENGTH = 500
"""Maximum number of characters of an error that are stored."""

T = TypeVar("T")
RecordedOutcome = Literal["failed", "unreachable", "retry"]
OnBlocked = Callable[[int, int], None]
"""Called when entries of a shard begin to wait for an unreachable shard.

The arguments are the index of the entries' shard, and the Unix time of the next attempt in ms."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One outbox entry.

    Args:
        shard: the shard of the outbox.
        number: number of the entry in that outbox.
        kind: kind of the effect, which names its handler (``effects``).
        attempts: number of failed attempts.
        payload: argument of the handler.
    """

    shard: Shard
    number: str
    kind: str
    attempts: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class _AttemptResult:
    """The result of one attempt to deliver an entry.

    Args:
        outcome: the outcome; None when it could not be recorded, or when its writes are
            unconfirmed.
        blocker: index of the shard that did not answer (``keys.META`` for the meta tag); None when
            all shards answered or when it is unknown.
    """

    outcome: Literal["delivered", "failed", "unreachable"] | None
    blocker: int | None = None


@dataclass(frozen=True, slots=True)
class _BlockedShardResult:
    """The result of an attempt to reach a shard that entries wait for.

    Args:
        more: whether more waiting entries can be delivered at once.
        next_ms: Unix times in ms, by the clock of the entries' shard, when shards are tried next.
    """

    more: bool
    next_ms: Sequence[int]


def parse_entries(shard: Shard, flat: Sequence[bytes]) -> list[OutboxEntry]:
    """Return the entries of a script's reply.

    Args:
        shard: the shard of the outbox.
        flat: number and encoded entry of each entry, alternating.
    """
    items = iter(flat)
    entries = []
    for number, raw in zip(items, items, strict=True):
        kind, attempts, payload = raw.split(b" ", 2)
        entries.append(OutboxEntry(shard, number.decode(), kind.decode(), int(attempts), payload))
    return entries


def _join(entries: Sequence[OutboxEntry]) -> list[list[OutboxEntry]]:
    """Group entries: one call delivers each group."""
    groups: list[list[OutboxEntry]] = []
    last: dict[tuple[str, ...], list[OutboxEntry]] = {}
    for entry in entries:
        words = _JOINED.get(entry.kind)
        if words is None:
            groups.append([entry])
            continue
        same = (entry.kind, *entry.payload.decode().split(" ", words)[:words])
        if len(last.get(same, ())) % _MAX_JOINED == 0:
            last[same] = []
            groups.append(last[same])
        last[same].append(entry)
    return groups


def _joined(entries: Sequence[OutboxEntry]) -> OutboxEntry:
    """Return the first of several entries of a group, with the lists of all."""
    words = _JOINED[entries[0].kind]
    lists = [entry.payload.split(b" ", words)[words] for entry in entries[1:]]
    return replace(entries[0], payload=b" ".join([entries[0].payload, *lists]))


async def deliver(store: Store, shard: Shard, flat: Sequence[bytes]) -> None:
    """Deliver the effects that a script has just appended, for at most ``DELIVER_S``. Never raises.

    The scheduler delivers what fails or takes longer. Effects for a shard known to be unreachable
    fail at once. When the unreachable shard is unknown, or a write is unconfirmed, the remaining
    effects are left to the scheduler, too.

    Args:
        store: the store.
        shard: the shard of the outbox.
        flat: the entries, as the script returned them.
    """
    if not flat:
        return
    await ensure_task()
    stopped, delivered = False, list[str]()

    async def deliver_group(group: list[OutboxEntry]) -> None:
        nonlocal stopped
        if not stopped:
            entry = group[0] if len(group) == 1 else _joined(group)
            result = await _attempt(store, entry, shard.outbox_due, delivered)
            if result.outcome == "delivered":
                delivered.extend(entry.number for entry in group[1:])
            blocked_by_unknown = result.outcome == "unreachable" and result.blocker is None
            stopped = result.outcome is None or blocked_by_unknown

    with trio.move_on_after(DELIVER_S):
        await _for_each(_join(parse_entries(shard, flat)), deliver_group)
    if delivered and RECORD_DELAY_S > 0:
        store.delivered_entries.setdefault(shard.index, []).extend(delivered)
        record = partial(_record_collected, store, shard)
        await store.background.once(("delivered entries", shard.index), record, 0)
        return
    with trio.move_on_after(DELIVER_S):
        await _record_delivered(store, shard, shard.outbox_due, delivered)


async def _record_collected(store: Store, shard: Shard) -> None:
    """Remove the entries of a shard that this process has delivered lately.

    The numbers must not wait for longer than ``DELIVER_S``: if the master dies and its replica has
    not got the entries, other entries get their numbers.
    """
    await trio.sleep(RECORD_DELAY_S)
    while numbers := store.delivered_entries.pop(shard.index, None):
        for start in range(0, len(numbers), _MAX_RECORDED):
            portion = numbers[start : start + _MAX_RECORDED]
            with trio.move_on_after(DELIVER_S) as scope:
                await _record_delivered(store, shard, shard.outbox_due, portion)
            if scope.cancelled_caught:
                store.delivered_entries.pop(shard.index, None)
                return


async def drain(
    store: Store, shard: Shard, limit: int, on_blocked: OnBlocked | None = None
) -> SweepResult:
    """Deliver up to ``limit`` due entries of a shard, except the blocked entries.

    Args:
        store: the store.
        shard: the shard of the outbox.
        limit: maximum number of entries.
        on_blocked: called for each unreachable shard that has blocked entries in this call.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await store.run(
        shard, "outbox_due", [shard.outbox_due, shard.outbox], [limit], idempotent=True
    )
    entries = parse_entries(shard, reply[2:])
    blocked = await _attempt_all(store, shard.outbox_due, entries, patient=False)
    for blocker, numbers in blocked.items():
        at_ms = await _block_entries(store, shard, shard.outbox_due, blocker, numbers)
        if at_ms is not None and on_blocked is not None:
            on_blocked(shard.index, at_ms)
    return SweepResult(
        len(entries), None if reply[1] < 0 else reply[1], reply[0], len(entries) >= limit
    )


async def drain_blocked(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Try the unreachable shards that entries of ``shard`` wait for.

    Entries that wait for a shard which answers again are delivered.

    Args:
        store: the store.
        shard: the shard of the outbox.
        limit: maximum number of entries for each unreachable shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now, following, *due = await store.run(
        shard, "outbox_blocked_shards", [shard.outbox_blocked_shards], idempotent=True
    )
    times_ms = [] if following < 0 else [following]
    more = False

    async def try_shard(raw: bytes) -> None:
        nonlocal more
        result = await _try_blocked_shard(store, shard, int(raw), limit)
        more |= result.more
        # If recording failed, the shard is still due. The pause prevents attempts without a break.
        times_ms.extend(max(at_ms, now + FIRST_PAUSE_MS) for at_ms in result.next_ms)

    await run_concurrently(due, try_shard)
    return SweepResult(len(due), min(times_ms, default=None), now, more)


async def _try_blocked_shard(
    store: Store, shard: Shard, blocker: int, limit: int
) -> _BlockedShardResult:
    """Deliver entries that wait for one unreachable shard, if it answers again.

    The entries are tried one after the other until one attempt shows whether the shard answers. If
    it answers, the other entries are tried concurrently. An entry may also be blocked by another
    shard, which shows nothing about the first. That other shard is then recorded as unreachable, so
    further entries that need it fail at once.
    """
    waiting, slot = shard.outbox_waiting(blocker), store.keys.slot_of_index(blocker)
    pause_ms, times_ms, more = UNREACHABLE_PAUSE_MS, [], False
    blocked: dict[int | None, list[str]] = {}
    if store.unreachable_shards.begin_probe(slot):
        try:
            reply = await store.run(
                shard, "outbox_due", [waiting, shard.outbox], [limit], idempotent=True
            )
            entries = parse_entries(shard, reply[2:])
            # The script returns its own time as the next time when its reply was full.
            more, remaining = len(entries) >= limit or reply[1] == reply[0], iter(entries)
            for entry in remaining:
                failed = await _attempt_all(store, waiting, [entry], patient=True, probed=slot)
                for other, numbers in failed.items():
                    blocked.setdefault(other, []).extend(numbers)
                if not failed or blocker in failed:
                    break
        finally:
            # Other outboxes need not wait for the rest: the shard answers, or is known not to.
            store.unreachable_shards.end_probe(slot)
        if blocker not in blocked:
            pause_ms = 0
            failed = await _attempt_all(store, waiting, list(remaining), patient=True)
            for other, numbers in failed.items():
                blocked.setdefault(other, []).extend(numbers)
        if blocked.pop(blocker, None):
            pause_ms = UNREACHABLE_PAUSE_MS
        for other, numbers in blocked.items():
            times_ms.append(await _block_entries(store, shard, waiting, other, numbers))
    at_ms = await store.run(
        shard,
        "outbox_reschedule_shard",
        [shard.outbox_blocked_shards, waiting],
        [blocker, pause_ms],
        idempotent=True,
    )
    times_ms.append(at_ms if at_ms >= 0 else None)
    return _BlockedShardResult(pause_ms == 0 and more, [at for at in times_ms if at is not None])


async def _block_entries(
    store: Store, shard: Shard, index: bytes, blocker: int | None, numbers: Sequence[str]
) -> int | None:
    """Let entries wait for an unreachable shard, or for a pause when the shard is unknown.

    The function never raises. Entries that cannot be moved stay in ``index`` and are tried again.

    Args:
        store: the store.
        shard: the shard of the outbox.
        index: the sorted set that has the entries now.
        blocker: index of the unreachable shard, None when it is unknown.
        numbers: numbers of the entries.

    Returns:
        Unix time in ms when the unreachable shard is tried again; None when it is unknown.
    """
    with suppress(BackendUnavailable):
        if blocker is not None and blocker != shard.index:
            keys = [index, shard.outbox_waiting(blocker), shard.outbox_blocked_shards]
            at_ms = await store.run(
                shard,
                "outbox_block_entries",
                keys,
                [blocker, UNREACHABLE_PAUSE_MS, *numbers],
                idempotent=True,
            )
            return int(at_ms)
        for number in numbers:
            await record_attempt(store, shard, number, "unreachable", index=index)
    return None


async def _attempt_all(
    store: Store,
    index: bytes,
    entries: Sequence[OutboxEntry],
    *,
    patient: bool,
    probed: int | None = None,
) -> dict[int | None, list[str]]:
    """Deliver entries; return the numbers of blocked entries by the shard that did not answer.

    Args:
        store: the store.
        index: the sorted set that has the entries.
        entries: the entries.
        patient: as in ``EffectClient``.
        probed: as in ``EffectClient``.
    """
    blocked: dict[int | None, list[str]] = {}
    delivered: list[str] = []

    async def attempt(entry: OutboxEntry) -> None:
        result = await _attempt(store, entry, index, delivered, patient=patient, probed=probed)
        if result.outcome == "unreachable":
            blocked.setdefault(result.blocker, []).append(entry.number)

    await _for_each(entries, attempt)
    if entries:
        await _record_delivered(store, entries[0].shard, index, delivered)
    return blocked


async def _for_each(entries: Sequence[T], action: Callable[[T], Awaitable[None]]) -> None:
    if len(entries) == 1:
        await action(entries[0])  # the usual case needs no nursery
    elif entries:
        await run_concurrently(entries, action)


async def _attempt(
    store: Store,
    entry: OutboxEntry,
    index: bytes,
    delivered: list[str],
    *,
    patient: bool = False,
    probed: int | None = None,
) -> _AttemptResult:
    """Deliver an entry of ``index``.

    A failure is recorded at once. If the entry is delivered, its number is added to ``delivered``:
    one script records the entries that are delivered together.
    """
    handler = store.effects.get(entry.kind, _refuse_unknown_kind)
    watched, client = store.for_effect(patient=patient, probed=probed)
    try:
        await handler(watched, entry.shard, entry.payload)
    except BackendUnavailable:
        # The shard is at fault and not the entry, so the attempt is not counted.
        slot = client.failed_slot
        blocker = None if slot is None else store.keys.index_of_slot(slot)
        return _AttemptResult("unreachable", blocker)
    except Exception as error:
        log.warning("effect %s of shard %d failed", entry.kind, entry.shard.index, exc_info=error)
        message = f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH]
    else:
        if has_unconfirmed_writes():
            # A failover may still lose the write: the entry stays, and the scheduler repeats it.
            return _AttemptResult(None)
        delivered.append(entry.number)
        return _AttemptResult("delivered")
    try:
        reply = await record_attempt(
            store, entry.shard, entry.number, "failed", message, index=index
        )
    except BackendUnavailable:
        return _AttemptResult(None)  # it will be delivered again, which changes nothing
    if reply == b"dead_letter":
        log.error(
            "effect %s of shard %d is a dead letter after %d attempts: mend its cause, then retry "
            "it (POST /ojs/v1/admin/outbox/retry)",
            entry.kind,
            entry.shard.index,
            ATTEMPTS,
        )
    return _AttemptResult("failed")


async def _record_delivered(
    store: Store, shard: Shard, index: bytes, numbers: Sequence[str]
) -> None:
    """Remove delivered entries. Never raises: the delivery of an entry again changes nothing."""
    if numbers:
        keys = [index, shard.outbox, shard.outbox_dead_letters]
        with suppress(BackendUnavailable):
            await store.run(shard, "outbox_record_delivered", keys, numbers, idempotent=True)


async def _refuse_unknown_kind(_store: Store, shard: Shard, _payload: bytes) -> None:
    # A newer version wrote the entry. A process of that version will deliver it.
    raise LookupError(f"an effect of shard {shard.index} is of an unknown kind")


async def record_attempt(
    store: Store,
    shard: Shard,
    number: str,
    outcome: RecordedOutcome,
    error: str = "",
    *,
    index: bytes | None = None,
) -> bytes:
    """Record the outcome of an attempt, as ``outbox_record_attempt.lua`` describes it.

    Args:
        store: the store.
        shard: the shard of the outbox.
        number: the entry's number.
        outcome: the outcome.
        error: why the attempt failed.
        index: the sorted set that the entry is in; None for ``outbox_due``.

    Returns:
        The script's reply.
    """
    first_ms = UNREACHABLE_PAUSE_MS if outcome == "unreachable" else FIRST_PAUSE_MS
    reply: bytes = await store.run(
        shard,
        "outbox_record_attempt",
        [index or shard.outbox_due, shard.outbox, shard.outbox_dead_letters],
        [number, outcome, ATTEMPTS, first_ms, LONGEST_PAUSE_MS, error],
        idempotent=outcome != "failed",
    )
    return reply
