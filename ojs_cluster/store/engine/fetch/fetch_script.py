"""KEYS, ARGV and replies of ``fetch.lua`` and ``fetch_full.lua``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from ojs_cluster.keys import Shard
from ojs_cluster.redis.packed_calls import PackedKeys
from ojs_cluster.store.engine.jobs.record import JobRecord, split_values
from ojs_cluster.store.ground import job_fields as f

_MAX_PACKED_QUEUES: Final = 4
"""Packed keys are cached for lists of up to this many queues. Each cache has about 1 MB."""
_REPLY_HEAD: Final = 4
"""Number of values in a reply before the first job (see ``fetch.lua``)."""
_LEFT_SUSPECTS: Final = 4
"""What the third value of a reply has in addition if suspects were left."""
_VALUES_PER_JOB: Final = 5
"""Number of values of each job in a reply."""
LIMITED_FIELDS: Final = frozenset({f.LIMIT, f.MAX_PER_SECOND})
"""Fields with which ``fetch.lua`` cannot lease a job, unless it has a token."""
_NEED_FULL_ACK: Final = frozenset({f.WORKFLOW, f.KEEP, f.SUSPECT})
"""Fields with which ``ack.lua`` cannot complete a job: the scripts mark its lease id."""
_MAX_LOOKUPS: Final = 2000
"""Maximum number of types, times queues, that one script looks up."""
NO_JOB: Final = b"none"
"""The reply of ``fetch.lua`` if there is no job."""
PLAIN_JOB: Final = b"plain_job\n"
"""Begins the reply of ``fetch.lua`` that is a text with one job."""
_LINES_BEFORE_VALUES: Final = 4
"""Number of lines in such a reply before the values of the job."""


def pack_types(types: Iterable[str]) -> str:
    """Return a list of job types for the scripts: a line each, between line breaks."""
    return "\n".join(("", *sorted(set(types)), ""))


def queues_per_call(types: str) -> int:
    """Return how many queues one script may look at for a fetch with these types.

    For a queue with parked jobs, a script looks up each type, which takes about 1 µs.

    Args:
        types: the types of the fetch, as ``pack_types``.
    """
    return max(1, _MAX_LOOKUPS // max(1, types.count("\n") - 1))


@lru_cache(maxsize=1024)
def digest_of(types: str) -> str:
    """Return what a message has for the list of types of the fetch that parked jobs."""
    return blake2b(types.encode(), digest_size=8).hexdigest() if types else ""


class _LeasedJob(NamedTuple):
    """One job of a reply of ``fetch.lua`` or ``fetch_full.lua``.

    Args:
        job_id: the job's id.
        stored: names and values of the job's fields before the fetch, or a text with the values of
            a plain job (see ``_plain_fields``).
        attempt: number of the new attempt.
        deadline: end of the lease in Unix milliseconds.
        lease_ms: length of the lease in milliseconds.
    """

    job_id: bytes
    stored: list[bytes] | bytes
    attempt: int
    deadline: int
    lease_ms: int


class FetchReply(NamedTuple):
    """A reply of ``fetch.lua`` or ``fetch_full.lua`` that leased jobs.

    Args:
        now: the shard's time in Unix milliseconds.
        effects: outbox entries to deliver.
        more: 2 if another call may find more jobs, 1 if it may request more tokens, else 0.
        left_suspects: whether the call has left suspects that other workers may run.
        depth: number of available jobs that the first queue had before the fetch.
        jobs: the leased jobs.
    """

    now: int
    effects: list[bytes]
    more: int
    left_suspects: bool
    depth: int
    jobs: list[_LeasedJob]

    @classmethod
    def parse(cls, reply: Sequence[Any]) -> FetchReply:
        """Return a parsed list."""
        now, effects, more, depth = reply[:_REPLY_HEAD]
        jobs = [
            _LeasedJob(*reply[index : index + _VALUES_PER_JOB])
            for index in range(_REPLY_HEAD, len(reply), _VALUES_PER_JOB)
        ]
        left_suspects, more = divmod(int(more), _LEFT_SUSPECTS)
        return cls(now, effects, more, bool(left_suspects), int(depth), jobs)

    @property
    def is_suspect(self) -> bool:
        """Whether the only job is one whose worker has died while it held the job."""
        if len(self.jobs) != 1:
            return False
        stored = self.jobs[0].stored
        return isinstance(stored, list) and f.SUSPECT in stored[::2]

    def records(self, worker_id: str, prefix: bytes) -> list[JobRecord]:
        """Return the leased jobs, with the fields of their leases.

        The reply is short: it omits the fields whose values this process knows.

        Args:
            worker_id: the holder of the leases.
            prefix: the prefix of the lease ids that the script got.
        """
        started, worker = b"%d" % self.now, worker_id.encode()
        records: list[JobRecord] = []
        for number, job in enumerate(self.jobs, 1):
            mark = b""
            if isinstance(job.stored, bytes):
                fields = _plain_fields(job.stored)
            else:
                names = iter(job.stored)
                fields = dict(zip(names, names, strict=True))
                mark = b"" if _NEED_FULL_ACK.isdisjoint(fields) else b"0"
            fields[f.STATE] = b"active"
            fields[f.WORKER] = worker
            fields[f.STARTED] = started
            fields[f.LEASE] = b"%b%b%d" % (prefix, mark, number)
            fields[f.LEASE_MS] = b"%d" % job.lease_ms
            fields[f.ATTEMPT] = b"%d" % job.attempt
            fields[f.DEADLINE] = b"%d" % job.deadline
            records.append(JobRecord(job.job_id.decode(), fields))
        return records

    @classmethod
    def of_plain_job(cls, reply: bytes, lease_ms: int) -> FetchReply:
        """Return a parsed text that begins with ``PLAIN_JOB``.

        Args:
            reply: the reply.
            lease_ms: length of the lease in milliseconds.
        """
        _, seconds, micros, job_id, values = reply.split(b"\n", _LINES_BEFORE_VALUES)
        now = int(seconds) * 1000 + int(micros) // 1000
        job = _LeasedJob(job_id, values, 1, now + lease_ms, lease_ms)
        return cls(now, [], 0, False, 0, [job])


def _plain_fields(values: bytes) -> dict[bytes, bytes]:
    """Return the fields of a plain job from its values in a reply of ``fetch.lua``."""
    queue, job_type, created, max_attempts, envelope = split_values(values, 2)
    return {
        f.CREATED: created,
        f.MAX_ATTEMPTS: max_attempts,
        f.QUEUE: queue,
        f.TYPE: job_type,
        f.ENVELOPE: envelope,
    }


def _keys(shard: Shard, queues: Iterable[str]) -> Sequence[bytes]:
    """Return KEYS of ``fetch.lua`` for some queues of a shard."""
    keys = [shard.due, shard.active, shard.events, shard.quiet_workers]
    for queue in queues:
        keys += (shard.queue_counters(queue), shard.queue_available(queue))
        keys.append(shard.queue_blocked(queue))
    return keys


def _full_keys(shard: Shard, queues: Iterable[str]) -> Sequence[bytes]:
    """Return KEYS of ``fetch_full.lua`` for some queues of a shard."""
    keys = [
        shard.due,
        shard.active,
        shard.execution_deadlines,
        shard.expiring,
        shard.finished,
        shard.events,
        shard.quiet_workers,
    ]
    for queue in queues:
        keys += (shard.queue_counters(queue), shard.queue_available(queue))
        keys += (shard.queue_blocked(queue), shard.token_demand(queue))
    return keys


@lru_cache(maxsize=1024)
def _packed_keys(shard: Shard, queues: tuple[str, ...]) -> PackedKeys:
    """Return KEYS in packed form, for a list of queues that is fetched repeatedly."""
    return PackedKeys(_keys(shard, queues))


@lru_cache(maxsize=1024)
def _packed_full_keys(shard: Shard, queues: tuple[str, ...]) -> PackedKeys:
    """Return KEYS of the full path in packed form."""
    return PackedKeys(_full_keys(shard, queues))


def fetch_keys(shard: Shard, queues: Sequence[str]) -> Sequence[bytes]:
    """Return KEYS of ``fetch.lua``, from a cache for short lists of queues."""
    if len(queues) <= _MAX_PACKED_QUEUES:
        return _packed_keys(shard, tuple(queues))
    return _keys(shard, queues)


def full_fetch_keys(shard: Shard, queues: Sequence[str]) -> Sequence[bytes]:
    """Return KEYS of ``fetch_full.lua``, from a cache for short lists of queues."""
    if len(queues) <= _MAX_PACKED_QUEUES:
        return _packed_full_keys(shard, tuple(queues))
    return _full_keys(shard, queues)
