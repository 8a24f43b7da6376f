"""Restore the lines of an archive (``ojs-cluster import``).

Each line is stored in one step, unless its id or name exists. So an interrupted import can be
repeated from the beginning, and an archive can be imported into a cluster that is in use. The line
of a job has its position in the queue, so lines can be stored in any order.

The cluster may have another number of shards than the exported cluster. Then the owner shard of an
id may hold no partition of the job's queue. Such a job gets an alias, like a job with a
client-chosen id.

The worker of an active job does not know the new cluster. So an active job becomes available at the
front of its queue, as if it had not been fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal
from zlib import crc32

from ojs_cluster.core.cron.cron_job import is_cron_name, job_of_occurrence
from ojs_cluster.core.cron.schedule import Schedule
from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.jobs.tenant import is_tenant
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.queue_defaults import POLICY
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.index_values import index_keys
from ojs_cluster.store.engine.limits import depth_bounds, partition_quotas
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses, queues
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.features.rate_limits import rate_tokens
from ojs_cluster.store.features.retention.lifecycle import create_queue
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.partitions import NO_ENTRY_LIMIT
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults, get_defaults
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.operators.archive.line_values import (
    POSITIONS,
    CronLine,
    InvalidLine,
    JobLine,
    QueueLine,
)

log = logging.getLogger("ojs.store")

RestoreOutcome = Literal["created", "exists"]
"""The outcome of a line: stored, or left out because its id or name exists."""

_CLAIM_MS = 30_000
"""Time in ms within which the job of a claimed alias must be stored."""
_TRIES = 3
"""Attempts to store a job; an attempt fails when the claim of its alias expires."""
_LEASE_FIELDS = (
    *(f.WORKER, f.LEASE, f.DEADLINE, f.LEASE_MS, f.EXTENDED),
    # The next attempt has the same number, and must not begin with the progress of this one.
    *(f.PROGRESS, f.PROGRESS_DATA),
)
_INDEXES = ("due", "expiring", "pending", "finished", "dead")
"""Indexes of a shard in the order of KEYS of ``restore_job.lua``."""
_RESERVED = "the id %s is reserved by an unfinished write: run the import again"


async def restore_queue(store: Store, line: QueueLine) -> RestoreOutcome:
    """Register a queue and restore its settings, except settings that the queue already has.

    A queue that was paused or drained is paused or drained, unless it is in use already: to drain a
    live queue would refuse its producers.

    Raises:
        InvalidLine: the name is not a valid queue name.
        ValidationFailed: a setting is not valid.
        TooManyQueues: the cluster has the maximum number of queues.
        BackendUnavailable: Redis did not answer in time.
    """
    if line.name == POLICY:
        existed = not (await get_defaults(store, POLICY)).empty
        if not existed:
            await change_defaults(store, POLICY, line.defaults.shown())
        return "exists" if existed else "created"
    _check_queue(line.name)
    existed = await queues.exists(store, line.name)
    fields = dict(line.fields)
    paused, limits = fields.pop(b"paused", None), fields.pop(b"limits", None)
    bound, decision = fields.pop(b"bound", None), fields.pop(b"on_exhaustion", None)
    overflow, fair = fields.pop(b"overflow", b""), fields.pop(b"fair", None)
    draining = fields.pop(b"draining", None)
    in_use = await _is_in_use(store, line.name)
    wanted = RateLimits() if limits is None else unpack_limits(limits.decode())
    has_limits = await partition_quotas.get_limits(store, line.name) != RateLimits()
    if not has_limits:
        await _partition(store, line.name, line.partitions, wanted, in_use=in_use)
    # Before all steps that create the queue. After a death between the two, a repeated import only
    # leaves the queue paused; after the other order it would run jobs.
    if paused is not None and not in_use:
        await pauses.pause_or_resume(store, line.name, "pause")
    if draining is not None and not in_use:
        await pauses.pause_or_resume(store, line.name, "drain")
    if fields.pop(b"kept", None) is not None:
        await create_queue(store, line.name, accept_existing=True)
    if wanted != RateLimits() and not has_limits:
        await store.queues.ensure(store, [line.name])
        await partition_quotas.set_limits(store, line.name, wanted, must_divide=False)
    if bound is not None and await depth_bounds.get_bound(store, line.name) is None:
        packed = f"{bound.decode()} {overflow.decode()}"
        await depth_bounds.set_bound(store, line.name, depth_bounds.unpack_bound(packed))
    if decision is not None and await exhaustion.get_on_exhaustion(store, line.name) is None:
        await exhaustion.set_on_exhaustion(store, line.name, decision.decode())
    if not line.defaults.empty and (await get_defaults(store, line.name)).empty:
        await create_queue(store, line.name, accept_existing=True)
        await change_defaults(store, line.name, line.defaults.shown())
    if fair is not None:
        await fair_share.set_fair_share(store, line.name, on=True)
    await store.queues.ensure(store, [line.name])
    shard = store.keys.shard_of_queue(line.name)
    args: list[Arg] = [line.name, *(part for pair in fields.items() for part in pair)]
    effects = await store.run(
        shard, "restore_queue", [shard.queue_counters(line.name)], args, idempotent=True
    )
    await deliver(store, shard, effects)
    return "exists" if existed else "created"


async def _is_in_use(store: Store, queue: str) -> bool:
    """Return whether a job or an operator has created a queue, in any of its partitions."""
    for shard in await store.partitions.occupied_shards(store, queue):
        created = await store.redis.call(
            shard.slot, "HGET", shard.queue_counters(queue), "created", idempotent=True
        )
        if created:
            return True
    return False


async def _partition(
    store: Store, queue: str, exported: int, limits: RateLimits, *, in_use: bool
) -> None:
    """Give a queue a number of partitions before its limits, so that they can be divided.

    Args:
        store: the store.
        queue: the queue's name.
        exported: the exported number, 0 for the default. A queue with an entry keeps its number. If
            operators may add no entry, the queue gets the default, unless that is too large for the
            limits.
        limits: the limits that the queue gets. They are never refused, because its jobs would run
            without limits: if they are too small, the queue gets one partition.
        in_use: whether other processes may use its partitions.
    """
    table = store.partitions
    if exported:
        await table.read(store)
    else:
        await table.try_read(store)
    count = table.layout(queue).count
    if exported and not table.has_entry(queue):
        count = min(exported, store.keys.max_partitions)
    if count > limits.most_partitions:
        count = 1
    layout = table.layout(queue)
    if count == layout.count:
        return
    is_needed = limits != RateLimits() and count < layout.count
    max_entries = NO_ENTRY_LIMIT if is_needed else None
    try:
        if in_use or count > layout.open_count:
            await set_partitions(store, queue, count, max_entries=max_entries)
        else:  # no partition has anything to drain, and no setting to copy
            await table.update(
                store,
                queue,
                lambda old, now_ms: replace(
                    PartitionLayout.of_count(count),
                    occupied_count=max(old.occupied_count, count),
                    changed_at_ms=now_ms,
                ),
                max_entries=max_entries,
            )
    except InvalidRequest as full:
        log.warning("queue '%s' does not get %d partitions: %s", queue, count, full.message)
        return
    if is_needed:  # it takes no entry of operators
        await table.update(store, queue, PartitionLayout.pinned)


async def target_shard(store: Store, queue: str, job_id: str, *, in_first: bool = False) -> Shard:
    """Return the shard for a job: the owner shard of its id if that is an open partition.

    Args:
        store: the store.
        queue: the queue of the job.
        job_id: the id of the job.
        in_first: whether the job must be in partition 0, as jobs with ``max_per_second`` must.
    """
    await store.partitions.refresh_if_stale(store)
    layout = store.partitions.layout(queue)
    shards = store.keys.partitions(queue, 1 if in_first else layout.open_count)
    owner = store.keys.shard_of_id(job_id)
    if owner in shards:
        return owner
    # Chosen by the id, so that a repeated import chooses the same partition. A partition above the
    # configured number is about to close, so it is not chosen.
    return shards[crc32(job_id.encode()) % min(layout.count, len(shards))]


async def restore_job(store: Store, line: JobLine) -> RestoreOutcome:
    """Store a job, and claim its unique lock if the job held the lock when it was exported.

    Raises:
        InvalidLine: the line cannot be stored, or its id is reserved but has no job.
        TooManyQueues: the cluster has the maximum number of queues.
        BackendUnavailable: Redis did not answer in time.
    """
    _check_queue(line.queue)
    line = _without_lease(line)
    args = _job_args(store, line)
    shard = await target_shard(store, line.queue, line.id, in_first=f.MAX_PER_SECOND in line.fields)
    await store.queues.ensure(store, [line.queue])
    keys = [
        *(shard.job(line.id), *(getattr(shard, name) for name in _INDEXES)),
        *(
            shard.queue_counters(line.queue),
            shard.queue_available(line.queue),
            shard.queue_dead(line.queue),
        ),
        shard.references,
    ]
    tenant = line.fields.get(f.TENANT, b"").decode(errors="replace")
    if tenant:
        if not is_tenant(tenant):
            raise InvalidLine("the tenant of the job is not valid")
        keys += (shard.tenant_queue(line.queue, tenant), shard.tenant_counters(tenant))
        keys.append(shard.tenant_turns(line.queue))
    indexed = index_keys(store.settings, shard, line.fields[f.ENVELOPE])
    keys += indexed
    index_args: list[Arg] = [len(indexed), store.settings.search_index_retention_ms]
    has_alias = store.keys.shard_of_id(line.id) is not shard
    is_referenced = "1" if has_alias or (line.holds_lock and f.UNIQUE in line.fields) else ""
    for _ in range(_TRIES):
        claim_expires_at = await _claim_alias(store, line.id, shard)
        if claim_expires_at is None:
            return await _restore_references(store, line, shard, "exists")
        reply = await store.run(
            shard,
            "restore_job",
            keys,
            [*args[:4], claim_expires_at, *args[4:8], is_referenced, *index_args, *args[8:]],
            idempotent=True,
        )
        if reply[0] == b"ok":
            await deliver(store, shard, reply[1])
            return await _restore_references(store, line, shard, "created")
        if reply[0] == b"exists":
            if reply[1] and not await _leads_to_a_job(store, line.id, int(reply[1])):
                break
            return await _restore_references(store, line, shard, "exists")
    raise InvalidLine(_RESERVED % line.id)


async def restore_cron(store: Store, line: CronLine) -> RestoreOutcome:
    """Register a cron job with its exported next occurrence.

    Raises:
        InvalidLine: the definition is not valid, or there are too many cron jobs.
        BackendUnavailable: Redis did not answer in time.
    """
    fields = dict(line.fields)
    try:
        schedule = Schedule(fields[b"expression"].decode(), fields[b"timezone"].decode())
        created = int(fields[b"created"])
        is_valid = is_cron_name(line.name) and schedule.following(created, created) is not None
        job = job_of_occurrence(fields[b"job"], line.name, created, limits=STORED_LIMITS)
        if not is_valid or (job.queue, job.type) != (
            fields[b"queue"].decode(),
            fields[b"type"].decode(),
        ):
            raise InvalidLine("name, schedule or job of the cron job are not valid")
        fields[b"tenant"] = job.tenant.encode()
    except (OJSError, ValueError, KeyError) as error:
        raise InvalidLine(f"the cron job is not valid: {error}") from None
    meta = store.keys.meta
    reply = await store.run_meta(
        "restore_cron",
        [meta.cron(line.name), meta.crons, meta.cron_names],
        [
            *(line.name, store.settings.max_crons),
            *(part for pair in fields.items() for part in pair),
        ],
    )
    if reply == b"full":
        raise InvalidLine(f"at most {store.settings.max_crons} cron jobs are allowed")
    return "created" if reply == b"ok" else "exists"


def _check_queue(name: str) -> None:
    try:
        check_queue(name)
    except OJSError as error:
        raise InvalidLine(error.message) from None


def _without_lease(line: JobLine) -> JobLine:
    """Return the job to store: an active job as it was before its fetch."""
    if line.state is not State.ACTIVE:
        return line
    fields = {name: value for name, value in line.fields.items() if name not in _LEASE_FIELDS}
    attempt = max(0, int(fields.get(f.ATTEMPT, b"1")) - 1)
    fields[f.STATE] = State.AVAILABLE.value.encode()
    fields[f.ATTEMPT] = b"%d" % attempt
    if not attempt:
        del fields[f.ATTEMPT]
        fields.pop(f.STARTED, None)
    return replace(line, fields=fields, position=0)


def _job_args(store: Store, line: JobLine) -> list[Arg]:
    """Return ARGV of ``restore_job.lua``, except the expiry of the claim and ``is_referenced``."""
    fields = dict(line.fields)
    state = line.state
    score_by_state: dict[State, int | None] = {
        State.AVAILABLE: None,
        State.PENDING: int(fields[f.CREATED]),
        State.SCHEDULED: _ms(fields, f.DUE),
        State.RETRYABLE: _ms(fields, f.DUE),
    }
    score = score_by_state.get(state, line.removed_ms)
    if score is None and state is not State.AVAILABLE:
        raise InvalidLine(
            f"a job in state {state} needs {'removed_ms' if state in TERMINAL else 'due_ms'}"
        )
    if state in TERMINAL and f.FINISHED not in fields:
        raise InvalidLine(f"a job in state {state} needs 'finished_ms'")
    priority = int(fields.get(f.PRIORITY, b"0"))
    if not -100 <= priority <= 100:
        raise InvalidLine("'priority' must be from -100 to 100")
    if line.position is not None and not 0 <= line.position < POSITIONS:
        raise InvalidLine("'position' must be from 0 to 2^45 - 1")
    dead = state is State.DISCARDED and f.DEAD in fields
    expires = fields.get(f.EXPIRES, b"") if state not in TERMINAL else b""
    _put_errors(fields, line.errors, store.settings.errors_kept)
    return [
        *(line.id, line.queue, state.value, priority),
        "" if line.position is None else line.position,
        "" if score is None else score,
        expires,
        fields[f.FINISHED] if dead else "",
        *(part for pair in fields.items() for part in pair),
    ]


def _put_errors(
    fields: dict[bytes, bytes], errors: Sequence[tuple[int, int, bytes]], kept: int
) -> None:
    """Add errors to the fields as a ring: the newest is in slot (count - 1) % kept."""
    count = max(int(fields.get(f.ERRORS, b"0")), len(errors))
    if not errors:
        fields.pop(f.ERRORS, None)
        return
    fields[f.ERRORS] = b"%d" % count
    for age, (attempt, at_ms, error) in enumerate(reversed(errors[-kept:])):
        slot = b"%b%d" % (f.ERROR_SLOT, (count - 1 - age) % kept)
        fields[slot] = b"%d,%d,%b" % (attempt, at_ms, error[:-1])


def _ms(fields: dict[bytes, bytes], name: bytes) -> int | None:
    return int(fields[name]) if name in fields else None


async def _claim_alias(store: Store, job_id: str, shard: Shard) -> int | None:
    """Claim the alias of a job that is not stored in the owner shard of its id.

    Returns:
        Unix time in ms when the claim expires, 0 when no claim is needed, None when the job exists.

    Raises:
        InvalidLine: the id has an alias whose job does not exist.
    """
    owner = store.keys.shard_of_id(job_id)
    if owner is shard:
        return 0
    reply = await store.run(
        owner,
        "claim_alias",
        [owner.job(job_id), owner.alias_claims],
        [job_id, shard.index, _CLAIM_MS, ""],
        idempotent=True,
    )
    if reply[0] == b"ok":
        return int(reply[1])
    if reply[0] == b"taken" and not await _leads_to_a_job(store, job_id, int(reply[1])):
        raise InvalidLine(_RESERVED % job_id)
    return None


async def _leads_to_a_job(store: Store, job_id: str, target: int) -> bool:
    found = await read_jobs.read(store, store.keys.shard(target), job_id)
    return found is not None and f.STATE in found.fields


async def _restore_references(
    store: Store, line: JobLine, shard: Shard, outcome: RestoreOutcome
) -> RestoreOutcome:
    """Restore data of a stored job in other shards: limits of its rate limit key, and its lock.

    The lock is claimed after the job was stored. If it were claimed before, another producer could
    find the lock without a job and write a tombstone for the job's id. If another job holds the
    lock, it keeps the lock.
    """
    if f.LIMIT in line.fields:
        payload = b"%b %b" % (line.fields[f.LIMIT], line.fields[f.CREATED])
        await rate_tokens.handle_declaration(store, shard, payload)
    if line.holds_lock and f.UNIQUE in line.fields:
        fingerprint = line.fields[f.UNIQUE].decode().removesuffix("+")
        # A lock names the shard of its job, so that it leads to the job without the alias. An
        # existing job may be in any shard. The owner shard of its id has the job or an alias.
        stored_in = shard if outcome == "created" else store.keys.shard_of_id(line.id)
        retries = int(line.fields.get(f.REPLAYS, 0))
        request = locks.LockRequest(fingerprint, line.id, stored_in.index, retries)
        await locks.try_claim(store, store.keys.shard_of_fingerprint(fingerprint), [request])
    return outcome
