"""Jobs as the enqueue script takes them, and as it leaves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY
from ojs_cluster.core.timestamps import TimePoint
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.limits.depth_bounds import bound_arguments
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.portions import cuts
from ojs_cluster.store.runtime import Arg

Fate = Literal["", "prepared", "superseded"]

PORTION_JOBS = 250
"""Jobs that one script writes at most: about 5 ms of its node."""


class PlacedJob(msgspec.Struct, frozen=True):
    """A job with its id, ready to be written. Holds only what a transaction's record can keep.

    Args:
        due, expires: '', or the letter of a kind of moment and ms (see ``enqueue.lua``).
        fields: names and values of the hash, one after the other.
        fate: prepared to replace a job later (see ``transactions``), or superseded at once,
        because a
            later job of the same batch replaces it.
    """

    job_id: str
    queue: str
    priority: int
    pending: bool
    due: str
    expires: str
    fields: list[bytes]
    fate: Fate = ""

    @property
    def plain(self) -> bool:
        """Whether it is simply available, and declares no limit."""
        return not (self.pending or self.due or self.expires or self.fate) and not (
            f.MAX_PER_SECOND in self.fields[::2] or f.LIMIT in self.fields[::2]
        )


def place(job_id: str, job: NewJob, more: Sequence[bytes] = ()) -> PlacedJob:
    """``job`` under ``job_id``; ``more`` are names and values of further fields."""
    return PlacedJob(
        job_id,
        job.queue,
        job.priority,
        job.pending,
        _moment(job.scheduled),
        _moment(job.expires),
        [*_fields(job), *more],
    )


def command(
    store: Store,
    shard: Shard,
    part: Sequence[PlacedJob],
    *,
    lapses: int = 0,
    transaction: str = "",
    portion: int = 0,
    fences: Iterable[str] = (),
    accepted: bool = True,
) -> tuple[list[bytes], list[Arg]]:
    """KEYS and ARGV of the script that writes ``part``, all of ``shard``.

    Args:
        lapses: ms of the shard's clock from which on it is refused, 0 for never.
        transaction: the transaction whose part it is, '' for none.
        portion: which portion of the transaction's part it is.
        fences: marks of fences to be stored over.
        accepted: whether the jobs are stored however many wait in their queues (see ``bounds``).
    """
    queues = Counter(job.queue for job in part)
    positions = {queue: position for position, queue in enumerate(queues, 1)}
    keys = [shard.due, shard.expiring, shard.pending, shard.finished, shard.events]
    keys += (shard.alias_claims, shard.applied_transactions, shard.references)
    for queue in queues:
        keys += (shard.queue_counters(queue), shard.queue_available(queue))
    args: list[Arg] = [store.settings.events_per_shard, len(queues), len(part), lapses, transaction]
    args += (store.settings.retention_cancelled_ms, token_list(fences))
    note = f"{transaction}.{portion}" if portion else transaction
    limits = "" if accepted else bound_arguments(store, queues)
    args += (shard.index, len(store.keys), note, limits, *queues)
    for job in part:
        keys.append(shard.job(job.job_id))
        args += (
            job.job_id,
            positions[job.queue],
            job.priority,
            "pending" if job.pending else "",
            job.fate,
            job.due,
            job.expires,
            len(job.fields),
            *job.fields,
        )
    return keys, args


def portions(part: Sequence[PlacedJob]) -> list[Sequence[PlacedJob]]:
    """Split jobs into what one script may write, in their order."""
    sizes = [sum(map(len, job.fields)) for job in part]
    return [part[start:end] for start, end in cuts(sizes, PORTION_JOBS)]


def one_command(store: Store, shard: Shard, job: PlacedJob) -> tuple[list[bytes], list[Arg]]:
    """KEYS and ARGV of the script that writes one plain job."""
    queue = job.queue
    keys = [
        shard.events,
        shard.queue_counters(queue),
        shard.queue_available(queue),
        shard.job(job.job_id),
    ]
    args: list[Arg] = [store.settings.events_per_shard, job.job_id, queue, job.priority]
    args += job.fields
    if job.priority:
        args += (f.PRIORITY, job.priority)
    return keys, args


def token_list(marks: Iterable[str]) -> str:
    """Marks of fences as scripts look for them: each with a blank on both sides."""
    return f" {' '.join(marks)} "


def written(part: Sequence[PlacedJob], reply: Sequence[Any]) -> list[JobRecord]:
    """The jobs' hashes as the script left them, from its reply, without reading them back."""
    now, answers = b"%d" % reply[1], reply[3:]
    return [
        JobRecord(job.job_id, _stored(job, now, answers[3 * i : 3 * i + 3]))
        for i, job in enumerate(part)
    ]


def is_same(job: PlacedJob, there: Mapping[bytes, bytes]) -> bool:
    """Whether the hash that is stored under the job's id is of this very job."""
    names, values = job.fields[::2], job.fields[1::2]
    return (
        there.get(f.QUEUE) == job.queue.encode()
        and (there.get(f.PRIORITY) or b"0") == b"%d" % job.priority
        and all(
            there.get(name) == value
            for name, value in zip(names, values, strict=True)
            if name in (f.ENVELOPE, f.TYPE, f.MAX_ATTEMPTS)
        )
    )


async def follow_up(store: Store, shard: Shard, reply: Sequence[Any]) -> None:
    """Do what the script that stored jobs left to do: new queues' names, declared limits."""
    if reply[2]:
        await deliver(store, shard, reply[2])


async def read_back(store: Store, shard: Shard, part: Sequence[PlacedJob]) -> list[JobRecord]:
    """The jobs as they are now; one that is gone already, as it was written."""
    found: list[JobRecord] = []
    for job in part:
        flat = await store.redis.call(shard.slot, "HGETALL", shard.job(job.job_id), idempotent=True)
        if isinstance(flat, list) and flat:
            found.append(record(job.job_id, flat))
        else:
            found.append(JobRecord(job.job_id, _stored(job, b"0", (b"available", b"", b""))))
    return found


def _fields(job: NewJob) -> list[bytes]:
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
    ):
        return fields  # all others are empty
    most = limit.max_per_second if limit else None
    optional = (
        (f.RETRY, retry.packed()),
        (f.NON_RETRYABLE, retry.patterns()),
        (f.ON_EXHAUSTION, b"dead_letter" if retry.on_exhaustion == "dead_letter" else b""),
        (f.VISIBILITY, b"%d" % job.visibility_timeout_ms if job.visibility_timeout_ms else b""),
        (f.TIMEOUT, b"%d" % job.timeout_ms if job.timeout_ms else b""),
        (f.MAX_PER_SECOND, b"%d" % most if most else b""),
        (f.LIMIT, limit.packed().encode() if limit and limit.key else b""),
    )
    for name, value in optional:
        if value:
            fields += (name, value)
    return fields


def _stored(job: PlacedJob, now: bytes, answer: Sequence[Any]) -> dict[bytes, bytes]:
    state, due, expires = answer
    pairs = iter(job.fields)
    stored = dict(zip(pairs, pairs, strict=True))
    stored[f.STATE] = state
    stored[f.QUEUE] = job.queue.encode()
    stored[f.PRIORITY] = b"%d" % job.priority
    stored[f.CREATED] = now
    if job.fate == "superseded":
        stored[f.FINISHED] = now
    if due == b"" and expires == b"":
        return stored
    for value, moment, name, shown in (
        (due, job.due, f.DUE, f.SCHEDULED_SHOWN),
        (expires, job.expires, f.EXPIRES, f.EXPIRES_SHOWN),
    ):
        if value != b"":
            stored[name] = b"%d" % int(value)
            if moment[0] != "a":
                stored[shown] = stored[name]
    return stored


def _moment(point: TimePoint | None) -> str:
    if point is None:
        return ""
    return f"{'r' if point.relative else 'a'}{point.ms}"
