"""Let time pass for one job or one worker, instead of sleeping.

Deadlines are scores of sorted sets and fields of hashes. Moving both back by the same number of
milliseconds has the same effect on scripts as passing time.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.ground import job_fields as f

_FIELDS = (f.CREATED, f.ENQUEUED, f.STARTED, f.FINISHED, f.DUE, f.DEADLINE, f.EXPIRES, f.EXTENDED)
_INDEXES = ("due", "active", "execution_deadlines", "expiring", "pending", "finished", "dead")
_WORKER_INDEXES = ("workers", "watched", "lost_workers", "quiet_workers")
_WORKER_FIELDS = ("first_seen", "last_seen", "last_heartbeat", "quiet_flag_at")


def age_job(db: Any, shard: Shard, job_id: str, ms: int) -> None:
    """Let ``ms`` pass for one job.

    Args:
        db: redis-py's client.
        shard: the shard that stores the job.
        job_id: the id of the job.
        ms: how much time passes, in milliseconds.
    """
    key = shard.job(job_id)
    queue = db.hget(key, f.QUEUE)
    assert queue is not None, f"no job {job_id} in shard {shard.index}"
    for name in _FIELDS:
        value = db.hget(key, name)
        if value is not None:
            db.hset(key, name, int(value) - ms)
    for index in (*(getattr(shard, name) for name in _INDEXES), shard.queue_dead(queue.decode())):
        _age(db, index, job_id, ms)


def age_worker(db: Any, shard: Shard, worker_id: str, ms: int) -> None:
    """Let a worker be silent for ``ms``, with all checks in that time.

    ``shard`` is the shard of its record.
    """
    db.delete(shard.last_worker_check)
    key = shard.worker(worker_id)
    for name in _WORKER_FIELDS:
        value = db.hget(key, name)
        if value is not None:
            db.hset(key, name, int(value) - ms)
    for name in _WORKER_INDEXES:
        _age(db, getattr(shard, name), worker_id, ms)
    _age(db, shard.quiet_workers, isolation_of(worker_id), ms)


def isolation_of(worker_id: str) -> str:
    """Return the member of ``quiet_workers`` that isolates a worker (``isolated_workers.lua``)."""
    return f"{worker_id}\nisolated"


def age_claim(db: Any, shard: Shard, job_id: str, ms: int) -> None:
    """Let the claim of the alias of ``job_id`` be ``ms`` older."""
    _age(db, shard.alias_claims, job_id, ms)


def age_references(db: Any, shard: Shard, ms: int) -> None:
    """Let every job of ``shard`` with references be stored, or removed, ``ms`` earlier."""
    for name in db.zrange(shard.references, 0, -1):
        db.zincrby(shard.references, -ms, name)


def age_queue(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """Let the queue be ``ms`` older."""
    db.hincrby(shard.queue_counters(queue), "created", -ms)


def age_drain(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """Let the drain of a deletion be ``ms`` older."""
    key = shard.queue_counters(queue)
    for field in ("deleting", "removed_defaults"):
        time, has_time, rest = (db.hget(key, field) or b"").partition(b"-")
        if has_time and re.fullmatch(rb"[0-9a-f]+", time):
            db.hset(key, field, b"%x-%s" % (int(time, 16) - ms, rest))


def _age(db: Any, index: bytes, member: str, ms: int) -> None:
    if db.zscore(index, member) is not None:
        db.zincrby(index, -ms, member)


def age_cron(db: Any, meta: Meta, name: str, ms: int) -> None:
    """Bring the next occurrence and the maintenance of a cron job ``ms`` nearer."""
    for field in ("next_occurrence", "next_maintenance", "not_before", "anchor"):
        value = db.hget(meta.cron(name), field)
        if value is not None:
            db.hset(meta.cron(name), field, int(value) - ms)
    _age(db, meta.crons, name, ms)


def age_limits(db: Any, key: bytes, ms: int) -> None:
    """Let the starts that the limits in this hash have counted be ``ms`` older."""
    for field in ("starts", "declared_starts"):
        log = db.hget(key, field)
        if log is not None:
            entries = [entry.split(b":") for entry in log.split()]
            db.hset(key, field, b" ".join(b"%d:%b" % (int(at) - ms, n) for at, n in entries))
    if db.hexists(key, "next_start"):
        db.hset(key, "next_start", float(db.hget(key, "next_start")) - ms)


def age_opening(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """Let the limits of a queue have capacity again ``ms`` earlier."""
    _age(db, shard.exhausted_queues, queue, ms)


def age_partitions(db: Any, meta: Meta, queue: str, ms: int) -> None:
    """Let the last change of a queue's number of partitions be ``ms`` older."""
    old = PartitionLayout.parse(db.hget(meta.partitions, queue))
    db.hset(meta.partitions, queue, replace(old, changed_at_ms=old.changed_at_ms - ms).pack())
    db.hincrby(meta.partitions, "#", 1)


def age_declared(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """Let the declaration and last use of a queue's ``max_per_second`` be ``ms`` older."""
    if db.hexists(shard.queue_counters(queue), "declared_at"):
        db.hincrby(shard.queue_counters(queue), "declared_at", -ms)
