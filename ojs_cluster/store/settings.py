"""Everything about jobs that an operator may decide."""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE = 60_000
_DAY = 24 * 60 * _MINUTE


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Everything about jobs that an operator may decide. Times in ms, sizes in bytes.

    Args:
        visibility_timeout_ms: lease of a job when neither it nor its fetch names one.
        retention_completed_ms, retention_discarded_ms, retention_cancelled_ms, retention_dead_ms:
            how long finished jobs are kept (spec: ojs-queue-config, ojs-dead-letter).
        retention_workflow_ms: how long an ended workflow's record is kept.
        dead_letter_max: dead letters kept per queue; beyond it the oldest goes.
        worker_retention_ms: how long a silent worker's record is kept.
        heartbeat_interval_ms: three missed intervals make a watched worker dead, never less.
        errors_kept: entries of a job's error history, newest kept.
        result_max_bytes: largest result an ack may carry.
        events_per_shard: length of each shard's event stream; 0 switches events off.
        max_queues: most queue names; they come from clients.
        max_crons: most cron jobs.
        max_queue_depth: most jobs that wait in a queue without a bound of its own, 0 for no bound.
        queue_partitions: partitions of each queue that has no number of its own.
        allow_eviction: serve although Redis may evict keys.
    """

    visibility_timeout_ms: int = 2 * _MINUTE
    retention_completed_ms: int = 7 * _DAY
    retention_discarded_ms: int = 30 * _DAY
    retention_cancelled_ms: int = 7 * _DAY
    retention_dead_ms: int = 180 * _DAY
    dead_letter_max: int = 10_000
    retention_workflow_ms: int = 7 * _DAY
    worker_retention_ms: int = 60 * _MINUTE
    heartbeat_interval_ms: int = 10_000
    errors_kept: int = 10
    result_max_bytes: int = 1024 * 1024
    events_per_shard: int = 1000
    max_queues: int = 100_000
    max_crons: int = 10_000
    max_queue_depth: int = 0
    queue_partitions: int = 1
    allow_eviction: bool = False
