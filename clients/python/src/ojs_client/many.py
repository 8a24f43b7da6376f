"""Many jobs at once: enqueue any number, and wait for each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from ojs_client.background import running
from ojs_client.errors import ApiError, ConnectionFailed, JobFailed, OJSError
from ojs_client.jobs import Job
from ojs_client.options import NewJob
from ojs_client.transport import encode

MAX_JOBS: Final = 500
_MAX_BYTES: Final = 1024 * 1024
_WAITS: Final = 50
"""Maximum number of requests that wait for jobs at the same time."""


@dataclass(frozen=True, slots=True)
class FailedPortion:
    """Jobs that were not enqueued, and why.

    Args:
        jobs: the jobs.
        error: the error. If its ``applied`` is None, the jobs may exist.
    """

    jobs: tuple[NewJob, ...]
    error: ApiError | ConnectionFailed


@dataclass(frozen=True, slots=True)
class EnqueueReport:
    """What became of many jobs.

    Args:
        enqueued: number of new jobs.
        deduplicated: number of jobs that existed already.
        failed: the portions that were not enqueued.
    """

    enqueued: int
    deduplicated: int
    failed: tuple[FailedPortion, ...]


async def enqueue_portions(
    send: Callable[[list[NewJob]], Awaitable[list[Job]]],
    jobs: Iterable[NewJob] | AsyncIterable[NewJob],
    size: int,
) -> EnqueueReport:
    """Enqueue any number of jobs; ``Client.enqueue_all`` describes it."""
    enqueued = deduplicated = 0
    failed: list[FailedPortion] = []
    async for portion in _portions(jobs, size):
        try:
            sent = await send(portion)
        except (ApiError, ConnectionFailed) as error:
            failed.append(FailedPortion(tuple(portion), error))
            continue
        old = sum(job.deduplicated for job in sent)
        enqueued, deduplicated = enqueued + len(sent) - old, deduplicated + old
    return EnqueueReport(enqueued, deduplicated, tuple(failed))


async def _portions(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], size: int
) -> AsyncIterator[list[NewJob]]:
    portion: list[NewJob] = []
    length = 0
    async for job in _each(jobs):
        job_length = len(encode(job.json(trace=False)))
        if portion and (len(portion) == size or length + job_length > _MAX_BYTES):
            yield portion
            portion, length = [], 0
        portion.append(job)
        length += job_length
    if portion:
        yield portion


async def _each(jobs: Iterable[NewJob] | AsyncIterable[NewJob]) -> AsyncIterator[NewJob]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job


@asynccontextmanager
async def ended_jobs(
    wait_for_end: Callable[[str], Awaitable[object]],
    get: Callable[[str], Awaitable[Job]],
    ids: list[str],
) -> AsyncIterator[AsyncIterator[Job]]:
    """Yield an iterator over jobs as they end; ``Client.as_completed`` describes it."""
    send, receive = anyio.create_memory_object_stream[Job | OJSError](len(ids))
    limiter = anyio.CapacityLimiter(_WAITS)

    async def wait(job_id: str) -> None:
        try:
            async with limiter:
                with suppress(JobFailed):
                    await wait_for_end(job_id)
                job = await get(job_id)
        except OJSError as error:
            send.send_nowait(error)
        else:
            send.send_nowait(job)

    async def ended() -> AsyncIterator[Job]:
        for _ in ids:
            found = await receive.receive()
            if isinstance(found, OJSError):
                raise found
            yield found

    with send, receive:
        async with running(*(partial(wait, job_id) for job_id in ids)):
            yield ended()
