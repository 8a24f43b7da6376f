"""Read and set the rate limits of queues and keys, for operators.

Spec: ojs-rate-limiting 7.2 and 10. A "key" in this module is a rate limit key.

The limits of a queue are fields of the queue's hash. The script that pops jobs reads the limits and
counts the starts (``store/include/queues/queue_limits.lua``). So concurrent fetches cannot exceed a
limit. The limits of a key are in the shard of the key, which grants tokens (``rate_tokens.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.features.rate_limits.rate_tokens import return_unused_tokens, run_key_script
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.sweep_result import SweepResult

_DECLARED_MS = 3_600_000
"""Time in milliseconds for which a ``max_per_second`` holds after a job declared it last.

The same value is in ``store/include/queues/queue_limits.lua``."""
_MAX_KEYS_REFRESHED = 50
"""Maximum number of keys refreshed in one sweep: each needs a script of its own."""


@dataclass(frozen=True, slots=True)
class RateLimitUsage:
    """Limits, and how far they are used at one time.

    Args:
        limits: the limits that hold.
        active: number of jobs that count against the concurrency limit.
        started: number of starts in the rate's period that ends now.
        resets_ms: time at which the oldest of these starts leaves the period, in Unix milliseconds;
            None without starts.
        next_ms: time at which the throttle lets the next job start, in Unix milliseconds; None
            without a throttle.
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
        override: the operator's limits, which replace those that jobs declare; None for none.
        override_until_ms: end of the override in Unix milliseconds, None for no end.
        hold_until_ms: time in Unix milliseconds until which no job may start, because a worker has
            requested that; None when jobs may start.
        waiting: number of requested tokens that are not granted yet.
        now_ms: time of the reading in Unix milliseconds.
        holders: ids of the first jobs that have a token: those that run, then those that may start.
    """

    key: str
    usage: RateLimitUsage
    override: RateLimits | None
    override_until_ms: int | None
    hold_until_ms: int | None
    waiting: int
    now_ms: int
    holders: Sequence[str] = ()


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
    """Return how far limits are used.

    Args:
        fields: the hash with the fields that ``store/include/limits/create_limiters.lua`` writes.
        limits: the limits.
        active: number of jobs that count against the concurrency limit.
        now: the server's time in Unix milliseconds.
    """
    started, resets_ms = 0, None
    if limits.rate is not None:
        for entry in fields.get(b"starts", b"").split():
            started_ms, count = (read_number(part) for part in entry.partition(b":")[::2])
            if started_ms + limits.rate.period_ms > now:
                started += count
                resets_ms = resets_ms or started_ms + limits.rate.period_ms
    next_ms = read_number(fields.get(b"next_start")) if limits.throttle is not None else None
    return RateLimitUsage(limits, active, started, resets_ms, next_ms)


async def set_queue_limits(store: Store, queue: str, limits: RateLimits) -> QueueRateLimits:
    """Set a queue's limits. They hold from the next fetch on.

    Args:
        store: the store.
        queue: the queue's name.
        limits: the new limits; empty ones remove the operator's limits.

    Returns:
        The limits, and how far they are used.

    Raises:
        ValidationFailed: a partition would have no quota, or the partitions are being changed.
        TooManyQueues: the queue is new, and the registry of queue names is full.
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
    """Remove all limits of a queue: the operator's, and those that its jobs declared.

    Returns:
        The limits that hold now. They are not empty if jobs have declared a limit since.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    await set_queue_limits(store, queue, RateLimits())
    with after_first_write():
        await clear_declared_limit(store, queue)
        return await get_queue_limits(store, queue)


async def _declared_limit(
    store: Store, shard: Shard, now_ms: int, fields: dict[bytes, bytes]
) -> int | None:
    """Return the ``max_per_second`` that holds in a partition, None when none holds.

    The rules are those of ``load_queue_limits`` in ``store/include/queues/queue_limits.lua``.
    """
    max_per_second = fields.get(b"max_per_second", b"")
    if not max_per_second.isdigit() or not int(max_per_second):
        return None  # the next fetch removes a damaged value
    declared_ms = fields.get(b"declared_at", b"")
    if now_ms - int(declared_ms if declared_ms.isdigit() else 0) >= _DECLARED_MS:
        key = shard.job(fields.get(b"declared_by", b"").decode(errors="replace"))
        state: Any = await store.redis.call(shard.slot, "HGET", key, f.STATE, idempotent=True)
        if state is None or state.decode() in TERMINAL:
            return None
    return int(max_per_second)


async def get_queue_limits(store: Store, queue: str) -> QueueRateLimits:
    """Return a queue's limits, and how far all its partitions together use them.

    A queue that does not exist has no limits.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    # By partition number: the time of the reading in Unix milliseconds, and the fields.
    readings: dict[int, tuple[int, dict[bytes, bytes]]] = {}
    shards = await store.partitions.occupied_shards(store, queue)

    async def read(number: int) -> None:
        shard = shards[number]
        now, field_list = await store.run(
            shard, "read_hash", [shard.queue_counters(queue)], idempotent=True
        )
        items = iter(field_list)
        readings[number] = now, dict(zip(items, items, strict=True))

    await run_concurrently(range(len(shards)), read)
    now_ms, first_fields = readings[0]
    packed = first_fields.get(b"queue_limits", first_fields.get(b"limits"))
    limits = unpack_limits(packed.decode(errors="replace")) if packed else RateLimits()
    usages = [
        _usage(fields, limits, read_number(fields.get(b"active")), now)
        for now, fields in readings.values()
    ]
    total = RateLimitUsage(
        limits,
        sum(usage.active for usage in usages),
        sum(usage.started for usage in usages),
        min((usage.resets_ms for usage in usages if usage.resets_ms is not None), default=None),
        min((usage.next_ms for usage in usages if usage.next_ms is not None), default=None),
    )
    return QueueRateLimits(total, await _declared_limit(store, shards[0], now_ms, first_fields))


async def get_key(store: Store, key: str, *, holders: int = 0) -> RateLimitKeyStatus:
    """Return a key's limits and how far they are used.

    Args:
        store: the store.
        key: the rate limit key.
        holders: maximum number of jobs that are named as holders of its tokens.

    Raises:
        NotFound: no job has used the key for a day.
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_limit(key)
    now, granted, requested, field_list, tokens = await store.run(
        shard,
        "limit_state",
        [shard.rate_limit(key), shard.token_holders(key), shard.token_requesters(key)],
        [holders],
        idempotent=True,
    )
    if not field_list:
        raise NotFound("rate limit", key)
    items = iter(field_list)
    fields: dict[bytes, bytes] = dict(zip(items, items, strict=True))
    limits = unpack_limits(fields.get(b"limits", b"").decode(errors="replace"))
    override, override_until_ms = None, read_number(fields.get(b"override_until")) or None
    if b"override" in fields and (override_until_ms is None or override_until_ms > now):
        override = unpack_limits(fields[b"override"].decode(errors="replace"))
        limits = override.overriding(limits)
    hold_until_ms = read_number(fields.get(b"hold_until"))
    return RateLimitKeyStatus(
        key,
        _usage(fields, limits, granted, now),
        override,
        override_until_ms if override is not None else None,
        hold_until_ms if hold_until_ms > now else None,
        requested,
        now,
        [token.decode(errors="replace").split("/")[1] for token in tokens if b"/" in token],
    )


async def list_keys(
    store: Store, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[RateLimitKeyStatus]:
    """Return a page of keys, with the number of all keys.

    Keys are in the order of their shards, and within a shard in the order of their names.

    Args:
        store: the store.
        limit: maximum number of keys of the page.
        offset: number of keys before the page, unless ``after`` is given.
        after: shard and name of the last key before the page, which may be missing.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    counts: dict[Shard, int] = {}

    async def count_keys(shard: Shard) -> None:
        count: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        counts[shard] = count

    await run_concurrently(store.keys, count_keys)
    found: list[tuple[int, str]] = []
    skip, first_shard = (offset, 0) if after is None else (0, int(after[0]))
    for shard in store.keys:
        missing = limit + 1 - len(found)  # one more key tells whether others follow
        if counts[shard] > skip and missing > 0 and shard.index >= first_shard:
            part: tuple[Arg, ...] = (skip, skip + missing - 1)
            if after is not None and shard.index == first_shard:
                part = (b"(" + str(after[1]).encode(), "+", "BYLEX", "LIMIT", 0, missing)
            names: Any = await store.redis.call(
                shard.slot, "ZRANGE", shard.rate_limits, *part, idempotent=True
            )
            found += [(shard.index, name.decode(errors="replace")) for name in names]
        skip = max(0, skip - counts[shard])
    page: list[RateLimitKeyStatus] = []
    for _, name in found[:limit]:
        with suppress(NotFound):  # removed since the names were read
            page.append(await get_key(store, name))
    return Listed(page, sum(counts.values()), found[limit - 1] if len(found) > limit else None)


async def override_key(
    store: Store, key: str, limits: RateLimits, until_ms: int | None
) -> RateLimitKeyStatus:
    """Override the limits that jobs declare for a key.

    Args:
        store: the store.
        key: the rate limit key.
        limits: the new limits; empty ones remove the override.
        until_ms: end of the override in Unix milliseconds, None for no end.

    Raises:
        InvalidRequest: ``until_ms`` is in the past.
        TooManyRateLimitKeys: the key is new, and its shard has the maximum number of keys.
        NotFound: there is no override to remove.
        BackendUnavailable: Redis did not answer in time.
    """
    packed = limits.packed() if limits != RateLimits() else ""
    if packed:
        await store.limit_keys.check_key(store, key)
    await run_key_script(store, "limit_set", key, ["override", packed, until_ms or ""])
    # The script changes nothing when the override has already ended by the server's clock.
    already_ended = InvalidRequest("expires_at must be in the future", field="expires_at")
    try:
        with after_first_write():
            status = await get_key(store, key)
    except NotFound:
        raise already_ended if packed else NotFound("rate limit", key) from None
    if until_ms is not None and status.override_until_ms != until_ms:
        raise already_ended
    return status


async def sweep_rate_limits(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Do the work on the rate limits of a shard that is due.

    Wakes fetches that wait for queues whose limits allow starts again. Returns tokens whose jobs
    were not fetched in time. Grants tokens that are free again. Removes unused keys.

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of queues, and of tokens, that one call handles.

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
    next_times = [next_due] if next_due >= 0 else []
    done, more = woken, woken >= limit or len(keys) >= _MAX_KEYS_REFRESHED
    if grants_due:
        returned = await return_unused_tokens(store, shard, limit)
        done, more = done + returned.done, more or returned.more
        next_times += [returned.next_ms] if returned.next_ms is not None else []

    async def refresh(raw: bytes) -> None:
        key = raw.decode(errors="replace")
        if key.encode() == raw:
            await run_key_script(store, "limit_refresh", key, [])
        else:  # no key of this server, so nothing else would remove it
            await store.redis.call(shard.slot, "ZREM", shard.rate_limit_checks, raw)

    await run_concurrently(keys, refresh)
    return SweepResult(done + len(keys), min(next_times, default=None), now, more)
