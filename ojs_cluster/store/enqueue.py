"""Enqueue jobs (spec: ojs-core, PUSH; ojs-bulk-operations)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ojs_cluster.core.envelope import NewJob, head
from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate
from ojs_cluster.core.ids import new_job_id
from ojs_cluster.core.timestamps import TimePoint
from ojs_cluster.keys import Shard
from ojs_cluster.store import fields as f
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.jobs import read_many
from ojs_cluster.store.record import JobRecord

CLAIM_MS = 30_000
"""How long a claimed alias may wait for its job. The janitor drops it much later."""


class _Taken(Exception):
    """The id at ``position`` in a part of a batch is taken."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


async def enqueue(store: Store, job: NewJob) -> JobRecord:
    """Store one job, durable when this returns.

    Raises
    ------
    Duplicate: the client's id is taken, anywhere in the cluster.
    TooManyQueues: the queue would be one too many.
    BackendUnavailable: Redis did not answer in time.
    """
    return (await enqueue_many(store, [job]))[0]


async def enqueue_many(store: Store, jobs: Sequence[NewJob]) -> list[JobRecord]:
    """Store jobs, answered in the order given. Those of one shard are stored all or none.

    Raises
    ------
    Duplicate: an id is taken or given twice; ``details`` name it and its index.
    TooManyQueues, BackendUnavailable: as ``enqueue``.
    """
    placed = _place(store, jobs)
    await store.queues.ensure(store, dict.fromkeys(job.queue for job in jobs))
    parts: dict[Shard, list[int]] = {}
    for index, (shard, _) in enumerate(placed):
        parts.setdefault(shard, []).append(index)
    lapses = await _claim(store, jobs, placed)
    records: dict[int, JobRecord] = {}
    # One shard after the other: a refusal by one leaves the later ones untouched.
    for shard, indexes in parts.items():
        part = [(placed[i][1], jobs[i]) for i in indexes]
        try:
            stored = await _store_part(store, shard, part, lapses)
        except _Taken as taken:
            job_id, _ = part[taken.position]
            raise _duplicate(job_id, indexes[taken.position], len(jobs)) from None
        except BackendUnavailable as error:
            if records:
                raise BackendUnavailable(
                    f"{error.message}; some of the batch is stored", outcome="unknown"
                ) from error
            raise
        records.update(zip(indexes, stored, strict=True))
    return [records[index] for index in range(len(jobs))]


def _place(store: Store, jobs: Sequence[NewJob]) -> list[tuple[Shard, str]]:
    """The shard and the id of each job; a client's ids must differ."""
    now_ms = time.time_ns() // 1_000_000
    placed: list[tuple[Shard, str]] = []
    seen: set[str] = set()
    for index, job in enumerate(jobs):
        shard = store.keys.shard_of_queue(job.queue)
        if job.id is not None:
            if job.id in seen:
                raise _duplicate(job.id, index, len(jobs))
            seen.add(job.id)
        placed.append((shard, job.id or new_job_id(shard.index, len(store.keys), now_ms)))
    return placed


async def _claim(store: Store, jobs: Sequence[NewJob], placed: Sequence[tuple[Shard, str]]) -> int:
    """Claim the ids that clients chose, where their bits point elsewhere than their queue.

    Returns the ms (by the clock of the shard that lapses first) before which the jobs must be
    written, or 0.
    """
    lapses = 0
    for index, (shard, job_id) in enumerate(placed):
        home = store.keys.shard_of_id(job_id)
        if jobs[index].id is None or home is shard:
            continue
        reply = await store.run(
            home,
            "claim_alias",
            [home.job(job_id), home.claims],
            [job_id, shard.index, CLAIM_MS],
            idempotent=True,
        )
        if reply[0] != b"ok":
            raise _duplicate(job_id, index, len(jobs))
        lapses = min(lapses or int(reply[1]), int(reply[1]))
    return lapses


async def _store_part(
    store: Store,
    shard: Shard,
    part: Sequence[tuple[str, NewJob]],
    lapses: int,
) -> list[JobRecord]:
    queues = list(dict.fromkeys(job.queue for _, job in part))
    positions = {queue: position for position, queue in enumerate(queues, 1)}
    keys = [shard.due, shard.expiring, shard.pending, shard.events]
    for queue in queues:
        keys += (shard.queue(queue), shard.available(queue))
    args: list[Arg] = [store.settings.events_per_shard, len(queues), len(part), lapses, *queues]
    sent: list[list[bytes]] = []
    for job_id, job in part:
        keys.append(shard.job(job_id))
        fields = _fields(job_id, job)
        sent.append(fields)
        args += (
            job_id,
            positions[job.queue],
            job.priority,
            "pending" if job.pending else "",
            _moment(job.scheduled),
            _moment(job.expires),
            len(fields),
            *fields,
        )
    reply = await _run(store, shard, keys, args, part)
    if reply[0] == b"lapsed":
        raise Conflict("the claim on the job's id lapsed before the job could be stored")
    if reply[0] == b"exists":
        raise _Taken(int(reply[1]) - 1)
    if reply[2]:
        await store.queues.created(store, reply[2])
    now = b"%d" % reply[1]
    answers = reply[3:]
    return [
        JobRecord(job_id, _stored(job, fields, now, answers[3 * i : 3 * i + 3]))
        for i, ((job_id, job), fields) in enumerate(zip(part, sent, strict=True))
    ]


async def _run(
    store: Store,
    shard: Shard,
    keys: Sequence[bytes],
    args: Sequence[Arg],
    part: Sequence[tuple[str, NewJob]],
) -> list[Any]:
    """Run the script so that a lost reply is not answered with "duplicate" of ourselves."""
    ours = all(job.id is None for _, job in part)
    reply: list[Any]
    try:
        reply = await store.run(shard, "enqueue", keys, args, idempotent=ours)
        retried = ours
    except BackendUnavailable as error:
        if error.outcome != "unknown":
            raise
        # The first try may have been applied. What is there then has our very bytes.
        reply = await store.run(shard, "enqueue", keys, args)
        retried = True
    if reply[0] == b"exists" and retried:
        return await _already(store, shard, part) or reply
    return reply


async def _already(
    store: Store, shard: Shard, part: Sequence[tuple[str, NewJob]]
) -> list[Any] | None:
    """The reply that was lost, read back; None unless every job of the part is there as sent.

    One job that is there proves nothing of the others: it may be older than this request.
    """
    found = {job.id: job.fields for job in await read_many(store, shard, [id_ for id_, _ in part])}
    reply: list[Any] = [b"ok", 0, []]
    for job_id, job in part:
        fields = found.get(job_id, {})
        if fields.get(f.ENVELOPE) != _fields(job_id, job)[1]:
            return None
        reply[1] = int(fields[f.CREATED])
        reply += (fields[f.STATE], fields.get(f.DUE, b""), fields.get(f.EXPIRES, b""))
    return reply


def _fields(job_id: str, job: NewJob) -> list[bytes]:
    retry = job.retry
    fields = [
        f.ENVELOPE,
        head(job_id, job) + job.body,
        f.TYPE,
        job.type.encode(),
        f.MAX_ATTEMPTS,
        b"%d" % retry.max_attempts,
    ]
    optional = (
        (f.RETRY, retry.packed()),
        (f.NON_RETRYABLE, retry.patterns()),
        (f.ON_EXHAUSTION, b"dead_letter" if retry.on_exhaustion == "dead_letter" else b""),
        (f.VISIBILITY, b"%d" % job.visibility_timeout_ms if job.visibility_timeout_ms else b""),
        (f.TIMEOUT, b"%d" % job.timeout_ms if job.timeout_ms else b""),
    )
    for name, value in optional:
        if value:
            fields += (name, value)
    return fields


def _stored(
    job: NewJob, fields: Sequence[bytes], now: bytes, answer: Sequence[Any]
) -> dict[bytes, bytes]:
    """The job's hash as the script left it, without reading it back."""
    state, due, expires = answer
    pairs = iter(fields)
    stored = dict(zip(pairs, pairs, strict=True))
    stored[f.STATE] = state
    stored[f.QUEUE] = job.queue.encode()
    stored[f.PRIORITY] = b"%d" % job.priority
    stored[f.CREATED] = now
    for value, point, name, shown in (
        (due, job.scheduled, f.DUE, f.SCHEDULED_SHOWN),
        (expires, job.expires, f.EXPIRES, f.EXPIRES_SHOWN),
    ):
        if value != b"":
            stored[name] = b"%d" % int(value)
            if point is not None and point.relative:
                stored[shown] = stored[name]
    return stored


def _moment(point: TimePoint | None) -> str:
    if point is None:
        return ""
    return f"{'r' if point.relative else 'a'}{point.ms}"


def _duplicate(job_id: str, index: int, of: int) -> Duplicate:
    return Duplicate(
        f"a job with id '{job_id}' already exists",
        field="id",
        existing_job_id=job_id,
        index=index if of > 1 else None,
    )
