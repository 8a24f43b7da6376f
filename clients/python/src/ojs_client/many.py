"""Many jobs at once: enqueue any number, and wait for each."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from ojs_client.background import running
from ojs_client.errors import (
    ApiError,
    ConnectionFailed,
    InvalidArguments,
    OJSError,
    ResultPending,
)
from ojs_client.jobs import Job
from ojs_client.options import NewJob
from ojs_client.transport import Transport, encode

MAX_JOBS: Final = 500
_MAX_BYTES: Final = 1024 * 1024
_WAITS: Final = 50
"""Maximum number of requests that wait for jobs at the same time."""
_TURN_S: Final = 1.0
"""How long one of them waits in seconds if more jobs wait for their turn."""


@dataclass(frozen=True, slots=True)
class FailedPortion:
    """Jobs that were not enqueued, and why.

    Args:
        jobs: the jobs.
        error: the error. If its ``applied`` is None, the jobs may exist. A job without a JSON form
            has InvalidArguments.
    """

    jobs: tuple[NewJob, ...]
    error: ApiError | ConnectionFailed | InvalidArguments


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


async def enqueue_batch(transport: Transport, jobs: Iterable[NewJob]) -> list[Job]:
    """Enqueue several jobs in one request; ``Client.enqueue_many`` describes it."""
    body = {"jobs": [job.json() for job in jobs]}
    if not body["jobs"]:
        return []
    try:
        reply = await transport.request("POST", "/jobs/batch", body)
    except ApiError as error:
        if error.status == 413:  # too many jobs, or too many bytes
            error.args = (f"{error}; enqueue_all enqueues any number of jobs in portions",)
        raise
    existing = frozenset(reply.get("deduplicated", ()))
    return [
        Job.from_json(job, deduplicated=index in existing)
        for index, job in enumerate(reply["jobs"])
    ]


async def enqueue_portions(
    send: Callable[[list[NewJob]], Awaitable[list[Job]]],
    jobs: Iterable[NewJob] | AsyncIterable[NewJob],
    size: int,
) -> EnqueueReport:
    """Enqueue any number of jobs; ``Client.enqueue_all`` describes it."""
    if size < 1:
        raise ValueError("a portion has at least one job")
    enqueued = deduplicated = 0
    failed: list[FailedPortion] = []
    async for portion in _portions(jobs, size, failed):
        try:
            sent = await send(portion)
        except (ApiError, ConnectionFailed) as error:
            failed.append(FailedPortion(tuple(portion), error))
            continue
        old = sum(job.deduplicated for job in sent)
        enqueued, deduplicated = enqueued + len(sent) - old, deduplicated + old
    return EnqueueReport(enqueued, deduplicated, tuple(failed))


async def _portions(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], size: int, failed: list[FailedPortion]
) -> AsyncIterator[list[NewJob]]:
    portion: list[NewJob] = []
    length = 0
    async for job in _each(jobs):
        try:
            job_length = len(encode(job.json(trace=False)))
        except (TypeError, ValueError, RecursionError) as error:
            failed.append(FailedPortion((job,), InvalidArguments(str(error))))
            continue
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
    ended_within: Callable[[str, float], Awaitable[Job]], ids: list[str], wait_s: float
) -> AsyncIterator[AsyncIterator[Job]]:
    """Yield an iterator over jobs as they end; ``Client.as_completed`` describes it.

    Args:
        ended_within: returns a job when it has ended, or raises ResultPending after some seconds.
        ids: the jobs.
        wait_s: maximum time in seconds.
    """
    send, receive = anyio.create_memory_object_stream[Job | OJSError](len(ids))
    deadline = anyio.current_time() + wait_s
    # With more jobs than requests, each is first asked once, so that none waits behind slow ones.
    first_s = 0.0 if len(ids) > _WAITS else wait_s
    left = deque((job_id, first_s) for job_id in ids)

    async def wait_for_some() -> None:
        while left:
            job_id, turn_s = left.popleft()
            if not left:  # no other job waits for a turn
                turn_s = wait_s
            left_s = max(0.0, deadline - anyio.current_time())
            try:
                send.send_nowait(await ended_within(job_id, min(turn_s, left_s)))
            except ResultPending as error:
                if turn_s < left_s:
                    left.append((job_id, _TURN_S))
                else:
                    send.send_nowait(error)
            except OJSError as error:
                send.send_nowait(error)

    async def ended() -> AsyncGenerator[Job]:
        for _ in ids:
            found = await receive.receive()
            if isinstance(found, OJSError):
                raise found
            yield found

    with send, receive:
        waits = (wait_for_some for _ in ids[:_WAITS])
        async with running(*waits), aclosing(ended()) as jobs:
            yield jobs
