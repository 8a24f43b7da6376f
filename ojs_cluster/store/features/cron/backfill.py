"""Enqueue the occurrences of a past interval, such as those of an outage.

Each job has the id that the scheduler gives the job of the same occurrence. So an occurrence that
has fired, or that was backfilled before, is not enqueued again while its job is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import (
    BackendUnavailable,
    Duplicate,
    InvalidRequest,
    MalformedJob,
    NotFound,
    OJSError,
    PayloadTooLarge,
    ValidationFailed,
)
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.args_validation import check_args
from ojs_cluster.store.engine.enqueue.independent_jobs import enqueue_each
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.occurrence_job import UnusableDefinition, make_job
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently

MAX_OCCURRENCES: Final = 500
"""Maximum number of occurrences of one backfill."""
_MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum size in bytes of all jobs of one backfill."""
_ENQUEUE_S: Final = 20.0
"""Time in seconds that the enqueues may take, in addition to the usual time of a request."""
_PORTION: Final = 50
"""Jobs that are made and enqueued at a time. In between, other requests run."""
_REFUSED: Final = (
    "this occurrence was refused recently, for example because the queue was full, "
    "and its id is reserved for ten minutes: repeat the backfill later"
)


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill has done.

    Attributes:
        enqueued: number of jobs that were enqueued.
        existing: number of occurrences whose job, or a job with the same fingerprint, exists.
        errors: why the other jobs could not be enqueued, by the time of the occurrence in ms.
    """

    enqueued: int
    existing: int
    errors: dict[int, str]


async def occurrences(cron: CronRecord, from_ms: int, to_ms: int, now_ms: int) -> list[int]:
    """Return the occurrences of a past interval, in Unix milliseconds.

    Args:
        cron: the cron job, with its present schedule.
        from_ms: the beginning, included.
        to_ms: the end, not included.
        now_ms: the present time in Unix milliseconds.

    Raises:
        InvalidRequest: the interval is empty, begins before 1970, or is not in the past.
        ValidationFailed: the interval has more than ``MAX_OCCURRENCES`` occurrences.
    """
    if from_ms >= to_ms:
        raise InvalidRequest("from must be before to", field="from")
    if from_ms < 0:  # no local time of a zone is then before the first year
        raise InvalidRequest("from must not be before 1970", field="from")
    if to_ms > now_ms:
        raise InvalidRequest("to must not be in the future", field="to")
    await ensure_task()
    found: list[int] = []
    at = from_ms - 1
    while True:
        following = cron.schedule.following(at, cron.anchor_ms)
        if following is None or following.ms >= to_ms:
            return found
        if len(found) == MAX_OCCURRENCES:
            raise ValidationFailed(
                f"the interval has more than {MAX_OCCURRENCES} occurrences: choose a shorter one",
                field="to",
                limit=MAX_OCCURRENCES,
            )
        at = following.ms
        found.append(at)
        await trio.lowlevel.checkpoint()  # an occurrence may take the calendar some milliseconds


async def backfill(store: Store, cron: CronRecord, times_ms: Sequence[int]) -> Backfilled:
    """Enqueue the jobs of occurrences, whatever the overlap policy. Repeating it adds none.

    Args:
        store: the store.
        cron: the cron job. Its present definition makes the jobs.
        times_ms: the occurrences, in Unix milliseconds.

    Raises:
        ArgsRefused: the args do not match the schema of their type; nothing is enqueued.
        PayloadTooLarge: all jobs together would be too large; nothing is enqueued.
        OJSError: no job can be made from the definition.
        BackendUnavailable: Redis did not answer in time. Some jobs may be enqueued. Repeat it.
    """
    if len(cron.job) * len(times_ms) > _MAX_BYTES:
        raise PayloadTooLarge(
            f"the jobs have more than {_MAX_BYTES} bytes together: choose a shorter interval",
            field="to",
            limit=_MAX_BYTES,
        )
    extend_deadline(_ENQUEUE_S)
    cron_store = RedisCronStore(store)
    enqueued, existing, errors = 0, 0, dict[int, str]()
    for start in range(0, len(times_ms), _PORTION):
        times = times_ms[start : start + _PORTION]
        jobs = [await _job(cron_store, cron, ms) for ms in times]
        if start == 0:
            await check_args(store, jobs[0])
        # As of each run of a cron job, see ``RedisCronStore.enqueue``.
        results = await enqueue_each(store, jobs, [f.FIXED_ID, b"1"])
        refused = await _refused(store, jobs, results)
        for ms, job, result in zip(times, jobs, results, strict=True):
            if isinstance(result, BackendUnavailable):
                raise result
            if job.id in refused:
                errors[ms] = _REFUSED
            elif isinstance(result, Duplicate):
                existing += 1
            elif isinstance(result, OJSError):
                errors[ms] = result.message
            elif result.deduplicated:
                existing += 1
            else:
                enqueued += 1
    return Backfilled(enqueued, existing, errors)


async def _refused(
    store: Store, jobs: Sequence[NewJob], results: Sequence[JobRecord | OJSError]
) -> set[str]:
    """Return the ids that no job may have, although none has them.

    When the scheduler cannot enqueue an occurrence, it writes a tombstone (see ``firing.deliver``),
    which prevents a job as an existing job does.
    """
    refused: set[str] = set()

    async def check(job_id: str) -> None:
        try:
            await read_jobs.get_queue_and_tenant(store, job_id)
        except NotFound:
            refused.add(job_id)
        except MalformedJob:
            pass

    taken = [
        job.id
        for job, result in zip(jobs, results, strict=True)
        if job.id
        and isinstance(result, Duplicate)
        and result.details.get("existing_job_id") == job.id
    ]
    await run_concurrently(taken, check)
    return refused


async def _job(cron_store: RedisCronStore, cron: CronRecord, occurrence_ms: int) -> NewJob:
    try:
        job = await make_job(cron.name, cron.job, occurrence_ms)
    except UnusableDefinition as found:
        raise found.error from found
    return msgspec.structs.replace(job, id=cron_store.job_id(cron, occurrence_ms))
