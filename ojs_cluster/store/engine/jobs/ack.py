"""Acknowledge a job (spec: ojs-worker-protocol, ACK)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ojs_cluster.core.errors import PayloadTooLarge
from ojs_cluster.core.events import JOB_COMPLETED
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.durability import required_durability
from ojs_cluster.redis.packed_calls import pack_call
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import keys_of, run_for_reply
from ojs_cluster.store.engine.jobs.by_ids import JobOutcome, JobTransition, run_on_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord, record, split_values
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.lease_ids import needs_full_ack
from ojs_cluster.store.ground.runtime import Arg

_KEYS = ("active", "finished", "events")
_FULL_REPLY = 3
"""Number of values in a reply of ``ack_full.lua``. A list of ``ack.lua`` also has the time."""
_NUMBERS = 4
"""Number of numbers of the job in a text of ``ack.lua``."""


async def ack(
    store: Store,
    job_id: str,
    *,
    worker_id: str | None,
    lease_id: str | None,
    result: bytes | None,
    sent: SentScript | None = None,
) -> JobRecord:
    """Complete an active job.

    A caller that names its worker or lease may repeat the ack after a lost reply: it gets the
    completed job. An anonymous caller gets a conflict then.

    Args:
        store: the store.
        job_id: the job.
        worker_id: the caller's worker id, None when it names none.
        lease_id: the caller's lease id, None when it names none.
        result: the job's result as JSON, None for none.
        sent: the call of ``ack.lua``, if it is sent already.

    Returns:
        The completed job. The fields of its former lease may be absent.

    Raises:
        NotFound: no such job.
        Conflict: the job is not active, or another lease holds it.
        PayloadTooLarge: the result is larger than ``OJS_RESULT_MAX_BYTES``; the job stays active.
        BackendUnavailable: Redis did not answer in time.
    """
    refusal = _check_size(store, result)
    if refusal is not None:
        raise refusal
    # The fast path is not used with required durability: each reply waits for a confirmation, and a
    # job that needs the full path would wait twice. Webhooks need the full path as well.
    full = sent is None and bool(
        required_durability(store.redis.durability)
        or store.webhooks.selects(JOB_COMPLETED)
        or needs_full_ack(lease_id)
    )
    name = "ack_full" if full else "ack"
    args = _args(store, worker_id, lease_id, result, full=full)
    reply = await run_for_reply(
        store,
        name,
        job_id,
        _KEYS,
        args,
        idempotent=bool(worker_id or lease_id),
        lease_id=lease_id,
        sent=sent,
    )
    if isinstance(reply, bytes):
        completed = plain_job(job_id, reply, result)
        store.job_counts.count_completed_job(completed.fields)
        return completed
    fields = reply[1]
    if len(reply) > _FULL_REPLY:  # the fast path omits the fields whose values this process knows
        fields += (f.STATE, b"completed", f.FINISHED, b"%d" % reply[3])
        if result:
            fields += (f.RESULT, result)
    completed = record(job_id, fields)
    # A repeated ack must not count the job again. Its reply has each field once. The first ack of a
    # job changes the state, so that the reply has the old and the new state.
    if 2 * len(completed.fields) < len(fields):
        store.job_counts.count_completed_job(completed.fields)
    return completed


def _args(
    store: Store, worker_id: str | None, lease_id: str | None, result: bytes | None, *, full: bool
) -> list[Arg]:
    """Return ARGV of ``ack.lua``, or of ``ack_full.lua``."""
    args: list[Arg] = [
        store.events_arg if full else store.settings.events_per_shard,
        worker_id or "",
        lease_id or "",
        store.settings.retention_completed_ms,
    ]
    if result:
        args.append(result)
    return args


def plain_command(
    store: Store,
    shard: Shard,
    job_id: str,
    worker_id: str | None,
    lease_id: str | None,
    result: bytes | None,
) -> bytes:
    """Return the packed call of ``ack.lua`` that ``ack`` sends to a shard."""
    args = _args(store, worker_id, lease_id, result, full=False)
    return pack_call(store.scripts["ack"], keys_of(shard, job_id, _KEYS), args)


def plain_job(job_id: str, reply: bytes, result: bytes | None) -> JobRecord:
    """Return the job of a text that ``ack.lua`` returns."""
    seconds, micros, values = reply.split(b"\n", 2)
    queue, job_type, created, max_attempts, attempt, started, envelope = split_values(
        values, _NUMBERS
    )
    fields = {
        f.STATE: b"completed",
        f.QUEUE: queue,
        f.TYPE: job_type,
        f.ENVELOPE: envelope,
        f.CREATED: created,
        f.MAX_ATTEMPTS: max_attempts,
        f.ATTEMPT: attempt,
        f.STARTED: started,
        f.FINISHED: b"%d" % (int(seconds) * 1000 + int(micros) // 1000),
    }
    if result:
        fields[f.RESULT] = result
    return JobRecord(job_id, fields)


@dataclass(frozen=True, slots=True)
class Ack:
    """One ack of ``ack_many``, with the arguments of ``ack``."""

    job_id: str
    lease_id: str | None
    result: bytes | None


async def ack_many(store: Store, acks: Sequence[Ack], *, worker_id: str | None) -> list[JobOutcome]:
    """Complete many active jobs, each independently; return the outcomes in the order of ``acks``.

    Args:
        store: the store.
        acks: the acks.
        worker_id: the caller's worker id, None when it names none.
    """
    transitions = [
        JobTransition(
            one.job_id,
            (worker_id or "", one.lease_id or "", one.result or b""),
            partial(
                ack,
                store,
                one.job_id,
                worker_id=worker_id,
                lease_id=one.lease_id,
                result=one.result,
            ),
            _check_size(store, one.result),
            one.lease_id,
        )
        for one in acks
    ]
    settings = store.settings
    return await run_on_jobs(
        *(store, "ack_many", _KEYS),
        [store.events_arg, settings.retention_completed_ms],
        transitions,
        idempotent=bool(worker_id) or all(one.lease_id for one in acks),
    )


def _check_size(store: Store, result: bytes | None) -> PayloadTooLarge | None:
    limit = store.settings.result_max_bytes
    if result is None or len(result) <= limit:
        return None
    return PayloadTooLarge(
        f"the result has {len(result)} bytes, the limit is {limit} bytes", field="result"
    )
