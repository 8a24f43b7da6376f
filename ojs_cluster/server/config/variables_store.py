"""Variables of Redis, the store and the scheduler."""

from __future__ import annotations

from ojs_cluster.server.config import env_values as accept
from ojs_cluster.server.config.variable import Variable

_MIB = 1024 * 1024
_DAY_MS = 86_400_000
_YEAR_MS = 366 * _DAY_MS

_TIMEOUT = accept.seconds(least=0.05, most=600)
REDIS = (
    Variable(
        "REDIS_URL",
        "redis.url",
        accept.redis_url,
        "redis://localhost:6379",
        "Redis or Valkey, standalone or cluster; several start nodes are comma separated.",
        reference=True,
        secret=True,
    ),
    Variable(
        "OJS_REDIS_USERNAME", "redis.username", accept.non_empty, "", "ACL user; wins over the URL."
    ),
    Variable(
        "OJS_REDIS_PASSWORD",
        "redis.password",
        accept.non_empty,
        "",
        "Password; wins over the URL.",
        secret=True,
    ),
    Variable(
        "OJS_REDIS_TLS_CA",
        "redis.tls_ca",
        accept.readable_file,
        "",
        "CA certificates that sign the servers' (rediss:// only).",
    ),
    Variable(
        "OJS_REDIS_TLS_CERT",
        "redis.tls_cert",
        accept.readable_file,
        "",
        "Client certificate (rediss:// only).",
    ),
    Variable(
        "OJS_REDIS_TLS_KEY",
        "redis.tls_key",
        accept.readable_file,
        "",
        "Key of the client certificate.",
    ),
    Variable(
        "OJS_REDIS_CONNECT_TIMEOUT",
        "redis.connect_timeout_s",
        _TIMEOUT,
        "2s",
        "One connection's TCP, TLS and handshake together.",
    ),
    Variable(
        "OJS_REDIS_REPLY_TIMEOUT",
        "redis.reply_timeout_s",
        _TIMEOUT,
        "5s",
        "A node that owes a reply and sends nothing for this long is taken for dead.",
    ),
    Variable(
        "OJS_REDIS_CALL_TIMEOUT",
        "redis.call_timeout_s",
        _TIMEOUT,
        "10s",
        "All calls of one request in total, retries included; then the client gets 503.",
    ),
    Variable(
        "OJS_REDIS_MAX_IN_FLIGHT",
        "redis.max_in_flight",
        accept.integer(least=1, most=1_000_000),
        "1024",
        "Unanswered commands per node and process; more wait their turn.",
    ),
    Variable(
        "OJS_DURABILITY",
        "redis.durability",
        accept.one_of("async", "replica", "fsync"),
        "async",
        "What a write waits for before it is acknowledged: nothing more than Redis itself, "
        "replicas, or disks. A request may ask for more in `OJS-Durability`.",
    ),
    Variable(
        "OJS_DURABILITY_REPLICAS",
        "redis.durability_replicas",
        accept.integer(least=0, most=5),
        "1",
        "Replicas of a master that must have the write; `fsync` on a standalone server counts "
        "none.",
    ),
    Variable(
        "OJS_DURABILITY_TIMEOUT",
        "redis.durability_timeout_s",
        _TIMEOUT,
        "1s",
        "How long to wait for them; then 503 says that the write is stored, but unconfirmed. At "
        "most half of OJS_REDIS_REPLY_TIMEOUT.",
    ),
)

_COUNT = accept.integer(least=1, most=10_000_000)
_RETENTION = accept.milliseconds(least=1000, most=10 * _YEAR_MS)
STORE = (
    Variable(
        "OJS_SHARDS",
        "shards.count",
        accept.integer(least=1, most=1024),
        "64",
        "Logical shards; fixed when the cluster is first used.",
    ),
    Variable(
        "OJS_VISIBILITY_TIMEOUT_MS",
        "store.visibility_timeout_ms",
        accept.integer(least=1, most=_DAY_MS),
        "120000",
        "Default lease of a fetched job.",
    ),
    Variable(
        "OJS_HEARTBEAT_INTERVAL_MS",
        "store.heartbeat_interval_ms",
        accept.integer(least=100, most=3_600_000),
        "10000",
        "Expected time between heartbeats; three missed ones mean a dead worker.",
    ),
    Variable(
        "OJS_RETENTION_COMPLETED",
        "store.retention_completed_ms",
        _RETENTION,
        "7d",
        "How long completed jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    ),
    Variable(
        "OJS_RETENTION_DISCARDED",
        "store.retention_discarded_ms",
        _RETENTION,
        "30d",
        "How long discarded jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    ),
    Variable(
        "OJS_RETENTION_CANCELLED",
        "store.retention_cancelled_ms",
        _RETENTION,
        "7d",
        "How long cancelled jobs are kept; 3 times OJS_REDIS_CALL_TIMEOUT at least.",
    ),
    Variable(
        "OJS_RETENTION_DEAD",
        "store.retention_dead_ms",
        _RETENTION,
        "180d",
        "How long dead letters are kept.",
    ),
    Variable(
        "OJS_RETENTION_WORKFLOW",
        "store.retention_workflow_ms",
        _RETENTION,
        "7d",
        "How long an ended workflow and its results are kept.",
    ),
    Variable(
        "OJS_RETENTION_WORKER",
        "store.worker_retention_ms",
        _RETENTION,
        "1h",
        "How long a worker's record is kept after its last heartbeat.",
    ),
    Variable(
        "OJS_DEAD_LETTER_MAX",
        "store.dead_letter_max",
        _COUNT,
        "10000",
        "Dead letters kept per queue, or partition of a queue; the oldest go first.",
    ),
    Variable(
        "OJS_ERRORS_KEPT",
        "store.errors_kept",
        accept.integer(least=1, most=100),  # of up to 64 KiB each, read together with the job
        "10",
        "Entries in a job's error history.",
    ),
    Variable(
        "OJS_RESULT_MAX_BYTES",
        "store.result_max_bytes",
        accept.integer(least=1024, most=16 * _MIB),  # as that of a job's envelope
        "1048576",
        "Largest result that an ack may carry, and all results that a step of a workflow is given.",
    ),
    Variable(
        "OJS_EVENTS_PER_SHARD",
        "store.events_per_shard",
        accept.integer(least=0, most=10_000_000),
        "1000",
        "Events kept per shard; 0 switches events off.",
    ),
    Variable(
        "OJS_MAX_QUEUES",
        "store.max_queues",
        _COUNT,
        "100000",
        "Queues that may exist; guards against a client that invents names. While the registry's "
        "master is away, each process may exceed it by as many as were free.",
    ),
    Variable(
        "OJS_MAX_QUEUE_DEPTH",
        "store.max_queue_depth",
        accept.integer(least=0, most=2**52),
        "0",
        "Jobs that may wait in a queue, unless set for the queue; then 429. 0 for any number.",
    ),
    Variable(
        "OJS_MAX_CRONS",
        "store.max_crons",
        _COUNT,
        "10000",
        "Cron jobs that may be registered.",
    ),
    Variable(
        "OJS_QUEUE_PARTITIONS",
        "store.queue_partitions",
        accept.integer(least=1, most=64),
        "1",
        "Shards each queue is spread over, unless set for the queue; order holds within each.",
    ),
    Variable(
        "OJS_ALLOW_EVICTION",
        "store.allow_eviction",
        accept.boolean,
        "false",
        "Start although Redis's maxmemory-policy is not noeviction: it may then drop jobs.",
    ),
)

SCHEDULER = (
    Variable(
        "OJS_SCHEDULER_GROUP",
        "scheduler.group",
        accept.non_empty,
        "default",
        "Schedulers of one group elect one leader for each shard.",
    ),
    Variable(
        "OJS_SCHEDULER_LEASE",
        "scheduler.lease_ttl_ms",
        accept.milliseconds(least=500, most=300_000),
        "5s",
        "After a leader dies, another leads its shards within this time.",
    ),
)
