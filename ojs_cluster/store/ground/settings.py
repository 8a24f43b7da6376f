"""The settings of the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from ojs_cluster.core.config.parsers import boolean, integer, milliseconds, one_of
from ojs_cluster.core.config.variable import variable
from ojs_cluster.core.indexed_fields import IndexedField, parse_indexed_fields
from ojs_cluster.webhooks.settings import WebhookSettings

_MIB = 1024 * 1024
_DAY_MS = 86_400_000
_YEAR_MS = 366 * _DAY_MS
_EXACT_IN_LUA = 2**52
"""Lua counts with doubles, which are exact up to 2**53. So the sum of two numbers is exact if both
are at most this number."""
_COUNT = integer(minimum=1, maximum=10_000_000)
_RETENTION = milliseconds(minimum=1000, maximum=10 * _YEAR_MS)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The settings of jobs, queues and workers. Times are in milliseconds, sizes in bytes.

    Args:
        visibility_timeout_ms: length of a lease when neither the job nor its fetch sets one.
        retention_completed_ms, retention_discarded_ms, retention_cancelled_ms, retention_dead_ms:
            how long finished jobs are kept (spec: ojs-queue-config, ojs-dead-letter).
        on_exhaustion: whether a job is discarded (``discard``) or becomes a dead letter
            (``dead_letter``) after its last attempt, unless the job or its queue sets it.
        retention_workflow_ms: how long an ended workflow's record is kept.
        retention_bulk_ms: how long the record of an ended bulk operation is kept.
        dead_letter_max: maximum number of dead letters of a queue, or of each of its partitions; a
            further one removes the oldest.
        lone_deaths: number of deaths of workers that ran a job alone after which it does not run
            again.
        worker_retention_ms: how long the record of a worker without heartbeats is kept.
        heartbeat_interval_ms: expected time between two heartbeats. A worker that sends heartbeats
            counts as dead after three intervals without one.
        errors_kept: number of newest errors that a job keeps.
        history_enabled: whether jobs record their history (spec: ojs-execution-history 6).
        history_max_events: maximum number of entries that a job records.
        result_max_bytes: maximum size of the result of an ack.
        events_per_shard: number of entries of each shard's event stream; 0 switches events off.
        max_queues: maximum number of queues, whose names clients choose.
        max_crons: maximum number of cron jobs.
        max_queue_depth: maximum number of waiting jobs of a queue for which no operator has set a
            depth bound; 0 for no bound.
        queue_partitions: number of partitions of a queue, unless an operator has set a number.
        metrics_types: maximum number of job types that are counted in each queue, 0 for none.
        schema_mode: what happens to jobs whose args do not match their schema, unless an operator
            has chosen another mode for the type (spec: ojs-schema-registry 7).
        max_schemas: maximum number of schemas of job args.
        schemas_max_bytes: maximum size of all these schemas together.
        search_index: the fields that the index of the search has.
        search_index_retention_ms: how long the index keeps a value after its last job was stored
            or is due.
        allow_eviction: whether to serve although Redis may evict keys.
        webhooks: the settings of webhook deliveries.
    """

    visibility_timeout_ms: int = variable(
        "OJS_VISIBILITY_TIMEOUT_MS",
        integer(minimum=1, maximum=_DAY_MS),
        "120000",
        "Length of the lease of a fetched job, unless the job or the fetch sets another.",
    )
    retention_completed_ms: int = variable(
        "OJS_RETENTION_COMPLETED",
        _RETENTION,
        "7d",
        "How long completed jobs are kept, at least 3 times OJS_REDIS_CALL_TIMEOUT.",
    )
    retention_discarded_ms: int = variable(
        "OJS_RETENTION_DISCARDED",
        _RETENTION,
        "30d",
        "How long discarded jobs are kept, at least 3 times OJS_REDIS_CALL_TIMEOUT.",
    )
    retention_cancelled_ms: int = variable(
        "OJS_RETENTION_CANCELLED",
        _RETENTION,
        "7d",
        "How long cancelled jobs are kept, at least 3 times OJS_REDIS_CALL_TIMEOUT.",
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
        "Maximum number of dead letters of a queue, or of each of its partitions; a further one "
        "removes the oldest.",
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
    retention_bulk_ms: int = variable(
        "OJS_RETENTION_BULK",
        _RETENTION,
        "7d",
        "How long an ended bulk operation and its counts are kept.",
    )
    lone_deaths: int = variable(
        "OJS_LONE_DEATHS",
        integer(minimum=1, maximum=1000),
        "3",
        "A job whose workers die this many times while they run it alone becomes a dead letter, "
        "unless its retry policy discards it. It may end earlier, after its last attempt.",
    )
    worker_retention_ms: int = variable(
        "OJS_RETENTION_WORKER",
        _RETENTION,
        "1h",
        "How long a worker's record is kept after its last heartbeat.",
    )
    heartbeat_interval_ms: int = variable(
        "OJS_HEARTBEAT_INTERVAL_MS",
        integer(minimum=100, maximum=3_600_000),
        "10000",
        "Expected time between two heartbeats of a worker; after three intervals without a "
        "heartbeat the worker counts as dead.",
    )
    errors_kept: int = variable(
        "OJS_ERRORS_KEPT",
        integer(minimum=1, maximum=100),  # an error has up to 64 KiB, and is read with its job
        "10",
        "Number of newest errors that a job keeps.",
    )
    history_enabled: bool = variable(
        "OJS_HISTORY_ENABLED",
        boolean,
        "true",
        "Whether a job records what retries, lost leases, cancellations and changes overwrite, for "
        "its history. Without it, the history shows what the job itself still has.",
    )
    history_max_events: int = variable(
        "OJS_HISTORY_MAX_EVENTS_PER_JOB",
        integer(minimum=1, maximum=1000),
        "100",
        "Maximum number of entries that a job records for its history, up to 16 KiB together. The "
        "newest are kept, as long as the job.",
    )
    result_max_bytes: int = variable(
        "OJS_RESULT_MAX_BYTES",
        integer(minimum=1024, maximum=16 * _MIB),  # a job's envelope has the same maximum
        "1048576",
        "Maximum size in bytes of the result of an ack, and of all results together that a "
        "workflow step gets.",
    )
    events_per_shard: int = variable(
        "OJS_EVENTS_PER_SHARD",
        integer(minimum=0, maximum=10_000_000),
        "1000",
        "Number of newest events that each shard keeps; 0 switches events off.",
    )
    max_queues: int = variable(
        "OJS_MAX_QUEUES",
        _COUNT,
        "100000",
        "Maximum number of queues, because clients choose their names. While the Redis master with "
        "the queue names does not answer, each process may still admit as many new names as "
        "were free.",
    )
    max_crons: int = variable(
        "OJS_MAX_CRONS",
        _COUNT,
        "10000",
        "Maximum number of cron jobs.",
    )
    max_queue_depth: int = variable(
        "OJS_MAX_QUEUE_DEPTH",
        integer(minimum=0, maximum=_EXACT_IN_LUA),
        "0",
        "Maximum number of waiting jobs of a queue, unless an operator has set another for the "
        "queue; further jobs are refused with status 429. 0 allows any number.",
    )
    queue_partitions: int = variable(
        "OJS_QUEUE_PARTITIONS",
        integer(minimum=1, maximum=64),
        "1",
        "Number of partitions of each queue, unless an operator has set another for the queue. "
        "Jobs are in order within a partition only.",
    )
    metrics_types: int = variable(
        "OJS_METRICS_TYPES",
        integer(minimum=0, maximum=1000),
        "20",
        "Maximum number of job types of a queue that /metrics shows; further ones are shown as the "
        "type other. 0 counts no types.",
    )
    schema_mode: str = variable(
        "OJS_SCHEMA_MODE",
        one_of("strict", "warn", "off"),
        "warn",
        "What happens to a job whose args do not match the schema of its type, unless an operator "
        "has chosen a mode for the type: `strict` refuses it with status 422, `warn` accepts it "
        "and adds warnings to the response, `off` does not validate.",
    )
    max_schemas: int = variable(
        "OJS_MAX_SCHEMAS",
        integer(minimum=1, maximum=2000),
        "1000",
        "Maximum number of schemas of job args. Each version of a job type counts.",
    )
    schemas_max_bytes: int = variable(
        "OJS_SCHEMAS_MAX_BYTES",
        integer(minimum=65_536, maximum=64 * _MIB),
        "4194304",
        "Maximum size of all schemas of job args together, in bytes. Every process keeps a copy.",
    )
    search_index: tuple[IndexedField, ...] = variable(
        "OJS_SEARCH_INDEX",
        parse_indexed_fields,
        "",
        "Fields that searches find by an index, such as meta.customer_id,tags: up to 8 members of "
        "meta, and the tags. Only jobs that are stored from then on are in the index.",
        empty=(),
    )
    search_index_retention_ms: int = variable(
        "OJS_SEARCH_INDEX_RETENTION",
        _RETENTION,
        "30d",
        "How long the index of the search keeps a value after its last job was stored or is due.",
    )
    allow_eviction: bool = variable(
        "OJS_ALLOW_EVICTION",
        boolean,
        "false",
        "Whether to start although the maxmemory-policy of Redis is not noeviction. Redis may then "
        "delete jobs when its memory is full.",
    )
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)

    @property
    def history_kept(self) -> int:
        """Number of entries that a job records for its history, 0 to record none."""
        return self.history_max_events if self.history_enabled else 0
