"""Fail, requeue or release a job (spec: ojs-worker-protocol, FAIL; ojs-retry)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from ojs_cluster.core.jobs.failure import Failure
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_for_reply, run_on_job
from ojs_cluster.store.engine.jobs.by_ids import JobOutcome, JobTransition, run_on_jobs
from ojs_cluster.store.engine.jobs.error_group_names import error_group_name
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.runtime import Arg

_KEYS = ("due", "active", "execution_deadlines", "expiring", "finished", "dead", "events")

JOBS_PER_WALK = 500
"""Active jobs that one script walks in ``release_unanswered``, which takes about 1 ms."""

_Action = Literal["fail", "requeue", "release"]


async def nack(
    store: Store,
    job_id: str,
    *,
    worker_id: str | None,
    lease_id: str | None,
    failure: Failure,
    requeue: bool = False,
    release: bool = False,
) -> JobRecord:
    """End the current attempt as failed, or requeue the job.

    After a failed attempt the job is retryable, with backoff or the delay of the error, discarded
    or dead-lettered. A snoozed job is retryable, and the attempt does not count. A caller
    that names its lease may repeat the nack after a lost reply: it gets the stored job.

    Args:
        store: the store.
        job_id: the job.
        worker_id: the caller's worker id, None when it names none.
        lease_id: the caller's lease id, None when it names none.
        failure: the error.
        requeue: whether to make the job available at once instead, with its attempt count and
            without recording a failure.
        release: whether to undo the fetch instead: the job is available at the front of its queue,
            and the attempt does not count. The caller names its lease.

    Returns:
        The job after the transition.

    Raises:
        NotFound: no such job.
        Conflict: the job is not active, or another lease holds it.
        BackendUnavailable: Redis did not answer in time.
    """
    action = _action(requeue=requeue, release=release)
    reply = await run_for_reply(
        *(store, "nack", job_id, _KEYS),
        [*_settings_args(store), _packed(action, worker_id, lease_id, failure)],
        idempotent=lease_id is not None,
        lease_id=lease_id,
    )
    job = record(job_id, reply[1])
    # A repeated nack must not count the job again. Only the first nack finds the job active, and
    # then the old state is in the reply, before the new one.
    if action == "fail" and failure.action != "snooze" and _names_active(reply[1]):
        names = job.fields[f.QUEUE], job.fields[f.TYPE]
        store.job_counts.count_failed(*names, discarded=job.state is State.DISCARDED)
    return job


def _names_active(field_list: Sequence[bytes]) -> bool:
    return (f.STATE, b"active") in zip(field_list[::2], field_list[1::2], strict=True)


@dataclass(frozen=True, slots=True)
class Nack:
    """One nack of ``nack_many``, with the arguments of ``nack``."""

    job_id: str
    lease_id: str | None
    failure: Failure
    requeue: bool
    release: bool = False

    @property
    def action(self) -> _Action:
        """What happens to the job."""
        return _action(requeue=self.requeue, release=self.release)


def _action(*, requeue: bool, release: bool) -> _Action:
    return "release" if release else "requeue" if requeue else "fail"


async def nack_many(
    store: Store, nacks: Sequence[Nack], *, worker_id: str | None
) -> list[JobOutcome]:
    """End the attempts of many active jobs, each independently.

    Args:
        store: the store.
        nacks: the nacks.
        worker_id: the caller's worker id, None when it names none.

    Returns:
        The outcomes, in the order of ``nacks``.
    """
    transitions = [
        JobTransition(
            one.job_id,
            (_packed(one.action, worker_id, one.lease_id, one.failure),),
            partial(
                nack,
                store,
                one.job_id,
                worker_id=worker_id,
                lease_id=one.lease_id,
                failure=one.failure,
                requeue=one.requeue,
                release=one.release,
            ),
            lease_id=one.lease_id,
        )
        for one in nacks
    ]
    return await run_on_jobs(
        *(store, "nack_many", _KEYS, _settings_args(store), transitions),
        idempotent=all(one.lease_id for one in nacks),
    )


async def release(store: Store, job: JobRecord) -> None:
    """Undo the fetch of a job that its client did not receive.

    Raises:
        NotFound, Conflict: the lease has ended, so there is nothing to undo.
        BackendUnavailable: Redis did not answer in time; the lease expires instead.
    """
    await run_on_job(
        *(store, "nack", job.id, _KEYS),
        [*_settings_args(store), _packed("release", None, job.lease_id)],
        idempotent=True,
        lease_id=job.lease_id,
    )


async def release_unanswered(store: Store, shard: Shard, prefixes: Sequence[bytes]) -> list[bytes]:
    """Undo fetches of one shard whose replies were lost.

    Args:
        shard: the shard that ran the fetches.
        prefixes: the prefix of each fetch's lease ids, all of one length.

    Returns:
        The prefix of each released job.

    Raises:
        BackendUnavailable: Redis did not answer in time; some jobs may have been released.
    """
    keys = [
        shard.active,
        shard.execution_deadlines,
        shard.expiring,
        shard.finished,
        shard.events,
        shard.due,
    ]
    max_walked = store.webhooks.jobs_per_script("release_unanswered", JOBS_PER_WALK)
    released: list[bytes] = []
    cursor = b""
    while True:
        cursor, effects, *prefixes_here = await store.run(
            shard,
            "release_unanswered",
            keys,
            [store.events_arg, cursor, max_walked, *prefixes],
            idempotent=True,
        )
        await deliver(store, shard, effects)
        released += prefixes_here
        if not cursor:
            return released


def _packed(
    action: _Action, worker_id: str | None, lease_id: str | None, failure: Failure | None = None
) -> bytes:
    """Return a nack in msgpack, with the positions of ``store/include/jobs/nack_job.lua``.

    Texts are str and not bytes, because Redis cannot read msgpack's binary type.
    """
    random_number = random.random()  # noqa: S311 - jitter spreads retries, it guards nothing
    head = (worker_id or "", lease_id or "", action)
    if failure is None:
        return msgspec.msgpack.encode((*head, "", "0", random_number, "", ""))
    decision = failure.action or str(int(failure.retryable))
    hold_until = "" if failure.hold_until_ms is None else str(failure.hold_until_ms)
    delay = "" if failure.delay_ms is None else str(failure.delay_ms)
    error = failure.json.decode()
    group = error_group_name(failure.json) if action == "fail" else ""
    return msgspec.msgpack.encode(
        (*head, error, decision, random_number, hold_until, group, delay, *failure.names)
    )


def _settings_args(store: Store) -> list[Arg]:
    """Return ARGV 1 to 7 of ``nack.lua`` and ``nack_many.lua``."""
    settings = store.settings
    return [
        store.events_arg,
        settings.errors_kept,
        settings.retention_discarded_ms,
        settings.retention_dead_ms,
        settings.dead_letter_max,
        settings.on_exhaustion,
        settings.history_kept,
    ]
