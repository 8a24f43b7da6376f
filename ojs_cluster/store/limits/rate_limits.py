"""Rate limits as operators read and set them (spec: ojs-rate-limiting 7.2 and 10).

Limits of a queue are fields of its hash. The script that pops jobs reads and counts them
(``store/include/queues/queue_limits.lua``), so no fetch acts on a limit that another fetch has used
up. The limits of a key live in the key's own shard, which grants tokens (``rate_tokens``).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.validate_job import read_number
from ojs_cluster.store.limits import partition_quotas
from ojs_cluster.store.limits.rate_tokens import return_unused_tokens, run_key_script
from ojs_cluster.store.partial_failures import after_first_write
from ojs_cluster.store.sweeps.sweep_result import SweepResult

_DECLARED_MS = 3_600_000
"""How long a queue's ``max_per_second`` outlives the last job that declares it."""
_MAX_KEYS_REFRESHED = 50
"""Most keys refreshed in one step: each needs a script of its own."""


@dataclass(frozen=True, slots=True)
class RateLimitUsage:
    """Limits and how far they are used at one moment.

    Args:
        limits: the limits that hold.
        active: jobs that the concurrency counts.
        started: starts in the window that ends now.
        resets_ms: when the oldest of these starts leaves the window, in Unix milliseconds.
        next_ms: when a throttle lets the next job start, in Unix milliseconds.
    """

    limits: RateLimits
    active: int
    started: int = 0
    resets_ms: int | None = None
    next_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimitKeyStatus:
    """A key's limits as they hold now.

    Args:
        key: the rate limit key.
        usage: the limits, and how far they are used.
        override: what an operator has set over what jobs declare, None for nothing.
        override_until_ms: end of the override in Unix milliseconds, None for none.
        hold_until_ms: time in Unix milliseconds until which no job may start, because a worker has
            asked for that; None when it did not.
        waiting: jobs that wait for a token and whose queue has requested one.
        now_ms: time of the reading in Unix milliseconds.
    """

    key: str
    usage: RateLimitUsage
    override: RateLimits | None
    override_until_ms: int | None
    hold_until_ms: int | None
    waiting: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class QueueRateLimits:
    """A queue's limits.

    Args:
        usage: the operator's limits, and how far they are used.
        max_per_second: the limit that jobs declared last, None when none holds.
    """

    usage: RateLimitUsage
    max_per_second: int | None


def _usage(fields: dict[bytes, bytes], limits: RateLimits, active: int, now: int) -> RateLimitUsage:
    """Return the usage from the fields that ``store/include/limits/count_starts.lua`` keeps."""
    started, resets = 0, None
    if limits.rate is not None:
        for entry in fields.get(b"starts", b"").split():
            at, n = (read_number(part) for part in entry.partition(b":")[::2])
            if at + limits.rate.period_ms > now:
                started += n
                resets = resets or at + limits.rate.period_ms
    next_ms = read_number(fields.get(b"next_start")) if limits.throttle is not None else None
    return RateLimitUsage(limits, active, started, resets, next_ms)


async def set_queue_limits(store: Store, queue: str, limits: RateLimits) -> QueueRateLimits:
    """Set a queue's limits, which hold from the next fetch on.

    Args:
        store: the store.
        queue: the queue's name.
        limits: the new limits; empty ones remove the operator's limits.

    Returns:
        The limits, and how far they are used.

    Raises:
        ValidationFailed: a partition would have no quota, or the partitions are being changed.
        TooManyQueues: an unknown queue would be one too many.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    await partition_quotas.set_limits(store, queue, limits)
    with after_first_write():
        return await get_queue_limits(store, queue)


async def clear_declared_limit(store: Store, queue: str) -> None:
    """Remove the ``max_per_second`` that a queue's jobs declared. Later jobs may declare it again.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)

    async def clear(shard: Shard) -> None:
        await store.run(
            shard, "limit_undeclare", [shard.queue_counters(queue)], [queue], idempotent=True
        )

    await run_concurrently(shards, clear)


async def clear_queue_limits(store: Store, queue: str) -> QueueRateLimits:
    """Remove all limits of a queue: the operator's, and what its jobs declared.

    Returns:
        The limits that hold now. Jobs may have declared a new one.

    Raises:
        TooManyQueues: an unknown queue would be one too many.
        BackendUnavailable: Redis did not answer in time.
    """
    await set_queue_limits(store, queue, RateLimits())
    with after_first_write():
        await clear_declared_limit(store, queue)
        return await get_queue_limits(store, queue)


async def _declared_limit(
    store: Store, shard: Shard, now_ms: int, fields: dict[bytes, bytes]
) -> int | None:
    """Return the ``max_per_second`` that holds in a partition.

    Decides as ``store/include/queues/queue_limits.lua`` does.
    """
    most, at = fields.get(b"max_per_second", b""), fields.get(b"declared_at", b"")
    if not most.isdigit() or not int(most):  # the next fetch removes a damaged one
        return None
    if now_ms - int(at if at.isdigit() else 0) >= _DECLARED_MS:
        key = shard.job(fields.get(b"declared_by", b"").decode(errors="replace"))
        state: Any = await store.redis.call(shard.slot, "HGET", key, f.STATE, idempotent=True)
        if state is None or state.decode() in TERMINAL:
            return None
    return int(most)


async def get_queue_limits(store: Store, queue: str) -> QueueRateLimits:
    """Return a queue's limits, and how far all its partitions use them.

    A queue that does not exist has no limits.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[int, tuple[int, dict[bytes, bytes]]] = {}
    shards = await store.partitions.occupied_shards(store, queue)

    async def read(number: int) -> None:
        shard = shards[number]
        now, flat = await store.run(
            shard, "read_hash", [shard.queue_counters(queue)], idempotent=True
        )
        items = iter(flat)
        found[number] = now, dict(zip(items, items, strict=True))

    await run_concurrently(range(len(shards)), read)
    now_ms, first = found[0]
    packed = first.get(b"queue_limits", first.get(b"limits"))
    limits = unpack_limits(packed.decode(errors="replace")) if packed else RateLimits()
    parts = [
        _usage(fields, limits, read_number(fields.get(b"active")), now)
        for now, fields in found.values()
    ]
    total = RateLimitUsage(
        limits,
        sum(part.active for part in parts),
        sum(part.started for part in parts),
        min((part.resets_ms for part in parts if part.resets_ms is not None), default=None),
        min((part.next_ms for part in parts if part.next_ms is not None), default=None),
    )
    return QueueRateLimits(total, await _declared_limit(store, shards[0], now_ms, first))


async def get_key(store: Store, key: str) -> RateLimitKeyStatus:
    """Return a key's limits and how far they are used.

    Raises:
        NotFound: no job has used the key for a day.
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_limit(key)
    now, holders, requested, flat = await store.run(
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
    override, until = None, read_number(fields.get(b"override_until")) or None
    if b"override" in fields and (until is None or until > now):
        override = unpack_limits(fields[b"override"].decode(errors="replace"))
        limits = override.overriding(limits)
    hold = read_number(fields.get(b"hold_until"))
    return RateLimitKeyStatus(
        key,
        _usage(fields, limits, holders, now),
        override,
        until if override is not None else None,
        hold if hold > now else None,
        requested,
        now,
    )


async def list_keys(
    store: Store, *, limit: int, offset: int = 0
) -> tuple[list[RateLimitKeyStatus], int]:
    """Return a page of keys, and how many keys there are.

    Keys are ordered by shard, then by name.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    sizes: dict[Shard, int] = {}

    async def count(shard: Shard) -> None:
        size: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        sizes[shard] = size

    await run_concurrently(store.keys, count)
    found: list[RateLimitKeyStatus] = []
    skip = offset
    for shard in store.keys:
        if sizes[shard] > skip and len(found) < limit:
            names: Any = await store.redis.call(
                shard.slot,
                *("ZRANGE", shard.rate_limits, skip, skip + limit - len(found) - 1),
                idempotent=True,
            )
            for name in names:
                with suppress(NotFound):  # removed since the page was read
                    found.append(await get_key(store, name.decode()))
        skip = max(0, skip - sizes[shard])
    return found, sum(sizes.values())


async def override_key(
    store: Store, key: str, limits: RateLimits, until_ms: int | None
) -> RateLimitKeyStatus:
    """Set limits over those that jobs declare.

    Args:
        store: the store.
        key: the rate limit key.
        limits: the new limits; empty ones remove the override.
        until_ms: end of the override in Unix milliseconds, None for none.

    Raises:
        InvalidRequest: ``until_ms`` is in the past.
        TooManyRateLimitKeys: the key is new, and its shard has as many keys as it may.
        NotFound: there is no override to remove.
        BackendUnavailable: Redis did not answer in time.
    """
    packed = limits.packed() if limits != RateLimits() else ""
    if packed:
        await store.limit_keys.check_key(store, key)
    await run_key_script(store, "limit_set", key, ["override", packed, until_ms or ""])
    past = InvalidRequest("expires_at must be in the future", field="expires_at")
    try:
        with after_first_write():
            found = await get_key(store, key)
    except NotFound:
        raise past if packed else NotFound("rate limit", key) from None
    if until_ms is not None and found.override_until_ms != until_ms:
        raise past
    return found


async def sweep_rate_limits(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Do the work that time causes for the rate limits of a shard.

    Wakes fetches that wait for queues whose limits have room again. Returns tokens whose jobs were
    not fetched in time. Grants tokens of keys that have room again. Removes unused keys.

    Args:
        store: the store.
        shard: the shard.
        limit: most queues, and most tokens, of one call.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    reply: Any = await store.run(
        shard,
        "limits_due",
        [shard.exhausted_queues, shard.token_grants, shard.rate_limit_checks],
        [limit, _MAX_KEYS_REFRESHED],
        idempotent=True,
    )
    woken, now, next_due, grants_due, keys = reply
    due = [next_due] if next_due >= 0 else []
    done, more = woken, woken >= limit or len(keys) >= _MAX_KEYS_REFRESHED
    if grants_due:
        returned = await return_unused_tokens(store, shard, limit)
        done, more = done + returned.done, more or returned.more
        due += [returned.next_ms] if returned.next_ms is not None else []
    await run_concurrently(
        keys, lambda key: run_key_script(store, "limit_refresh", key.decode(), [])
    )
    return SweepResult(done + len(keys), min(due, default=None), now, more)
