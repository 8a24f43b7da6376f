"""Shards, hash tags and names of Redis keys: the only Python module that spells a Redis key.

Every key is ``ojs:{tag}:...``. A shard owns one tag, so all keys that a script touches are in one
cluster slot. The tags are chosen so that the slot of shard i is in the i-th of N equal slot ranges.
If the masters divide the 16384 slots evenly, the numbers of shards of two masters differ by at most
one, for any number of masters. Tags whose slots are random were refused: at N = 64 some masters
would have half the shards of others.

Lua derives the keys of the jobs it finds from the same names: ``store/include/base/keys.lua`` is
this module's twin. ``tests/store/scripts/test_keys.py`` compares the two.
"""

from __future__ import annotations

import math
import zlib
from binascii import crc_hqx
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from ojs_cluster.core.jobs.ids import shard_of

_SLOTS = 16384
"""Number of hash slots of a cluster (Redis Cluster specification, key distribution model)."""
META_TAG = "meta"
"""The hash tag of data that belongs to no shard."""
META = -1
"""Stands for the meta tag in place of a shard's index. No shard has this index."""
_GOLDEN_SECTION = 0.6180339887498949
MAX_SHARDS = 1024
"""Maximum number of shards. A job id has 12 bits (``rand_a``), so it could name more."""
MAX_PARTITIONS = 64
"""Maximum number of partitions of a queue. A fetch from an empty queue searches all of them."""


KEYS_OF_JOBS = b"ojs:{*}:j:*"
"""Pattern that the keys of jobs and aliases match. The command ``export`` scans for it."""


KEYS_OF_QUEUES = b"ojs:{*}:c:*"
"""Pattern that the keys of the counters of queues match. A rebuild of their list scans for it."""


def queue_of_key(key: bytes) -> tuple[str, str]:
    """Return the hash tag and the queue in the key of a queue's counters."""
    tag, _, queue = key.decode(errors="replace").removeprefix("ojs:{").partition("}:c:")
    return tag, queue


def job_of_key(key: bytes) -> tuple[str, str]:
    """Return the hash tag and the job id in the key of a job or an alias."""
    tag, _, job_id = key.decode().removeprefix("ojs:{").partition("}:j:")
    return tag, job_id


_TYPES = {
    b"hash": (
        b"j cp tc ta l c m s t ty th thh w wf wd wr u ik tx outbox error_groups history_totals "
        b"webhook_deliveries webhook_counts webhooks tenant_weights tenants schema partitions "
        b"history_minutes history_hours maintenance searches pools pool_counts queue_defaults bulk "
        b"job_schemas job_schema_documents processes cron problems problem_mutes "
        b"cron_counts"
    ),
    b"stream": b"events audit",
    b"string": b"last_worker_check wal_probe leader fencing_counter ui_secret",
    b"list": b"cron_history",
}
"""The kinds of keys that are no sorted sets."""
_TYPE_OF = {kind: name for name, kinds in _TYPES.items() for kind in kinds.split()}


def kind_of_key(key: bytes) -> bytes:
    """Return the part of a key after its tag that is the same for all keys of a kind."""
    return key.partition(b"}:")[2].partition(b":")[0]


def type_of_key(key: bytes) -> bytes:
    """Return the Redis type that a key has if it exists, as TYPE returns it."""
    return _TYPE_OF.get(kind_of_key(key), b"zset")


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard: all its keys have the hash tag ``tag`` and so are in one slot.

    Args:
        index: position among the N shards, 0-based.
        tag: the hash tag, without braces.
        slot: the cluster slot of the tag, 0..16383.
    """

    index: int
    tag: str
    slot: int
    prefix: bytes = field(init=False)
    due: bytes = field(init=False)
    """Sorted set: scheduled and retryable jobs by the ms at which they become available.

    The other keys are sorted sets too, unless their text says otherwise."""
    active: bytes = field(init=False)
    """Active jobs by visibility deadline (ms)."""
    execution_deadlines: bytes = field(init=False)
    """Active jobs with an execution timeout, by the time when it ends (ms)."""
    expiring: bytes = field(init=False)
    """Jobs with ``expires_at`` that are neither active nor finished, by ``expires_at`` (ms)."""
    pending: bytes = field(init=False)
    """Pending jobs by creation time (ms)."""
    finished: bytes = field(init=False)
    """Terminal jobs by the ms at which their retention ends."""
    dead: bytes = field(init=False)
    """Dead letters by the ms at which they were discarded."""
    events: bytes = field(init=False)
    """Stream: events of the shard's last transitions, bounded by MAXLEN."""
    workers: bytes = field(init=False)
    """Workers whose record is in this shard, by the ms of their last heartbeat or fetch."""
    watched: bytes = field(init=False)
    """Workers that send heartbeats, by the ms from which they count as dead without one."""
    lost_workers: bytes = field(init=False)
    """Dead workers whose jobs have to be recovered, by the ms at which they were found dead."""
    last_worker_check: bytes = field(init=False)
    """String: time of the last check for dead workers (ms)."""
    quiet_workers: bytes = field(init=False)
    """Workers that may not fetch, by the ms at which the quiet flag expires."""
    alias_claims: bytes = field(init=False)
    """Claims of client-supplied ids whose job is not known to be stored, by claim time (ms)."""
    references: bytes = field(init=False)
    """Jobs with an alias or a lock in another shard, by the ms of the last of these events: the job
    was stored, an operator retried it, or it was removed."""
    outbox: bytes = field(init=False)
    """Hash: effects for other shards, entry number to kind, attempts and payload."""
    outbox_due: bytes = field(init=False)
    """Outbox entries by the ms of their next attempt."""
    outbox_blocked_shards: bytes = field(init=False)
    """Shards that outbox entries wait for, by the ms of the next attempt."""
    outbox_dead_letters: bytes = field(init=False)
    """Outbox dead letters by the ms of the last attempt."""
    workflows: bytes = field(init=False)
    """Workflows whose record is in this shard, by creation time (ms)."""
    running_workflows: bytes = field(init=False)
    """Running workflows by the ms at which the scheduler checks their jobs."""
    ended_workflows: bytes = field(init=False)
    """Ended workflows by the ms at which their retention ends."""
    locks: bytes = field(init=False)
    """Unique locks by the ms at which the janitor checks them."""
    aborted_transactions: bytes = field(init=False)
    """Cross-shard transactions that must not be committed, by the ms of their abort."""
    applied_transactions: bytes = field(init=False)
    """Cross-shard transactions whose writes in this shard are applied, by the ms when they
    were applied."""
    exhausted_queues: bytes = field(init=False)
    """Queues whose limits allow no further start, by the ms at which they allow one again."""
    quarantine: bytes = field(init=False)
    """Quarantined jobs by the ms of the next check."""
    error_groups: bytes = field(init=False)
    """Hash: per group of errors the number of failures, times of the first and last, and a job."""
    error_group_times: bytes = field(init=False)
    """Groups of errors by the ms of the last failure."""
    token_grants: bytes = field(init=False)
    """Available jobs with a granted token, by the ms at which they lose the token. Also jobs with a
    pending token request, by the ms at which the request is sent again."""
    rate_limits: bytes = field(init=False)
    """Rate limit keys whose state is in this shard, in name order: all scores are 0."""
    rate_limit_checks: bytes = field(init=False)
    """Rate limit keys whose state is in this shard, by the ms of the scheduler's next check."""
    job_types: bytes = field(init=False)
    """Job types with records of the last two hours, by the ms of their last jobs."""
    type_hours: bytes = field(init=False)
    """Job types with records by the hour, by the last hour with jobs (Unix hours)."""
    history_totals: bytes = field(init=False)
    """Hash: sums of the totals of all queues of the shard, removed queues included."""
    webhook_deliveries: bytes = field(init=False)
    """Hash: webhook deliveries by number, and ``a<number>`` for their attempts. ``seq`` is the last
    number."""
    webhook_due: bytes = field(init=False)
    """Webhook subscriptions with pending deliveries, by the ms of the next attempt."""
    webhook_delivered: bytes = field(init=False)
    """The newest delivered webhook deliveries by the ms of their end."""
    webhook_dead: bytes = field(init=False)
    """The newest dead webhook deliveries by the ms of their end."""
    webhook_counts: bytes = field(init=False)
    """Hash: per webhook subscription its attempts by outcome, and the last one."""
    tenant_weights: bytes = field(init=False)
    """Hash: copy of the weights of tenants other than 1. The field '#' identifies the copy."""
    wake_channel: bytes = field(init=False)
    """Channel: the name of a queue that stopped being empty."""
    schedule_channel: bytes = field(init=False)
    """Channel: the ms of a new earliest deadline."""
    schema: bytes = field(init=False)
    """Hash: copy of ``Meta.schema``, for a process that starts while the meta tag's master does not
    answer."""
    wal_probe: bytes = field(init=False)
    """String: written only to confirm earlier writes (``redis.group_commit``), and never read."""

    def __post_init__(self) -> None:
        prefix = f"ojs:{{{self.tag}}}:".encode()
        put = object.__setattr__
        put(self, "prefix", prefix)
        for name in SHARD_KEYS:
            put(self, name, prefix + name.encode())

    def __hash__(self) -> int:
        # The generated method would hash all Redis keys at each look-up in a dictionary of shards.
        return self.slot

    # Letters that several kinds of keys begin with: h (held) for blocked jobs and their tokens, l
    # for rate limits, t for tenants and for times and types, w for workers and workflows.

    def job(self, job_id: str) -> bytes:
        """Return the key of the hash of a job, or of the alias for a client's id."""
        return self.prefix + b"j:" + job_id.encode()

    def checkpoint(self, job_id: str) -> bytes:
        """Return the key of the hash of a job's checkpoint."""
        return self.prefix + b"cp:" + job_id.encode()

    def indexed_value(self, digest: str) -> bytes:
        """Return the key of a sorted set: the newest jobs with a value, by creation time (ms)."""
        return self.prefix + b"iv:" + digest.encode()

    def queue_available(self, queue: str) -> bytes:
        """Return the key of a sorted set: a queue's available jobs, by priority, then FIFO."""
        return self.prefix + b"q:" + queue.encode()

    def tenant_queue(self, queue: str, tenant: str) -> bytes:
        """Return the key of a sorted set: a tenant's available jobs in a queue, by their score."""
        return self.prefix + b"tq:%b:%b" % (queue.encode(), tenant.encode())

    def tenant_turns(self, queue: str) -> bytes:
        """Return the key of a sorted set: tenants of a queue with a fair share by next turn."""
        return self.prefix + b"tt:" + queue.encode()

    def tenant_counters(self, tenant: str) -> bytes:
        """Return the key of a hash: numbers of a tenant's jobs in this shard."""
        return self.prefix + b"tc:" + tenant.encode()

    def tenant_admission(self, tenant: str) -> bytes:
        """Return the key of a hash: how many new jobs of a tenant with limits were admitted."""
        return self.prefix + b"ta:" + tenant.encode()

    def queue_blocked(self, queue: str) -> bytes:
        """Return the key of a sorted set: a queue's blocked jobs by their score in the queue."""
        return self.prefix + b"h:" + queue.encode()

    def parked_jobs(self, queue: str, job_type: str = "", tenant: str = "") -> bytes:
        """Return the key of a sorted set: parked jobs by their score in the queue.

        Args:
            queue: the queue.
            job_type: the type of the jobs, '' for all.
            tenant: the tenant of the jobs, '' for all.
        """
        parts = queue.encode(), job_type.encode(), tenant.encode()
        return self.prefix + b"pj:%b:%b:%b" % parts

    def token_demand(self, queue: str) -> bytes:
        """Return the key of a sorted set: rate limit keys by their first job's score."""
        return self.prefix + b"hq:" + queue.encode()

    def token_unrequested(self, queue: str, key: str) -> bytes:
        """Return the key of a sorted set: blocked jobs of ``key`` without a token request."""
        return self.prefix + b"hk:%b:%b" % (queue.encode(), key.encode())

    def token_requested(self, queue: str, key: str) -> bytes:
        """Return the key of a sorted set: blocked jobs of ``key`` with a token request."""
        return self.prefix + b"ha:%b:%b" % (queue.encode(), key.encode())

    def rate_limit(self, key: str) -> bytes:
        """Return the key of the hash of a rate limit key: its limits and counted starts."""
        return self.prefix + b"l:" + key.encode()

    def token_holders(self, key: str) -> bytes:
        """Return the key of a sorted set: granted tokens of ``key``; score 1 if the job started."""
        return self.prefix + b"lh:" + key.encode()

    def token_requesters(self, key: str) -> bytes:
        """Return the key of a sorted set: open token requests of ``key``, oldest first."""
        return self.prefix + b"la:" + key.encode()

    def queue_counters(self, queue: str) -> bytes:
        """Return the key of the hash of a queue: counters, FIFO sequence, limits, pause flag."""
        return self.prefix + b"c:" + queue.encode()

    def queue_minutes(self, queue: str) -> bytes:
        """Return the key of a hash: a queue's totals at the start of each of 60 minutes."""
        return self.prefix + b"m:" + queue.encode()

    def queue_history(self, queue: str) -> bytes:
        """Return the key of a hash: a queue's last sample, and its growth in each minute."""
        return self.prefix + b"s:" + queue.encode()

    def queue_times(self, queue: str) -> bytes:
        """Return the key of a hash: how long a queue's jobs waited and ran, in buckets.

        It lies in the shard of the queue's first partition.
        """
        return self.prefix + b"t:" + queue.encode()

    def queue_types(self, queue: str) -> bytes:
        """Return the key of a hash: a queue's jobs by type. It lies beside ``queue_times``."""
        return self.prefix + b"ty:" + queue.encode()

    def type_history(self, job_type: str) -> bytes:
        """Return the key of a hash: the numbers of a job type in each of 120 minutes.

        It lies in the shard of a queue of the same name.
        """
        return self.prefix + b"th:" + job_type.encode()

    def type_hour_history(self, job_type: str) -> bytes:
        """Return the key of a hash: the numbers of a job type in each of 73 hours.

        It lies beside ``type_history``.
        """
        return self.prefix + b"thh:" + job_type.encode()

    def queue_dead(self, queue: str) -> bytes:
        """Return the key of a sorted set: dead letters by the ms they were discarded."""
        return self.prefix + b"d:" + queue.encode()

    def worker(self, worker_id: str) -> bytes:
        """Return the key of the hash of a worker."""
        return self.prefix + b"w:" + worker_id.encode()

    def workflow(self, workflow_id: str) -> bytes:
        """Return the key of the hash of a workflow: its plan, its state, its node statuses."""
        return self.prefix + b"wf:" + workflow_id.encode()

    def workflow_definitions(self, workflow_id: str) -> bytes:
        """Return the key of the hash of a workflow's jobs as the client sent them, by number."""
        return self.prefix + b"wd:" + workflow_id.encode()

    def lock(self, fingerprint: str) -> bytes:
        """Return the key of the hash of a unique lock: which job holds the fingerprint."""
        return self.prefix + b"u:" + fingerprint.encode()

    def idempotency_key(self, name: str) -> bytes:
        """Return the key of the hash of an idempotency key: its request, seed and response."""
        return self.prefix + b"ik:" + name.encode()

    def outbox_waiting(self, shard: int) -> bytes:
        """Return the key of a sorted set: outbox entries that wait for ``shard`` or ``META``."""
        return self.prefix + b"out:%d" % shard

    def webhook_pending(self, subscription: str) -> bytes:
        """Return the key of a sorted set: pending deliveries by the ms of the next attempt."""
        return self.prefix + b"webhook_pending:" + subscription.encode()

    def transaction(self, transaction_id: str) -> bytes:
        """Return the key of the hash of a committed or aborted cross-shard transaction."""
        return self.prefix + b"tx:" + transaction_id.encode()

    def workflow_results(self, workflow_id: str) -> bytes:
        """Return the key of the hash of the results of a workflow's jobs, by number."""
        return self.prefix + b"wr:" + workflow_id.encode()

    def leader(self, group: str) -> bytes:
        """Return the key of a scheduler group's lock: the leader's identity and fencing token."""
        return self.prefix + b"leader:" + group.encode()

    def fencing_counter(self, group: str) -> bytes:
        """Return the key of the counter of a scheduler group's fencing tokens."""
        return self.prefix + b"fencing_counter:" + group.encode()

    def candidates(self, group: str) -> bytes:
        """Return the key of a sorted set: processes of a group by last call of ``lead`` (ms)."""
        return self.prefix + b"candidates:" + group.encode()


SHARD_KEYS = (
    "due",
    "active",
    "execution_deadlines",
    "expiring",
    "pending",
    "finished",
    "dead",
    "events",
    "workers",
    "watched",
    "lost_workers",
    "last_worker_check",
    "quiet_workers",
    "alias_claims",
    "references",
    "outbox",
    "outbox_due",
    "outbox_blocked_shards",
    "outbox_dead_letters",
    "workflows",
    "running_workflows",
    "ended_workflows",
    "locks",
    "aborted_transactions",
    "applied_transactions",
    "exhausted_queues",
    "quarantine",
    "error_groups",
    "error_group_times",
    "token_grants",
    "rate_limits",
    "rate_limit_checks",
    "job_types",
    "type_hours",
    "history_totals",
    "webhook_deliveries",
    "webhook_due",
    "webhook_delivered",
    "webhook_dead",
    "webhook_counts",
    "tenant_weights",
    "wake_channel",
    "schedule_channel",
    "schema",
    "wal_probe",
)
"""Attributes of ``Shard`` that are keys or channels of the whole shard, which end in the same name.

A new one needs its text in ``Shard``, its name here, and, unless it is a sorted set, in ``_TYPES``.
"""


def slot_of_tag(tag: str) -> int:
    """Return the slot of every key with this hash tag."""
    return crc_hqx(tag.encode(), 0) % _SLOTS


@dataclass(frozen=True, slots=True)
class Meta:
    """Keys of the whole cluster, under one hash tag of their own."""

    slot: int = slot_of_tag(META_TAG)
    schema: bytes = b"ojs:{meta}:schema"
    """Hash: layout and number of shards of the data, and the position of a migration."""
    queues: bytes = b"ojs:{meta}:queues"
    """Sorted set of queue names in name order: all scores are 0."""
    partitions: bytes = b"ojs:{meta}:partitions"
    """Hash: the partition table, queue to layout. The field '' is the default, '#' the version."""
    partition_changes: bytes = b"ojs:{meta}:partition_changes"
    """Sorted set: the last changes of the partition table, '<version> <queue>' by version."""
    crons: bytes = b"ojs:{meta}:crons"
    """Sorted set of cron jobs by the ms at which the scheduler must check them."""
    cron_names: bytes = b"ojs:{meta}:cron_names"
    """Sorted set of cron jobs in name order: score 0 enabled, 1 disabled."""
    cron_counts: bytes = b"ojs:{meta}:cron_counts"
    """Hash: number of occurrences of all cron jobs, by what became of them."""
    events: bytes = b"ojs:{meta}:events"
    """Stream: events of cron jobs and workers, which belong to no shard, bounded by MAXLEN."""
    schedule_channel: bytes = b"ojs:{meta}:schedule_channel"
    """Channel: the ms of a new earliest deadline of a cron job."""
    wal_probe: bytes = b"ojs:{meta}:wal_probe"
    """String: written only to confirm earlier writes to this tag's master, and never read."""
    audit: bytes = b"ojs:{meta}:audit"
    """Stream: administrative changes and reloads of API keys, bounded by count and by age."""
    audit_refused: bytes = b"ojs:{meta}:audit:refused"
    """Stream: refused requests. They have a stream of their own so that they evict no changes."""
    history_minutes: bytes = b"ojs:{meta}:history_minutes"
    """Hash: the totals of the cluster at the start of each minute of the last 25 hours."""
    history_hours: bytes = b"ojs:{meta}:history_hours"
    """Hash: the totals of the cluster at the start of each hour of the last 31 days."""
    maintenance: bytes = b"ojs:{meta}:maintenance"
    """Hash: maintenance mode while it is on: the refused classes of requests, reason, times."""
    marks: bytes = b"ojs:{meta}:marks"
    """Sorted set: marks on the charts of the dashboard, as JSON, by their time (ms)."""
    problems: bytes = b"ojs:{meta}:problems"
    """Hash: the present problems by id, and the process that looks for them."""
    problem_mutes: bytes = b"ojs:{meta}:problem_mutes"
    """Hash: by the id of a problem, until when it is muted and why, as JSON."""
    searches: bytes = b"ojs:{meta}:searches"
    """Hash: the saved searches of an earlier version. It expires; nothing reads it."""
    pools: bytes = b"ojs:{meta}:pools"
    """Hash: worker pools by name, as JSON. The field '#' is the version."""
    tenants: bytes = b"ojs:{meta}:tenants"
    """Hash: the settings of tenants, as JSON. The field '#' is the version."""
    known_tenants: bytes = b"ojs:{meta}:known_tenants"
    """Sorted set: tenants by the ms at which a process last registered a new job of theirs."""
    queue_defaults: bytes = b"ojs:{meta}:queue_defaults"
    """Hash: defaults of queues for their jobs, as JSON. The field '#' is the version."""
    queue_defaults_channel: bytes = b"ojs:{meta}:queue_defaults_channel"
    """Channel: the version of changed defaults of queues."""
    pressured_queues: bytes = b"ojs:{meta}:pressured_queues"
    """Sorted set: queues that are announced as nearly full, by the ms of the next check."""
    bulk_running: bytes = b"ojs:{meta}:bulk_running"
    """Sorted set: bulk operations that have not ended, by the ms of their next slice."""
    bulk_ended: bytes = b"ojs:{meta}:bulk_ended"
    """Sorted set: ended bulk operations by the ms at which their retention ends."""
    webhooks: bytes = b"ojs:{meta}:webhooks"
    """Hash: webhook subscriptions by id, as JSON. The field '#' is the version."""
    webhook_channel: bytes = b"ojs:{meta}:webhook_channel"
    """Channel: the version of changed webhook subscriptions."""
    job_schemas: bytes = b"ojs:{meta}:job_schemas"
    """Hash: the index of schemas of job args (store/features/schemas). Field '#' is the version."""
    job_schema_documents: bytes = b"ojs:{meta}:job_schema_documents"
    """Hash: the documents of these schemas, by the field of the index."""
    job_schema_channel: bytes = b"ojs:{meta}:job_schema_channel"
    """Channel: the version of a changed index of schemas."""
    ui_secret: bytes = b"ojs:{meta}:ui_secret"
    """String: the secret that signs the sessions of the dashboard."""
    processes: bytes = b"ojs:{meta}:processes"
    """Hash: the API processes and schedulers that run, by identity, as JSON."""
    process_reports: bytes = b"ojs:{meta}:process_reports"
    """Sorted set: the same processes by the ms of their last report."""
    index: int = META

    def bulk(self, operation_id: str) -> bytes:
        """Return the key of the hash of a bulk operation."""
        return b"ojs:{meta}:bulk:%b" % operation_id.encode()

    def pool_counts(self, name: str) -> bytes:
        """Return the key of the hash of what fetches got from a worker pool, by queue."""
        return b"ojs:{meta}:pool_counts:%b" % name.encode()

    def cron(self, name: str) -> bytes:
        """Return the key of the hash of a cron job."""
        return b"ojs:{meta}:cron:%b" % name.encode()

    def cron_history(self, name: str) -> bytes:
        """Return the key of the list of a cron job's last occurrences, newest first."""
        return b"ojs:{meta}:cron_history:%b" % name.encode()

    def leader(self, group: str) -> bytes:
        """Return the key of a scheduler group's lock for cron and other data of the meta tag."""
        return b"ojs:{meta}:leader:%b" % group.encode()

    def fencing_counter(self, group: str) -> bytes:
        """Return the key of the counter of a scheduler group's fencing tokens."""
        return b"ojs:{meta}:fencing_counter:%b" % group.encode()

    def candidates(self, group: str) -> bytes:
        """Return the key of a sorted set: processes of a group by last call of ``lead`` (ms)."""
        return b"ojs:{meta}:candidates:%b" % group.encode()


class Keyspace:
    """Map queues, ids and workers to shards.

    Args:
        shards: number of shards of the data, 1..1024.

    Raises:
        ValueError: when ``shards`` is out of range.
    """

    def __init__(self, shards: int) -> None:
        if not 1 <= shards <= MAX_SHARDS:
            raise ValueError(f"shards must be between 1 and {MAX_SHARDS}, not {shards}")
        self.meta = Meta()
        self._shards = tuple(_shards(shards))
        # The meta tag is the last one, so META (-1) is its index.
        self._webhook_tags = (*self._shards, Shard(META, META_TAG, self.meta.slot))
        self._stride = _stride(shards)
        self._inverse_stride = pow(self._stride, -1, shards)
        self._index_of_slot = {
            self.meta.slot: META,
            **{shard.slot: shard.index for shard in self._shards},
        }

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    @property
    def wal_probes(self) -> tuple[tuple[int, bytes], ...]:
        """Slot and WAL probe key of each shard and of the meta tag."""
        shards = ((shard.slot, shard.wal_probe) for shard in self._shards)
        return (*shards, (self.meta.slot, self.meta.wal_probe))

    def shard(self, index: int) -> Shard:
        """Return the shard at ``index``, which must not be ``META``: see ``shard_or_meta``."""
        return self._shards[index]

    def index_of_slot(self, slot: int) -> int | None:
        """Return the index of the shard in ``slot``, ``META`` for the meta tag, or None."""
        return self._index_of_slot.get(slot)

    def slot_of_index(self, index: int) -> int:
        """Return the cluster slot of a shard, or of the meta tag (``META``)."""
        return self.meta.slot if index == META else self._shards[index].slot

    def shard_or_meta(self, index: int) -> Shard | Meta:
        """Return the shard at ``index``, or for ``META`` the keys of the whole cluster."""
        return self.meta if index == META else self._shards[index]

    @property
    def webhook_tags(self) -> tuple[Shard, ...]:
        """The tags that have webhook deliveries: all shards, and last the meta tag.

        Under the meta tag only the keys of events and webhooks of a ``Shard`` are used.
        """
        return self._webhook_tags

    def webhook_tag(self, index: int) -> Shard:
        """Return the keys of webhook deliveries of a shard, or of the meta tag (``META``)."""
        return self._webhook_tags[index]

    def shard_of_queue(self, queue: str) -> Shard:
        """Return the shard of ``queue``, or of its partition 0 when it has several."""
        return self._shards[zlib.crc32(queue.encode()) % len(self._shards)]

    @property
    def max_partitions(self) -> int:
        """Maximum number of partitions of a queue. No two partitions of a queue share a shard."""
        return min(MAX_PARTITIONS, len(self._shards))

    def partitions(self, queue: str, count: int) -> list[Shard]:
        """Return the shards of the first ``count`` partitions of ``queue``.

        Partition i is ``i`` strides after partition 0 for any ``count``. So a change of ``count``
        moves no job.
        """
        base, shards = zlib.crc32(queue.encode()), len(self._shards)
        if count == 1:
            return [self._shards[base % shards]]
        return [self._shards[(base + i * self._stride) % shards] for i in range(count)]

    def partition_of(self, queue: str, shard: Shard) -> int:
        """Return the number of the partition of ``queue`` that a shard holds, or would hold.

        The queue may have fewer partitions.
        """
        distance = shard.index - zlib.crc32(queue.encode())
        return distance * self._inverse_stride % len(self._shards)

    def shard_of_id(self, job_id: str) -> Shard:
        """Return the shard that a job id names by its ``rand_a`` bits."""
        return self._shards[shard_of(job_id, len(self._shards))]

    def shard_of_fingerprint(self, fingerprint: str) -> Shard:
        """Return the shard that holds a fingerprint's lock."""
        return self._shards[int(fingerprint[:8], 16) % len(self._shards)]

    def shard_of_limit(self, key: str) -> Shard:
        """Return the shard that holds the state of a rate limit key."""
        return self._shards[zlib.crc32(key.encode()) % len(self._shards)]

    def shard_of_tenant(self, tenant: str) -> Shard:
        """Return the shard that holds what admits new jobs of a tenant."""
        return self._shards[zlib.crc32(tenant.encode()) % len(self._shards)]

    def shard_of_worker(self, worker_id: str) -> Shard:
        """Return the shard that holds a worker's record."""
        return self._shards[zlib.crc32(worker_id.encode()) % len(self._shards)]


def _stride(shards: int) -> int:
    """Return the distance in shards between two successive partitions of a queue.

    The distance is the number nearest to the golden section of ``shards`` that is coprime to
    ``shards``. Because it is coprime, no shard gets a second partition before every shard has one.
    Because it is near the golden section, any number of partitions is spread evenly over the
    shards, and so over the masters, which own neighbouring shards. The distance is part of the data
    layout and never changes.
    """
    golden = shards * _GOLDEN_SECTION
    coprime = (step for step in range(1, shards + 1) if math.gcd(step, shards) == 1)
    return min(coprime, key=lambda step: (abs(step - golden), step))


@lru_cache(maxsize=8)
def _shards(count: int) -> tuple[Shard, ...]:
    return tuple(_shard(index, count) for index in range(count))


def _shard(index: int, count: int) -> Shard:
    low = index * _SLOTS // count
    high = (index + 1) * _SLOTS // count
    attempt = 0
    while True:
        tag = f"{index}.{attempt}" if attempt else str(index)
        slot = slot_of_tag(tag)
        if low <= slot < high:
            return Shard(index, tag, slot)
        attempt += 1
