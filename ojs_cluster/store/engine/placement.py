"""Place jobs: give each job its id, and build the arguments and results of the enqueue scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY
from ojs_cluster.core.timestamps import TimePoint
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.index_values import index_arguments, index_bytes
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.limits.depth_bounds import bound_arguments
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.portions import portion_ranges
from ojs_cluster.store.ground.runtime import Arg

EnqueueOutcome = Literal["", "prepared", "superseded"]

PORTION_JOBS = 250
"""Maximum number of jobs that one script stores. It blocks its node for about 5 ms."""
_LEAST_FIELDS: Final = 6
"""Length of the list of names and values of a job without optional fields; see ``_fields``."""
PLAIN_ANSWER: Final = (b"available", b"", b"")
"""State, due time and time of expiry of a stored plain job, as ``enqueue.lua`` returns them."""


class PlacedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job with its id, ready to be stored.

    The record of a transaction keeps it as MessagePack, so all its values are simple.

    Args:
        job_id: id of the job.
        queue: queue of the job.
        priority: priority of the job.
        pending: whether the job is stored in the state pending.
        due: when the job is due: '', or a letter and a time in ms (see ``enqueue.lua``).
        expires: when the job expires, in the same format.
        fields: names and values of the fields of the job's hash, alternating.
        outcome: ``prepared`` for a job that a transaction publishes later, ``superseded`` for a job
            that a later job of the same batch replaces, '' for any other job.
        indexed: hashes of the values that the index of the search has of the job. Processes of
            earlier versions neither write nor read the member.
    """

    job_id: str
    queue: str
    priority: int
    pending: bool
    due: str
    expires: str
    fields: list[bytes]
    outcome: EnqueueOutcome = ""
    indexed: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the job is immediately available and declares no limit of its queue.

        The time of its expiry, if any, is that of its envelope.
        """
        if self.pending or self.due or self.outcome or self.expires[:1] not in ("", "a"):
            return False
        return len(self.fields) == _LEAST_FIELDS or f.MAX_PER_SECOND not in self.fields[::2]

    def field(self, name: bytes) -> bytes:
        """Return the value of a field, empty if the job does not have it."""
        if len(self.fields) == _LEAST_FIELDS or name not in self.fields[::2]:
            return b""
        return self.fields[2 * self.fields[::2].index(name) + 1]


def place(job_id: str, job: NewJob, more_fields: Sequence[bytes] = ()) -> PlacedJob:
    """Return a job with its id, ready to be stored.

    Args:
        job_id: id of the job.
        job: the job.
        more_fields: names and values of further fields of the job's hash.
    """
    return PlacedJob(
        job_id,
        job.queue,
        job.priority,
        job.pending,
        time_argument(job.scheduled),
        time_argument(job.expires),
        [*_fields(job), *more_fields],
        indexed=job.indexed,
    )


def enqueue_command(
    store: Store,
    shard: Shard,
    part: Sequence[PlacedJob],
    *,
    store_before_ms: int = 0,
    transaction: str = "",
    portion: int = 0,
    tombstone_tokens: Iterable[str] = (),
    ignore_depth_bound: bool = True,
) -> tuple[list[bytes], list[Arg]]:
    """Return KEYS and ARGV of ``enqueue.lua`` for jobs of one shard.

    Args:
        store: the store.
        shard: the shard of all jobs.
        part: the jobs.
        store_before_ms: Unix time in ms, by the shard's clock, from which on the script stores
            nothing; 0 for never.
        transaction: id of the transaction that stores the jobs, '' for none.
        portion: position of the portion among the transaction's portions of this shard.
        tombstone_tokens: tokens of the tombstones that may be replaced.
        ignore_depth_bound: whether the jobs are stored even in full queues.
    """
    queues = Counter(job.queue for job in part)
    positions = {queue: position for position, queue in enumerate(queues, 1)}
    keys = [shard.due, shard.expiring, shard.pending, shard.finished, shard.events]
    keys += (shard.alias_claims, shard.applied_transactions, shard.references)
    for queue in queues:
        keys += (shard.queue_counters(queue), shard.queue_available(queue))
    args: list[Arg] = [store.events_arg, len(queues), len(part)]
    args += (store_before_ms, transaction)
    args += (store.settings.retention_cancelled_ms, token_list(tombstone_tokens))
    note = f"{transaction}.{portion}" if portion else transaction
    bounds = "" if ignore_depth_bound else bound_arguments(store, queues)
    args += (shard.index, len(store.keys), note, bounds, *queues)
    for job in part:
        keys.append(shard.job(job.job_id))
        args += (
            job.job_id,
            positions[job.queue],
            job.priority,
            "pending" if job.pending else "",
            job.outcome,
            job.due,
            job.expires,
            len(job.fields),
            *job.fields,
        )
    keys += tenant_keys(shard, part)
    if store.settings.search_index:
        digests = [job.indexed for job in part]
        more_keys, more_args = index_arguments(store.settings, shard, digests, len(keys) + 1)
        keys += more_keys
        args += more_args
    return keys, args


def tenant_keys(shard: Shard, part: Sequence[PlacedJob]) -> list[bytes]:
    """Return the keys of a shard that belong to the tenants of some jobs."""
    keys: dict[bytes, None] = {}
    for job in part:
        tenant = job.field(f.TENANT).decode()
        if tenant:
            keys[shard.tenant_queue(job.queue, tenant)] = None
            keys[shard.tenant_counters(tenant)] = None
            keys[shard.tenant_turns(job.queue)] = None
    return list(keys)


def portions(store: Store, part: Sequence[PlacedJob]) -> list[Sequence[PlacedJob]]:
    """Split jobs into portions that one script may store, in their order."""
    sizes = [sum(map(len, job.fields)) + index_bytes(job) for job in part]
    max_jobs = store.webhooks.jobs_per_script("enqueue", PORTION_JOBS)
    return [part[start:end] for start, end in portion_ranges(sizes, max_jobs)]


def enqueue_one_command(
    store: Store, shard: Shard, job: PlacedJob, store_before_ms: int = 0, *, aliased: bool = False
) -> tuple[list[bytes], list[Arg]]:
    """Return KEYS and ARGV of ``enqueue_one.lua`` for one plain job.

    Args:
        store: the store.
        shard: the shard of the job.
        job: the job.
        store_before_ms: Unix time in ms, by the shard's clock, from which on the script stores
            nothing; 0 for never.
        aliased: whether an alias in another shard leads to the job.
    """
    queue = job.queue
    keys = [
        shard.events,
        shard.queue_counters(queue),
        shard.queue_available(queue),
        shard.job(job.job_id),
    ]
    fields = job.fields  # they begin with the names and values of the first three; see ``_fields``
    args: list[Arg] = [
        *(store.settings.events_per_shard, job.job_id, queue),
        *(fields[1], fields[3], fields[5]),
    ]
    more = fields[_LEAST_FIELDS:]
    if more or job.priority or store_before_ms or job.expires or aliased:
        keys += (shard.expiring, shard.references, *tenant_keys(shard, (job,)))
        referenced = "1" if aliased or job.field(f.UNIQUE) else ""
        tenant = job.field(f.TENANT)
        args += (job.priority, store_before_ms, job.expires[1:], referenced, tenant, *more)
    return keys, args


def token_list(tokens: Iterable[str]) -> str:
    """Return tombstone tokens as one argument of a script: each with a blank on both sides."""
    return f" {' '.join(tokens)} "


def stored_records(part: Sequence[PlacedJob], reply: Sequence[Any]) -> list[JobRecord]:
    """Return the jobs that an enqueue script has stored, without reading them.

    Args:
        part: the jobs that were passed to the script.
        reply: the script's reply: ``ok``, time in ms, effects, then three values per job, and two
            if a queue is above its warning threshold.
    """
    now, answers = b"%d" % reply[1], reply[3:]
    if len(answers) == 3:  # those of one job, which most requests have
        return [JobRecord(part[0].job_id, _stored_fields(part[0], now, answers))]
    pressure = None
    if len(answers) > 3 * len(part):
        pressure = int(answers[-2]), int(answers[-1])
    return [
        JobRecord(
            job.job_id, _stored_fields(job, now, answers[3 * i : 3 * i + 3]), pressure=pressure
        )
        for i, job in enumerate(part)
    ]


def plain_answer(job: PlacedJob) -> Sequence[Any]:
    """Return what ``enqueue.lua`` would return for a job that ``enqueue_one.lua`` has stored."""
    return (b"available", b"", job.expires[1:].encode()) if job.expires else PLAIN_ANSWER


def plain_record(job: PlacedJob, now: int) -> JobRecord:
    """Return the job that ``enqueue_one.lua`` has stored at ``now``, in Unix milliseconds."""
    return JobRecord(job.job_id, _stored_fields(job, b"%d" % now, plain_answer(job)))


def is_same_job(job: PlacedJob, existing: Mapping[bytes, bytes]) -> bool:
    """Return whether the hash that is stored under the id of ``job`` holds the same job."""
    names, values = job.fields[::2], job.fields[1::2]
    return (
        existing.get(f.QUEUE) == job.queue.encode()
        and (existing.get(f.PRIORITY) or b"0") == b"%d" % job.priority
        and all(
            existing.get(name) == value
            for name, value in zip(names, values, strict=True)
            if name in (f.ENVELOPE, f.TYPE, f.MAX_ATTEMPTS)
        )
    )


async def deliver_effects(store: Store, shard: Shard, reply: Sequence[Any]) -> None:
    """Deliver the effects of an enqueue script: names of new queues, and limits of rate limit keys.

    Args:
        store: the store.
        shard: the shard in which the script has run.
        reply: the script's reply; the third value has the effects, if there is one.
    """
    if len(reply) > 2 and reply[2]:
        await deliver(store, shard, reply[2])


async def read_back(store: Store, shard: Shard, part: Sequence[PlacedJob]) -> list[JobRecord]:
    """Read jobs that were stored; return a job that was removed since as it was stored."""
    records: list[JobRecord] = []
    for job in part:
        flat = await store.redis.call(shard.slot, "HGETALL", shard.job(job.job_id), idempotent=True)
        if isinstance(flat, list) and flat:
            records.append(record(job.job_id, flat))
        else:
            fields = _stored_fields(job, b"0", PLAIN_ANSWER)
            records.append(JobRecord(job.job_id, fields))
    return records


def count_types(store: Store, jobs: Iterable[PlacedJob]) -> None:
    """Count stored jobs by their types, for the metrics."""
    for job in jobs:
        # The second field is the type; see ``_fields``.
        store.job_counts.count_enqueued(job.queue, job.fields[3])


def _fields(job: NewJob) -> list[bytes]:
    """Return names and values of those fields of a job's hash that follow from the request."""
    retry = job.retry
    fields = [
        f.ENVELOPE,
        job.body,
        f.TYPE,
        job.type.encode(),
        f.MAX_ATTEMPTS,
        b"%d" % retry.max_attempts,
    ]
    limit = job.rate_limit
    if (
        retry is DEFAULT_RETRY
        and limit is None
        and not job.visibility_timeout_ms
        and not job.timeout_ms
        and not job.tenant
        and not job.retention
    ):
        return fields  # a shortcut: all optional fields are empty
    max_per_second = limit.max_per_second if limit else None
    optional = (
        (f.RETRY, retry.packed()),
        (f.NON_RETRYABLE, retry.patterns()),
        (f.ON_EXHAUSTION, (retry.on_exhaustion or "").encode()),
        (f.VISIBILITY, b"%d" % job.visibility_timeout_ms if job.visibility_timeout_ms else b""),
        (f.TIMEOUT, b"%d" % job.timeout_ms if job.timeout_ms else b""),
        (f.MAX_PER_SECOND, b"%d" % max_per_second if max_per_second else b""),
        (f.TENANT, job.tenant.encode()),
        (f.KEEP, job.retention.encode()),
        (f.LIMIT, limit.packed().encode() if limit and limit.key else b""),
    )
    for name, value in optional:
        if value:
            fields += (name, value)
    return fields


def _stored_fields(job: PlacedJob, now: bytes, answer: Sequence[Any]) -> dict[bytes, bytes]:
    """Return the fields of a job's hash as an enqueue script has stored them.

    Args:
        job: the job.
        now: Unix time in ms when the job was stored.
        answer: state, due and expires as the script has returned them for the job.
    """
    state, due, expires = answer
    pairs = iter(job.fields)
    stored = dict(zip(pairs, pairs, strict=True))
    stored[f.STATE] = state
    stored[f.QUEUE] = job.queue.encode()
    stored[f.PRIORITY] = b"%d" % job.priority
    stored[f.CREATED] = now
    if job.outcome == "superseded":
        stored[f.FINISHED] = now
    if due == b"" and expires == b"":
        return stored
    for value, argument, name, shown_name in (
        (due, job.due, f.DUE, f.SCHEDULED_SHOWN),
        (expires, job.expires, f.EXPIRES, f.EXPIRES_SHOWN),
    ):
        if value != b"":
            stored[name] = b"%d" % int(value)
            if argument[0] != "a":  # all other times are shown in the envelope: see enqueue.lua
                stored[shown_name] = stored[name]
    return stored


def time_argument(point: TimePoint | None) -> str:
    """Return a time as ``enqueue.lua`` takes it: '' for none, 'r' relative, 'a' absolute."""
    if point is None:
        return ""
    return f"{'r' if point.relative else 'a'}{point.ms}"
