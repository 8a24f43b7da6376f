"""The client of producers: jobs, results, workflows and cron jobs."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Final, Self, Unpack, overload

import anyio

from ojs_client.backoff import Backoff
from ojs_client.cron import CronJobs
from ojs_client.errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    JobFailed,
    NotFound,
    ResultPending,
)
from ojs_client.events import Subscription, subscribe
from ojs_client.jobs import Job, Workflow
from ojs_client.joined_enqueues import JoinedEnqueues
from ojs_client.managed_jobs import Jobs
from ojs_client.managing import DeadLetters, Limits, Queues
from ojs_client.many import MAX_JOBS, EnqueueReport, ended_jobs, enqueue_batch, enqueue_portions
from ojs_client.options import JSON, Duration, JobOptions, NewJob, as_new_job, seconds
from ojs_client.transport import Repeat, Transport, encode, segment
from ojs_client.values import Encodable
from ojs_client.workflows import NewWorkflow

_WAIT_STEP_S: Final = 20.0
"""Longest wait of one request for a result in seconds, so that no proxy closes it as idle."""
_EARLY_S: Final = 1.0
"""A wait for a result that ends within this time in seconds is repeated after a pause: a server
that shuts down ends all waits."""
_INSTANT_S: Final = 0.05
"""Part of a wait in seconds that does not matter."""
_WORKFLOW_ENDS: Final = ("workflow.completed", "workflow.failed")
_WORKFLOW_CHECK_S: Final = 10.0
"""Time in seconds between two reads of an unfinished workflow. Its cancellation is no event."""
_WORKFLOW_PAUSE_S: Final = 0.5
"""The same if the client gets no events."""


class Client:
    """A client of an OJS server. Use it with ``async with``, on asyncio or trio.

    The client repeats a failed request for ``retry_for_s`` seconds if the request certainly had no
    effect, or if a repetition is harmless. A repeated enqueue is harmless if you choose its
    ``job_id``. Without a ``job_id``, a lost response raises ConnectionFailed, and the job may
    exist. Concurrent enqueues of a queue without ``job_id`` and ``unique`` share requests.

    Args:
        url: the address of the server; None for ``OJS_URL``, or port 8080 of this machine.
        api_key: the API key; None for ``OJS_API_KEY``.
        timeout_s: how long a request may take, in seconds.
        retry_for_s: for how many seconds a failed request is repeated.
        headers: more headers of each request.
        transport: how httpx2 reaches the server, for tests and special networks.

    Raises:
        ValueError: the address does not begin with http:// or https://.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        transport: Any = None,
    ) -> None:
        self._transport = Transport(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            headers=headers,
            transport=transport,
        )
        self._add_parts()

    def _add_parts(self) -> None:
        self._joined = JoinedEnqueues(self._transport)
        self.cron: CronJobs = CronJobs(self._transport)
        self.jobs: Jobs = Jobs(self._transport)
        self.queues: Queues = Queues(self._transport)
        self.dead_letters: DeadLetters = DeadLetters(self._transport)
        self.limits: Limits = Limits(self._transport)

    @classmethod
    def over(cls, transport: Transport) -> Client:
        """Return a client that shares the connections of a worker."""
        client = cls.__new__(cls)
        client._transport = transport
        client._add_parts()
        return client

    @property
    def url(self) -> str:
        """The address of the server, without a user name and a password."""
        return self._transport.url

    async def __aenter__(self) -> Self:
        """Open the client."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client's connections."""
        await self._joined.close()
        await self._transport.__aexit__(kind, error, trace)

    # -- jobs

    @overload
    async def enqueue(
        self, type: str, /, *args: Encodable, **options: Unpack[JobOptions]
    ) -> Job: ...

    @overload
    async def enqueue(self, job: NewJob, /) -> Job: ...

    async def enqueue(
        self, type: str | NewJob, /, *args: JSON, **options: Unpack[JobOptions]
    ) -> Job:
        """Enqueue a job and return it.

        With ``unique`` and ``on_conflict="ignore"`` the result may be an earlier job. Then
        ``deduplicated`` is True.

        Args:
            type: the type of the job, which chooses its handler; or a job of ``new_job``, with its
                arguments and options.
            *args: the arguments.
            **options: see ``JobOptions``.

        Raises:
            Conflict: a unique job like this one exists.
            TypeError: there is no such option, or a job of ``new_job`` comes with others.
            ValueError: options contradict each other, or have no valid form.
            ApiError: the server refused the job.
            ConnectionFailed: the server did not answer.
        """
        job = as_new_job(type, *args, **options)
        job_id = job.options.get("job_id")
        body = job.json()
        if job_id is None and "unique" not in job.options:
            reply = await self._joined.send(job.options.get("queue", ""), encode(body))
            return Job.from_json(reply["job"])
        repeat = Repeat.UNLESS_APPLIED if job_id is None else Repeat.ALWAYS
        try:
            reply = await self._transport.request("POST", "/jobs", body, repeat=repeat)
        except Conflict as error:
            # An earlier try of this request may have created the job.
            if job_id is None or error.code != "duplicate":
                raise
            return await self._same_job(job_id, body, error)
        return Job.from_json(reply["job"], deduplicated=bool(reply.get("deduplicated")))

    async def _same_job(self, job_id: str, body: Mapping[str, JSON], error: Conflict) -> Job:
        """Return the job that has this id if it is the one that the request describes."""
        try:
            job = await self.get(job_id)
        except NotFound:
            # Another job has the same uniqueness, and no try of this request has created a job.
            raise error from None
        # Tuples and keys that are no strings have another form in the job.
        if job.type != body["type"] or job.args != json.loads(encode(body["args"])):
            raise error
        return job

    async def enqueue_many(self, jobs: Iterable[NewJob]) -> list[Job]:
        """Enqueue several jobs, all of them or none, and return them in the same order.

        As with ``enqueue``, a result with ``deduplicated`` is an earlier job. A server takes 1000
        jobs in a request by default: ``enqueue_all`` enqueues any number.

        Raises:
            ApiError: the server refused the jobs, for example because there are too many.
            ConnectionFailed: the server did not answer.
        """
        return await enqueue_batch(self._transport, jobs)

    async def enqueue_all(
        self, jobs: Iterable[NewJob] | AsyncIterable[NewJob], *, portion: int = MAX_JOBS
    ) -> EnqueueReport:
        """Enqueue any number of jobs in portions, and report what became of them.

        A portion is stored as a whole or not at all. A portion that fails does not stop the others:
        the report has its jobs and its error. A job without a JSON form fails alone.

        Args:
            jobs: the jobs, which may come from an iterator.
            portion: maximum number of jobs of a request; the server allows 1000 by default.
        """
        return await enqueue_portions(self.enqueue_many, jobs, portion)

    def as_completed(
        self, jobs: Iterable[Job | str], *, wait: Duration
    ) -> AbstractAsyncContextManager[AsyncIterator[Job]]:
        """Return a context manager with an iterator over jobs, each as soon as it has ended.

        Args:
            jobs: the jobs, or their ids.
            wait: maximum time to wait for them. The iterator then raises ResultPending.

        Raises:
            NotFound: there is no such job. The iterator raises it.
        """
        ids = [job.id if isinstance(job, Job) else job for job in jobs]
        return ended_jobs(self._ended_within, ids, seconds(wait))

    async def _ended_within(self, job_id: str, wait_s: float) -> Job:
        with suppress(JobFailed):
            await self.result(job_id, wait=wait_s)
        return await self.get(job_id)

    def events(
        self,
        *,
        job_id: str | None = None,
        queue: str | None = None,
        types: Sequence[str] = (),
        after: str = "",
    ) -> AbstractAsyncContextManager[Subscription]:
        """Return a context manager with the events that happen from now on.

        After a broken connection the stream continues after the last event.

        Args:
            job_id: the job; its stream ends with it.
            queue: the queue; None for all. It excludes ``job_id``.
            types: the names of the events, such as ``job.completed`` or ``queue.*``; empty for all.
            after: the id of the last event that was read; empty for none.

        Raises:
            ValueError: both are given, or one is empty.
            ApiError: the server refused the stream.
            ConnectionFailed: the server could not be reached for ``retry_for_s`` seconds.
        """
        return subscribe(self._transport, job_id=job_id, queue=queue, types=types, after=after)

    async def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is no such job.
        """
        reply = await self._get(f"/jobs/{segment(job_id)}")
        return Job.from_json(reply["job"])

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job. If a worker holds it, the worker loses its lease.

        Raises:
            NotFound: there is no such job.
            Conflict: the job has ended.
        """
        reply = await self._transport.request("DELETE", f"/jobs/{segment(job_id)}")
        return Job.from_json(reply["job"])

    async def result(self, job_id: str, *, wait: Duration = 0) -> JSON:
        """Return the result of a job, and wait for it if it is not finished.

        Args:
            job_id: the job.
            wait: maximum time to wait.

        Raises:
            NotFound: there is no such job, or its result has been removed.
            ResultPending: the job is not finished at the end of the wait.
            JobFailed: the job is discarded or cancelled.
        """
        deadline = anyio.current_time() + seconds(wait)
        path = f"/jobs/{segment(job_id)}/result"
        backoff = Backoff(max_s=_EARLY_S)
        while True:
            sent_at = anyio.current_time()
            left_s = max(0.0, deadline - sent_at)
            timeout = math.ceil(min(_WAIT_STEP_S, left_s) - _INSTANT_S)  # whole seconds
            reply: Any = None
            try:
                with anyio.move_on_after(left_s if left_s < timeout - _INSTANT_S else math.inf):
                    reply = await self._get(path, {"wait": "true", "timeout": str(timeout)})
            except ResultPending:
                now = anyio.current_time()
                if now >= deadline - _INSTANT_S:
                    raise
                if now - sent_at < _EARLY_S:
                    await anyio.sleep(min(backoff.next_s(), deadline - now))
            if reply is None:
                continue
            if reply["state"] != "completed":
                raise JobFailed(job_id, reply["state"], reply.get("error"))
            return reply["result"]

    async def register_schema(self, type: str, version: str, schema: Mapping[str, JSON]) -> None:
        """Register the JSON Schema of the ``args`` of a job type. The same schema may be repeated.

        Raises:
            Conflict: another schema has this version.
            ApiError: the server refused the schema, for example because it breaks the one before.
        """
        body = {"type": type, "version": version, "schema": schema}
        try:
            await self._transport.request("POST", "/schemas", body)
        except Conflict:
            stored = await self._get(f"/schemas/{segment(type)}/{segment(version)}")
            if stored["schema"]["schema"] != json.loads(encode(schema)):
                raise

    # -- workflows

    async def start(self, workflow: NewWorkflow) -> Workflow:
        """Start a workflow, which ``chain``, ``group`` or ``batch`` has built.

        Raises:
            ApiError: the server refused the workflow.
            ConnectionFailed: the server did not answer.
        """
        reply = await self._transport.request("POST", "/workflows", workflow.json())
        return Workflow.from_json(reply["workflow"])

    async def workflow(self, workflow_id: str, *, wait: Duration = 0) -> Workflow:
        """Return a workflow.

        Args:
            workflow_id: the workflow.
            wait: maximum time to wait for its end. After that, the unfinished workflow is returned.

        Raises:
            NotFound: there is no such workflow.
        """
        path = f"/workflows/{segment(workflow_id)}"
        if wait:
            with anyio.move_on_after(seconds(wait)):
                await self._workflow_ends(path)
        reply = await self._get(path)
        return Workflow.from_json(reply["workflow"])

    async def _workflow_ends(self, path: str) -> None:
        """Return when a workflow has ended."""

        async def has_ended() -> bool:
            reply = await self._get(path, {"limit": "0"})  # without its steps
            return Workflow.from_json(reply["workflow"]).finished

        if await has_ended():
            return
        try:
            async with self.events(types=_WORKFLOW_ENDS) as events:
                while not await has_ended():
                    with anyio.move_on_after(_WORKFLOW_CHECK_S):
                        async for event in events:
                            if path.endswith(str(event.data.get("workflow_id"))):
                                break
        except (ApiError, ConnectionFailed):
            # The fake server has no events, and a key may not read them.
            ended = False
            while not ended:
                await anyio.sleep(_WORKFLOW_PAUSE_S)
                ended = await has_ended()

    async def cancel_workflow(self, workflow_id: str) -> Workflow:
        """Cancel a workflow: no further step starts.

        Raises:
            NotFound: there is no such workflow.
            Conflict: the workflow has ended.
        """
        path = f"/workflows/{segment(workflow_id)}"
        reply = await self._transport.request("DELETE", path)
        return Workflow.from_json(reply["workflow"])

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return await self._transport.request(
            "GET",
            path,
            repeat=Repeat.ALWAYS,
            params=params,
            timeout_s=self._transport.timeout_s + (_WAIT_STEP_S if params else 0),
        )
