"""Lets time pass for one job or one worker, instead of sleeping.

Deadlines are scores of sorted sets beside fields of hashes; moving both back by the same number of
milliseconds is what the passing of time looks like to the scripts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.jobs import fields as f

_FIELDS = (f.CREATED, f.ENQUEUED, f.STARTED, f.FINISHED, f.DUE, f.DEADLINE, f.EXPIRES, f.EXTENDED)
_INDEXES = ("due", "active", "execution_deadlines", "expiring", "pending", "finished", "dead")
_WORKER_INDEXES = ("workers", "watched", "lost_workers", "quiet_workers")
_WORKER_FIELDS = ("first_seen", "last_seen", "last_heartbeat", "quiet_flag_at")


def age_job(db: Any, shard: Shard, job_id: str, ms: int) -> None:
    """As if ``ms`` had passed since everything that happened to the job.

    Args:
        db: redis-py's client.
        shard: where the job lives, which is the shard of its queue.
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
    """As if the worker had been silent for ``ms``, and had been checked all the time.

    ``shard`` is the one of its record.
    """
    db.delete(shard.last_worker_check)
    key = shard.worker(worker_id)
    for name in _WORKER_FIELDS:
        value = db.hget(key, name)
        if value is not None:
            db.hset(key, name, int(value) - ms)
    for name in _WORKER_INDEXES:
        _age(db, getattr(shard, name), worker_id, ms)


def age_claim(db: Any, shard: Shard, job_id: str, ms: int) -> None:
    """As if the alias of ``job_id`` had been claimed ``ms`` earlier."""
    _age(db, shard.alias_claims, job_id, ms)


def age_references(db: Any, shard: Shard, ms: int) -> None:
    """As if every job of ``shard`` with references had been stored, or removed, ``ms`` earlier."""
    for name in db.zrange(shard.references, 0, -1):
        db.zincrby(shard.references, -ms, name)


def age_queue(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """As if the queue had been created ``ms`` earlier."""
    db.hincrby(shard.queue_counters(queue), "created", -ms)


def _age(db: Any, index: bytes, member: str, ms: int) -> None:
    if db.zscore(index, member) is not None:
        db.zincrby(index, -ms, member)


def age_cron(db: Any, meta: Meta, name: str, ms: int) -> None:
    """As if the next tick of a cron job, and whatever it waits for, were ``ms`` nearer."""
    for field in ("n", "w", "nb", "a"):
        value = db.hget(meta.cron(name), field)
        if value is not None:
            db.hset(meta.cron(name), field, int(value) - ms)
    _age(db, meta.crons, name, ms)


def age_limits(db: Any, key: bytes, ms: int) -> None:
    """As if the starts that the limits in this hash have counted had been ``ms`` earlier."""
    for field in ("starts", "declared_starts"):
        log = db.hget(key, field)
        if log is not None:
            entries = [entry.split(b":") for entry in log.split()]
            db.hset(key, field, b" ".join(b"%d:%b" % (int(at) - ms, n) for at, n in entries))
    if db.hexists(key, "next_start"):
        db.hset(key, "next_start", float(db.hget(key, "next_start")) - ms)


def age_opening(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """As if a queue's limits had room again ``ms`` earlier."""
    _age(db, shard.exhausted_queues, queue, ms)


def age_partitions(db: Any, meta: Meta, queue: str, ms: int) -> None:
    """As if a queue's number of partitions had been changed ``ms`` earlier."""
    old = PartitionLayout.parse(db.hget(meta.partitions, queue))
    db.hset(meta.partitions, queue, replace(old, changed_at_ms=old.changed_at_ms - ms).pack())
    db.hincrby(meta.partitions, "#", 1)


def age_declared(db: Any, shard: Shard, queue: str, ms: int) -> None:
    """As if a queue's ``max_per_second`` had been declared, or used, ``ms`` earlier."""
    if db.hexists(shard.queue_counters(queue), "declared_at"):
        db.hincrby(shard.queue_counters(queue), "declared_at", -ms)
