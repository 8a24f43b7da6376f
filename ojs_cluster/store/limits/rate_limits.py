"""Rate limits as operators see and set them (spec: ojs-rate-limiting 7.2 and 10).

Those of a queue are fields of its hash, read and counted inside the pop
(``store/include/queues/queue_gate.lua``): no fetch sees a limit that another has used up meanwhile.
Those of a key live in the key's own shard, which gives out tokens (``rate_tokens``).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.rate_limit import Limits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.validate_job import number
from ojs_cluster.store.limits import partition_quotas
from ojs_cluster.store.limits.rate_tokens import run_limit, take_back
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.sweeps.sweep_result import Tick

_DECLARED_MS = 3_600_000
"""How long a queue's ``max_per_second`` outlives the last job that declares it."""
_KEYS = 50
"""Most keys looked at in one step: each is a script of its own."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Limits and how far they are used at one moment. Times in ms.

    Args:
        active: jobs that the concurrency counts.
        started: starts in the window that ends now.
        resets_ms: when the oldest of them leaves the window.
        next_ms: when a throttle lets the next start.
    """

    limits: Limits
    active: int
    started: int = 0
    resets_ms: int | None = None
    next_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """A key's limits as they hold now. Times in ms.

    Args:
        override: what an operator has set over what jobs declare, None for nothing.
        override_until_ms: when that ends, None for never.
        hold_until_ms: until when a worker has asked that nothing is started.
        waiting: jobs that wait for a token, as far as their queues have asked for one.
    """

    key: str
    usage: Usage
    override: Limits | None
    override_until_ms: int | None
    hold_until_ms: int | None
    waiting: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """A queue's limits: the operator's, and what its jobs declared last, while that holds."""

    usage: Usage
    max_per_second: int | None


def usage(fields: dict[bytes, bytes], limits: Limits, active: int, now: int) -> Usage:
    """What ``store/include/limits/count_starts.lua`` counted, from the fields it keeps."""
    started, resets = 0, None
    if limits.rate is not None:
        for entry in fields.get(b"starts", b"").split():
            at, n = (number(part) for part in entry.partition(b":")[::2])
            if at + limits.rate.period_ms > now:
                started += n
                resets = resets or at + limits.rate.period_ms
    next_ms = number(fields.get(b"next")) if limits.throttle is not None else None
    return Usage(limits, active, started, resets, next_ms)


async def set_queue(store: Store, queue: str, limits: Limits) -> QueueLimits:
    """Set a queue's limits; empty ones take them back. Fetches obey from then on.

    Returns them, and how far they are used.

    Raises:
        ValidationFailed: a partition would have no share, or the partitions are being changed.
        TooManyQueues: an unknown queue would be one too many.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    await partition_quotas.put(store, queue, limits)
    with begun():
        return await of_queue(store, queue)


async def end_declared(store: Store, queue: str) -> None:
    """End the ``max_per_second`` that a queue's jobs declared. Later jobs may declare it again.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.held(store, queue)

    async def end(shard: Shard) -> None:
        await store.run(
            shard, "limit_undeclare", [shard.queue_counters(queue)], [queue], idempotent=True
        )

    await over_shards(shards, end)


async def clear_queue(store: Store, queue: str) -> QueueLimits:
    """End all limits of a queue, the operator's and what its jobs declared; returns what is left.

    Raises:
        TooManyQueues, BackendUnavailable: as ``set_queue``.
    """
    await set_queue(store, queue, Limits())
    with begun():
        await end_declared(store, queue)
        return await of_queue(store, queue)


async def _declared(
    store: Store, shard: Shard, now_ms: int, fields: dict[bytes, bytes]
) -> int | None:
    """The ``max_per_second`` in force in a partition; as ``store/include/queues/queue_gate.lua``
    decides it.
    """
    most, at = fields.get(b"mps", b""), fields.get(b"mpsat", b"")
    if not most.isdigit() or not int(most):  # the next fetch ends what is damaged
        return None
    if now_ms - int(at if at.isdigit() else 0) >= _DECLARED_MS:
        key = shard.job(fields.get(b"mpsjob", b"").decode(errors="replace"))
        state: Any = await store.redis.call(shard.slot, "HGET", key, f.STATE, idempotent=True)
        if state is None or state.decode() in TERMINAL:
            return None
    return int(most)


async def of_queue(store: Store, queue: str) -> QueueLimits:
    """A queue's limits, and how far all its partitions use them; one that nobody used has none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[int, tuple[int, dict[bytes, bytes]]] = {}
    shards = await store.partitions.held(store, queue)

    async def look(number: int) -> None:
        shard = shards[number]
        now, flat = await store.run(
            shard, "read_hash", [shard.queue_counters(queue)], idempotent=True
        )
        items = iter(flat)
        found[number] = now, dict(zip(items, items, strict=True))

    await over_shards(range(len(shards)), look)
    now_ms, first = found[0]
    packed = first.get(b"whole", first.get(b"limits"))
    limits = unpack_limits(packed.decode(errors="replace")) if packed else Limits()
    parts = [
        usage(fields, limits, number(fields.get(b"active")), now) for now, fields in found.values()
    ]
    whole = Usage(
        limits,
        sum(part.active for part in parts),
        sum(part.started for part in parts),
        min((part.resets_ms for part in parts if part.resets_ms is not None), default=None),
        min((part.next_ms for part in parts if part.next_ms is not None), default=None),
    )
    return QueueLimits(whole, await _declared(store, shards[0], now_ms, first))


async def of_key(store: Store, key: str) -> KeyLimits:
    """A key's limits and how far they are used.

    Raises:
        NotFound: no job has named the key for a day.
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_limit(key)
    now, out, asked, flat = await store.run(
        shard,
        "limit_state",
        [shard.rate_limit(key), shard.token_holders(key), shard.token_requesters(key)],
        idempotent=True,
    )
    if not flat:
        raise NotFound("rate limit", key)
    items = iter(flat)
    fields: dict[bytes, bytes] = dict(zip(items, items, strict=True))
    limits = unpack_limits(fields.get(b"limits", b"").decode(errors="replace"))
    override, until = None, number(fields.get(b"over_until")) or None
    if b"over" in fields and (until is None or until > now):
        override = unpack_limits(fields[b"over"].decode(errors="replace"))
        limits = override.over(limits)
    hold = number(fields.get(b"hold"))
    return KeyLimits(
        key,
        usage(fields, limits, out, now),
        override,
        until if override is not None else None,
        hold if hold > now else None,
        asked,
        now,
    )


async def list_keys(store: Store, *, limit: int, offset: int = 0) -> tuple[list[KeyLimits], int]:
    """Keys, shard by shard and in the order of their names there, and how many there are.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    sizes: dict[Shard, int] = {}

    async def count(shard: Shard) -> None:
        size: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        sizes[shard] = size

    await over_shards(store.keys, count)
    found: list[KeyLimits] = []
    skip = offset
    for shard in store.keys:
        if sizes[shard] > skip and len(found) < limit:
            names: Any = await store.redis.call(
                shard.slot,
                *("ZRANGE", shard.rate_limits, skip, skip + limit - len(found) - 1),
                idempotent=True,
            )
            for name in names:
                with suppress(NotFound):  # forgotten since
                    found.append(await of_key(store, name.decode()))
        skip = max(0, skip - sizes[shard])
    return found, sum(sizes.values())


async def override(store: Store, key: str, limits: Limits, until_ms: int | None) -> KeyLimits:
    """Set limits over those that jobs declare; empty ones take the override back.

    Args:
        until_ms: when the override ends, None for never.

    Raises:
        InvalidRequest: it would have ended already.
        TooManyRateLimitKeys: it would be of one key more than there may be.
        NotFound: there is nothing to be taken back.
        BackendUnavailable: Redis did not answer in time.
    """
    packed = limits.packed() if limits != Limits() else ""
    if packed:
        await store.limit_keys.admit_key(store, key)
    await run_limit(store, "limit_set", key, ["override", packed, until_ms or ""])
    past = InvalidRequest("expires_at must be in the future", field="expires_at")
    try:
        with begun():
            found = await of_key(store, key)
    except NotFound:
        raise past if packed else NotFound("rate limit", key) from None
    if until_ms is not None and found.override_until_ms != until_ms:
        raise past
    return found


async def look_after(store: Store, shard: Shard, limit: int) -> Tick:
    """Do what time does to the limits of a shard.

    Who waits for a queue that has room again is woken; tokens that nobody has fetched a job with go
    back; keys for which time has made room give out tokens, those that nobody uses are forgotten.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    reply: Any = await store.run(
        shard,
        "limits_due",
        [shard.exhausted_queues, shard.token_grants, shard.rate_limit_checks],
        [limit, _KEYS],
        idempotent=True,
    )
    done, now, following, granted, keys = reply
    nexts = [following] if following >= 0 else []
    more = done >= limit or len(keys) >= _KEYS
    if granted:
        returned = await take_back(store, shard, limit)
        done, more = done + returned.done, more or returned.more
        nexts += [returned.next_ms] if returned.next_ms is not None else []
    await over_shards(keys, lambda key: run_limit(store, "limit_refresh", key.decode(), []))
    return Tick(done + len(keys), min(nexts, default=None), now, more)
