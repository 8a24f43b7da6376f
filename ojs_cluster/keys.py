"""Shards, hash tags and key names: the only place that spells a key.

Every key is ``ojs:{tag}:...``. A logical shard owns one tag, so everything a script touches lies
in one cluster slot. The tags are chosen so that shard i's slot falls in the i-th of N equal slot
ranges: however many masters split the 16384 slots evenly, each owns the same number of shards
(give or take one). The alternative, tags that hash wherever they fall, leaves some masters with
half the shards of others at N = 64.

The Lua side derives the keys of jobs it finds from the same spelling:
``store/include/base/keys.lua`` is this module's twin, and ``tests/store/scripts/test_keys.py``
compares the two.
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
"""Slots of a cluster (Redis Cluster specification, key distribution model)."""
META_TAG = "meta"
META = -1
"""Stands for the meta tag where a shard's index does; no shard has it."""
MAX_SHARDS = 1024
"""The 12 ``rand_a`` bits of a UUIDv7 name the shard; two are left to chance so ids stay random."""
MAX_PARTITIONS = 64
"""Most partitions of one queue: a fetch that finds nothing has looked at each."""


KEYS_OF_JOBS = b"ojs:{*}:j:*"
"""Pattern of the hashes of jobs and aliases, for who may look at every key (``archive_out``)."""


def job_of_key(key: bytes) -> tuple[str, str]:
    """Hash tag and job id of a key that ``KEYS_OF_JOBS`` matches."""
    tag, _, job_id = key.decode().removeprefix("ojs:{").partition("}:j:")
    return tag, job_id


@dataclass(frozen=True, slots=True)
class Shard:
    """One logical shard: its keys all carry ``tag`` and so live in one slot.

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
    """Scheduled and retryable jobs by the ms they become available."""
    active: bytes = field(init=False)
    """Active jobs by visibility deadline (ms)."""
    execution_deadlines: bytes = field(init=False)
    """Active jobs with an execution timeout, by that deadline (ms)."""
    expiring: bytes = field(init=False)
    """Waiting jobs with expires_at, by that time (ms)."""
    pending: bytes = field(init=False)
    """Pending jobs by creation time (ms)."""
    finished: bytes = field(init=False)
    """Terminal jobs by the ms at which retention removes them."""
    dead: bytes = field(init=False)
    """Dead letters by the ms of their death."""
    events: bytes = field(init=False)
    """Event stream, bounded by MAXLEN."""
    workers: bytes = field(init=False)
    """Workers whose record lives here, by last heartbeat or fetch (ms)."""
    watched: bytes = field(init=False)
    """Workers that heartbeat regularly, by the ms at which silence means death."""
    lost_workers: bytes = field(init=False)
    """Workers found dead whose jobs are still to be recovered, by the ms of their death."""
    last_worker_check: bytes = field(init=False)
    """The ms of the last check for dead workers."""
    quiet_workers: bytes = field(init=False)
    """Workers that may not fetch, by the ms at which the mark lapses."""
    alias_claims: bytes = field(init=False)
    """Aliases of client-supplied ids whose job has not been seen yet, by claim time (ms)."""
    references: bytes = field(init=False)
    """Jobs with an alias or a lock in another shard, by the ms they were stored or removed."""
    outbox: bytes = field(init=False)
    """Effects owed to other shards: entry number to kind, attempts and payload."""
    outbox_due: bytes = field(init=False)
    """Outbox entries by the ms of their next try."""
    outbox_blocked_shards: bytes = field(init=False)
    """Shards that outbox entries wait for, by the ms of the next try."""
    outbox_dead_letters: bytes = field(init=False)
    """Outbox entries that failed too often, by the ms of the last try."""
    workflows: bytes = field(init=False)
    """Workflows whose record lives here, by creation (ms)."""
    running_workflows: bytes = field(init=False)
    """Running workflows by the ms at which the scheduler reads how their jobs are."""
    ended_workflows: bytes = field(init=False)
    """Workflows that have ended, by the ms at which retention removes them."""
    locks: bytes = field(init=False)
    """Unique locks by the ms at which the janitor looks at each."""
    aborted_transactions: bytes = field(init=False)
    """Deals that must not be decided any more, by the ms at which that was settled."""
    applied_transactions: bytes = field(init=False)
    """Deals whose part of this shard is written, by the ms of the writing."""
    exhausted_queues: bytes = field(init=False)
    """Queues whose limits are used up, by the ms at which time alone makes room."""
    quarantine: bytes = field(init=False)
    """Malformed jobs that were taken out of their queue, by the ms of the next check."""
    token_grants: bytes = field(init=False)
    """Available jobs that were given a token, by the ms at which they lose it unless fetched; and
    those that have asked for one, by the ms at which they ask again."""
    rate_limits: bytes = field(init=False)
    """Rate limit keys whose state lives here, all scores 0, so it reads in name order."""
    rate_limit_checks: bytes = field(init=False)
    """The same by the ms at which the scheduler looks at each."""
    wake_channel: bytes = field(init=False)
    """Channel: the name of a queue that stopped being empty."""
    schedule_channel: bytes = field(init=False)
    """Channel: the ms of a new earliest deadline."""
    schema: bytes = field(init=False)
    """Copy of the layout of the data, for who starts while the meta tag's master is away."""
    wal_probe: bytes = field(init=False)
    """Written to, and never read, so that there is a write to be confirmed: see ``committer``."""

    def __post_init__(self) -> None:
        prefix = f"ojs:{{{self.tag}}}:".encode()
        put = object.__setattr__
        put(self, "prefix", prefix)
        for name in SHARD_KEYS:
            put(self, name, prefix + name.encode())

    def __hash__(self) -> int:
        # That of a dataclass would go through all keys, each time that a shard is looked up.
        return self.slot

    def job(self, job_id: str) -> bytes:
        """Hash of one job, or the alias that says where a job with a client's id lives."""
        return b"%bj:%b" % (self.prefix, job_id.encode())

    def queue_available(self, queue: str) -> bytes:
        """Sorted set of a queue's available jobs: priority first, then FIFO."""
        return b"%bq:%b" % (self.prefix, queue.encode())

    def queue_blocked(self, queue: str) -> bytes:
        """Sorted set of a queue's available jobs that wait for a token, by their place in it."""
        return b"%bh:%b" % (self.prefix, queue.encode())

    def token_demand(self, queue: str) -> bytes:
        """Sorted set of rate limit keys for which tokens may be asked, by the best job's place."""
        return b"%bhq:%b" % (self.prefix, queue.encode())

    def token_unrequested(self, queue: str, key: str) -> bytes:
        """Sorted set of a queue's jobs that wait for ``key`` and have not asked for a token."""
        return b"%bhk:%b:%b" % (self.prefix, queue.encode(), key.encode())

    def token_requested(self, queue: str, key: str) -> bytes:
        """Sorted set of a queue's jobs that have asked for a token of ``key``."""
        return b"%bha:%b:%b" % (self.prefix, queue.encode(), key.encode())

    def rate_limit(self, key: str) -> bytes:
        """Hash of a rate limit key: its limits, and the starts that were counted."""
        return b"%bl:%b" % (self.prefix, key.encode())

    def token_holders(self, key: str) -> bytes:
        """Sorted set of the tokens of ``key`` that are given out: 0 granted, 1 started."""
        return b"%blh:%b" % (self.prefix, key.encode())

    def token_requesters(self, key: str) -> bytes:
        """Sorted set of the tokens of ``key`` that are asked for, in turn."""
        return b"%bla:%b" % (self.prefix, key.encode())

    def queue_counters(self, queue: str) -> bytes:
        """Hash of a queue: counters, FIFO sequence, pause mark."""
        return b"%bc:%b" % (self.prefix, queue.encode())

    def queue_minutes(self, queue: str) -> bytes:
        """Hash of a queue's last 60 minutes, a ring of one-minute sums."""
        return b"%bm:%b" % (self.prefix, queue.encode())

    def queue_dead(self, queue: str) -> bytes:
        """Sorted set of one queue's dead letters, for its cap."""
        return b"%bd:%b" % (self.prefix, queue.encode())

    def worker(self, worker_id: str) -> bytes:
        """Hash of one worker's record."""
        return b"%bw:%b" % (self.prefix, worker_id.encode())

    def workflow(self, workflow_id: str) -> bytes:
        """Hash of one workflow: its plan, its state, how its jobs ended."""
        return b"%bwf:%b" % (self.prefix, workflow_id.encode())

    def workflow_definitions(self, workflow_id: str) -> bytes:
        """Hash of a workflow's jobs as the client sent them, by number."""
        return b"%bwd:%b" % (self.prefix, workflow_id.encode())

    def lock(self, fingerprint: str) -> bytes:
        """Hash of a unique lock: which job holds the fingerprint."""
        return b"%bu:%b" % (self.prefix, fingerprint.encode())

    def outbox_waiting(self, shard: int) -> bytes:
        """Sorted set of outbox entries that wait for ``shard`` (``META`` for the meta tag)."""
        return b"%bout:%d" % (self.prefix, shard)

    def transaction(self, transaction_id: str) -> bytes:
        """Hash of a decided write over shards that is being carried out, or that must not be."""
        return b"%btx:%b" % (self.prefix, transaction_id.encode())

    def workflow_results(self, workflow_id: str) -> bytes:
        """Hash of the results of a workflow's jobs, by number."""
        return b"%bwr:%b" % (self.prefix, workflow_id.encode())

    def leader(self, group: str) -> bytes:
        """Lock of a scheduler group: the identity and fencing token of who leads this shard."""
        return b"%bleader:%b" % (self.prefix, group.encode())

    def fencing_counter(self, group: str) -> bytes:
        """Counter of a scheduler group's fencing tokens."""
        return b"%bfencing_counter:%b" % (self.prefix, group.encode())

    def candidates(self, group: str) -> bytes:
        """Sorted set of a scheduler group's processes by the ms of their last call."""
        return b"%bcandidates:%b" % (self.prefix, group.encode())


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
    "token_grants",
    "rate_limits",
    "rate_limit_checks",
    "wake_channel",
    "schedule_channel",
    "schema",
    "wal_probe",
)
"""Keys that each shard has once: a key's name is its attribute's."""


def slot_of_tag(tag: str) -> int:
    """Return the slot of every key with this hash tag."""
    return crc_hqx(tag.encode(), 0) % _SLOTS


@dataclass(frozen=True, slots=True)
class Meta:
    """Keys of the whole cluster, under one tag of their own."""

    slot: int = slot_of_tag(META_TAG)
    schema: bytes = b"ojs:{meta}:schema"
    """Hash: schema version and the shard count the data was laid out with."""
    queues: bytes = b"ojs:{meta}:queues"
    """Sorted set of queue names, all scores 0, so it reads in name order."""
    partitions: bytes = b"ojs:{meta}:partitions"
    """Hash: queue, '' for all others, to how many partitions it has and had; '#' its version."""
    crons: bytes = b"ojs:{meta}:crons"
    """Sorted set of cron jobs by the ms at which the scheduler must look at each."""
    cron_names: bytes = b"ojs:{meta}:cron_names"
    """Sorted set of cron jobs in name order: score 0 enabled, 1 disabled."""
    events: bytes = b"ojs:{meta}:events"
    """Event stream of what belongs to no shard, bounded by MAXLEN."""
    schedule_channel: bytes = b"ojs:{meta}:schedule_channel"
    """Channel: the ms of a new earliest deadline, as each shard has one."""
    wal_probe: bytes = b"ojs:{meta}:wal_probe"
    """As each shard has one."""
    audit: bytes = b"ojs:{meta}:audit"
    """Stream of administrative changes and key reloads, bounded by count and by time."""
    audit_refused: bytes = b"ojs:{meta}:audit:refused"
    """Stream of refused requests, with bounds of its own: they never push changes out."""
    index: int = META

    def cron(self, name: str) -> bytes:
        """Hash of one cron job."""
        return b"ojs:{meta}:cron:%b" % name.encode()

    def cron_history(self, name: str) -> bytes:
        """List of a cron job's last occurrences, newest first."""
        return b"ojs:{meta}:cron_history:%b" % name.encode()

    def leader(self, group: str) -> bytes:
        """As each shard has one, for cron and what else lives here."""
        return b"ojs:{meta}:leader:%b" % group.encode()

    def fencing_counter(self, group: str) -> bytes:
        """As each shard has one."""
        return b"ojs:{meta}:fencing_counter:%b" % group.encode()

    def candidates(self, group: str) -> bytes:
        """As each shard has one."""
        return b"ojs:{meta}:candidates:%b" % group.encode()


class Keyspace:
    """Maps queues, ids and workers to shards.

    Args:
        shards: how many logical shards the data is laid out with, 1..1024.

    Raises:
        ValueError: when ``shards`` is out of range.
    """

    def __init__(self, shards: int) -> None:
        if not 1 <= shards <= MAX_SHARDS:
            raise ValueError(f"shards must be between 1 and {MAX_SHARDS}, not {shards}")
        self.meta = Meta()
        self._shards = tuple(_shards(shards))
        self._stride = _stride(shards)
        self._inverse = pow(self._stride, -1, shards)
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
        """Slot and mark of everything that has one."""
        shards = ((shard.slot, shard.wal_probe) for shard in self._shards)
        return (*shards, (self.meta.slot, self.meta.wal_probe))

    def shard(self, index: int) -> Shard:
        """The shard at ``index``."""
        return self._shards[index]

    def index_of_slot(self, slot: int) -> int | None:
        """The index of the shard in ``slot``, ``META`` for the meta tag, None for any other."""
        return self._index_of_slot.get(slot)

    def slot_of_index(self, index: int) -> int:
        """The cluster slot of a shard, or of the meta tag (``META``)."""
        return self.meta.slot if index == META else self._shards[index].slot

    def tag(self, index: int) -> Shard | Meta:
        """The shard at ``index``, or for ``META`` the keys of the whole cluster."""
        return self.meta if index == META else self._shards[index]

    def shard_of_queue(self, queue: str) -> Shard:
        """The shard that holds everything of ``queue``, or its partition 0 when it has several."""
        return self._shards[zlib.crc32(queue.encode()) % len(self._shards)]

    @property
    def most_partitions(self) -> int:
        """How many partitions a queue may have: no two of them share a shard."""
        return min(MAX_PARTITIONS, len(self._shards))

    def partitions(self, queue: str, count: int) -> list[Shard]:
        """The shards of the first ``count`` partitions of ``queue``.

        Partition i lies ``i`` strides after partition 0, whatever the count, so a change of the
        count moves nothing.
        """
        base, shards = zlib.crc32(queue.encode()), len(self._shards)
        if count == 1:
            return [self._shards[base % shards]]
        return [self._shards[(base + i * self._stride) % shards] for i in range(count)]

    def partition_of(self, queue: str, shard: Shard) -> int:
        """Which partition of ``queue`` a shard holds."""
        distance = shard.index - zlib.crc32(queue.encode())
        return distance * self._inverse % len(self._shards)

    def shard_of_id(self, job_id: str) -> Shard:
        """The shard that a job id names by its ``rand_a`` bits."""
        return self._shards[shard_of(job_id, len(self._shards))]

    def shard_of_fingerprint(self, fingerprint: str) -> Shard:
        """The shard that holds a fingerprint's lock."""
        return self._shards[int(fingerprint[:8], 16) % len(self._shards)]

    def shard_of_limit(self, key: str) -> Shard:
        """The shard that holds the state of a rate limit key."""
        return self._shards[zlib.crc32(key.encode()) % len(self._shards)]

    def shard_of_worker(self, worker_id: str) -> Shard:
        """The shard that holds a worker's record."""
        return self._shards[zlib.crc32(worker_id.encode()) % len(self._shards)]


def _stride(shards: int) -> int:
    """The number coprime to ``shards`` next to the golden section of it.

    Coprime, so that the partitions of a queue meet every shard before one twice. The golden
    section, because masters own neighbouring shards, and steps of that size put any number of
    points evenly around a circle. Part of the layout of the data: it never changes.
    """
    golden = shards * 0.6180339887498949
    fitting = (step for step in range(1, shards + 1) if math.gcd(step, shards) == 1)
    return min(fitting, key=lambda step: (abs(step - golden), step))


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
