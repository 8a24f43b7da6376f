"""The settings of the store."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import boolean, integer, milliseconds, one_of
from ojs_cluster.core.config.variable import variable

_MIB = 1024 * 1024
_DAY_MS = 86_400_000
_YEAR_MS = 366 * _DAY_MS
_COUNT = integer(least=1, most=10_000_000)
_RETENTION = milliseconds(least=1000, most=10 * _YEAR_MS)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The settings of jobs, queues and workers. Times in milliseconds, sizes in bytes.

    Args:
        visibility_timeout_ms: lease of a job when the job and its fetch set none.
        retention_completed_ms, retention_discarded_ms, retention_cancelled_ms, retention_dead_ms:
            how long finished jobs are kept (spec: ojs-queue-config, ojs-dead-letter).
        on_exhaustion: what becomes of a job after its last attempt, ``discard`` or ``dead_letter``,
            unless the job or its queue decides.
        retention_workflow_ms: how long an ended workflow's record is kept.
        dead_letter_max: dead letters kept per queue; beyond it the oldest is removed.
        worker_retention_ms: how long the record of a worker without heartbeats is kept.
        heartbeat_interval_ms: a watched worker is dead after three missed intervals, not earlier.
        errors_kept: newest entries kept of a job's error history.
        result_max_bytes: largest result of an ack.
        events_per_shard: entries of each shard's event stream; 0 switches events off.
        max_queues: most queues; their names come from clients.
        max_crons: most cron jobs.
        max_queue_depth: most waiting jobs of a queue without a bound of its own, 0 for no bound.
        queue_partitions: partitions of each queue without a number of its own.
        allow_eviction: serve although Redis may evict keys.
    """

    visibility_timeout_ms: int = variable(
        "OJS_VISIBILITY_TIMEOUT_MS",
        integer(least=1, most=_DAY_MS),
        "120000",
        "Default lease of a fetched job.",
    )
    retention_completed_ms: int = variable(
        "OJS_RETENTION_COMPLETED",
        _RETENTION,
        "7d",
        "How long completed jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    )
    retention_discarded_ms: int = variable(
        "OJS_RETENTION_DISCARDED",
        _RETENTION,
        "30d",
        "How long discarded jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    )
    retention_cancelled_ms: int = variable(
        "OJS_RETENTION_CANCELLED",
        _RETENTION,
        "7d",
        "How long cancelled jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    )
    retention_dead_ms: int = variable(
        "OJS_RETENTION_DEAD",
        _RETENTION,
        "180d",
        "How long dead letters are kept.",
    )
    dead_letter_max: int = variable(
        "OJS_DEAD_LETTER_MAX",
        _COUNT,
        "10000",
        "Dead letters kept per queue, or partition of a queue; the oldest go first.",
    )
    on_exhaustion: str = variable(
        "OJS_ON_EXHAUSTION",
        one_of("discard", "dead_letter"),
        "discard",
        "What becomes of a job after its last attempt: discard, or dead_letter; unless its retry "
        "policy or its queue decides.",
    )
    retention_workflow_ms: int = variable(
        "OJS_RETENTION_WORKFLOW",
        _RETENTION,
        "7d",
        "How long an ended workflow and its results are kept.",
    )
    worker_retention_ms: int = variable(
        "OJS_RETENTION_WORKER",
        _RETENTION,
        "1h",
        "How long a worker's record is kept after its last heartbeat.",
    )
    heartbeat_interval_ms: int = variable(
        "OJS_HEARTBEAT_INTERVAL_MS",
        integer(least=100, most=3_600_000),
        "10000",
        "Expected time between heartbeats; three missed ones mean a dead worker.",
    )
    errors_kept: int = variable(
        "OJS_ERRORS_KEPT",
        integer(least=1, most=100),  # each up to 64 KiB, read together with the job
        "10",
        "Entries in a job's error history.",
    )
    result_max_bytes: int = variable(
        "OJS_RESULT_MAX_BYTES",
        integer(least=1024, most=16 * _MIB),  # as for a job's envelope
        "1048576",
        "Largest result of an ack, and of all results together that a workflow step gets.",
    )
    events_per_shard: int = variable(
        "OJS_EVENTS_PER_SHARD",
        integer(least=0, most=10_000_000),
        "1000",
        "Events kept per shard; 0 switches events off.",
    )
    max_queues: int = variable(
        "OJS_MAX_QUEUES",
        _COUNT,
        "100000",
        "Queues that may exist; guards against a client that invents names. While the registry's "
        "master is away, each process may exceed it by as many as were free.",
    )
    max_crons: int = variable(
        "OJS_MAX_CRONS",
        _COUNT,
        "10000",
        "Cron jobs that may be registered.",
    )
    max_queue_depth: int = variable(
        "OJS_MAX_QUEUE_DEPTH",
        integer(least=0, most=2**52),
        "0",
        "Jobs that may wait in a queue, unless set for the queue; then 429. 0 for any number.",
    )
    queue_partitions: int = variable(
        "OJS_QUEUE_PARTITIONS",
        integer(least=1, most=64),
        "1",
        "Shards each queue is spread over, unless set for the queue; order holds within each.",
    )
    allow_eviction: bool = variable(
        "OJS_ALLOW_EVICTION",
        boolean,
        "false",
        "Start although Redis's maxmemory-policy is not noeviction: it may then drop jobs.",
    )
