"""The client for programs without an event loop, such as Django or Flask applications."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

import anyio

from ojs_client.client import Client
from ojs_client.cron import CronJobs, Overlap
from ojs_client.jobs import Cron, Job, Workflow
from ojs_client.options import JSON, Duration, JobOptions, NewJob, as_new_job
from ojs_client.sync_managing import Call, SyncJobs, SyncQueues
from ojs_client.values import Encodable
from ojs_client.workflows import NewWorkflow

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from anyio.lowlevel import EventLoopToken

P = ParamSpec("P")
R = TypeVar("R")


class SyncClient:
    """A ``Client`` whose methods block. Use it with ``with``.

    An event loop in a thread of its own sends the requests. Any number of threads may share one
    client. The methods are those of ``Client``, which describes them. They raise RuntimeError if
    the client is not open, or if it was opened before the process was forked: a fork does not copy
    the thread. In the forked process, the end of the ``with`` block does nothing.

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
        self._client = Client(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            headers=headers,
            transport=transport,
        )
        self._open = ExitStack()
        self._loop: BlockingPortal | None = None
        self._process = 0
        """The id of the process that has the thread."""
        self._add_parts()

    def _add_parts(self) -> None:
        self.cron: SyncCronJobs = SyncCronJobs(self._client.cron, self._call)
        self.jobs: SyncJobs = SyncJobs(self._client.jobs, self._call)
        self.queues: SyncQueues = SyncQueues(self._client.queues, self._call)

    @classmethod
    def over(cls, client: Client, loop: EventLoopToken) -> SyncClient:
        """Return a client for threads, which is open and shares the connections of another client.

        Args:
            client: the client.
            loop: its event loop.
        """
        blocking = _OfThread.__new__(_OfThread)
        blocking._client = client
        blocking._of = loop
        blocking._add_parts()
        return blocking

    def __enter__(self) -> Self:
        """Start the thread."""
        opened: Future[BlockingPortal] = Future()
        # start_blocking_portal is a generator. Its end would wait for the thread, even in a forked
        # process and in one that exits without closing the client.
        thread = Thread(target=_run_loop, args=(opened,), name="ojs-client", daemon=True)
        thread.start()
        with ExitStack() as stack:
            loop = opened.result()
            stack.callback(thread.join)
            stack.callback(lambda: loop.call(loop.stop))
            stack.enter_context(loop.wrap_async_context_manager(self._client))
            self._open = stack.pop_all()
        self._loop, self._process = loop, os.getpid()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections and end the thread, in the process that has started it."""
        self._loop = None
        if os.getpid() == self._process:
            self._open.close()

    @overload
    def enqueue(self, type: str, /, *args: Encodable, **options: Unpack[JobOptions]) -> Job: ...

    @overload
    def enqueue(self, job: NewJob, /) -> Job: ...

    def enqueue(self, type: str | NewJob, /, *args: JSON, **options: Unpack[JobOptions]) -> Job:
        """Enqueue a job and return it."""
        return self._call(self._client.enqueue, as_new_job(type, *args, **options))

    def enqueue_many(self, jobs: Iterable[NewJob]) -> list[Job]:
        """Enqueue several jobs, all of them or none."""
        return self._call(self._client.enqueue_many, list(jobs))

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return self._call(self._client.get, job_id)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._call(self._client.cancel, job_id)

    def result(self, job_id: str, *, wait: Duration = 0) -> JSON:
        """Return the result of a job, and wait for it if it is not finished."""
        return self._call(self._client.result, job_id, wait=wait)

    def start(self, workflow: NewWorkflow) -> Workflow:
        """Start a workflow."""
        return self._call(self._client.start, workflow)

    def workflow(self, workflow_id: str, *, wait: Duration = 0) -> Workflow:
        """Return a workflow."""
        return self._call(self._client.workflow, workflow_id, wait=wait)

    def cancel_workflow(self, workflow_id: str) -> Workflow:
        """Cancel a workflow."""
        return self._call(self._client.cancel_workflow, workflow_id)

    def run(self, function: Callable[[Client], Awaitable[R]]) -> R:
        """Return what an async function returns that gets the ``Client``.

        It reaches what has no method here: ``client.run(lambda c: c.limits.get("bank"))``.
        """
        return self._call(function, self._client)

    def _call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._loop is None:
            raise RuntimeError("the client is not open: use it with 'with'")
        if os.getpid() != self._process:  # it would wait forever
            raise RuntimeError("the client was opened before a fork: open one in each process")
        return self._loop.call(partial(function, *args, **kwargs))


class _OfThread(SyncClient):
    _of: EventLoopToken

    def _call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        from anyio import from_thread

        async def call() -> R:
            return await function(*args, **kwargs)

        return from_thread.run(call, token=self._of)


def _run_loop(opened: Future[BlockingPortal]) -> None:
    """Run an event loop until it is stopped."""
    from anyio.from_thread import BlockingPortal

    async def serve() -> None:
        async with BlockingPortal() as loop:
            opened.set_result(loop)
            await loop.sleep_until_stopped()

    try:
        anyio.run(serve, backend="asyncio")
    except BaseException as error:
        if opened.done():
            raise
        opened.set_exception(error)


class SyncCronJobs:
    """The cron jobs of a server; ``SyncClient.cron`` is one. ``CronJobs`` describes the methods."""

    def __init__(self, crons: CronJobs, call: Call) -> None:
        self._crons = crons
        self._call = call

    def register(
        self,
        name: str,
        expression: str,
        job: NewJob,
        *,
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        enabled: bool = True,
        description: str | None = None,
    ) -> Cron:
        """Store a cron job, in place of one of the same name."""
        return self._call(
            self._crons.register,
            name,
            expression,
            job,
            timezone=timezone,
            overlap=overlap,
            enabled=enabled,
            description=description,
        )

    def get(self, name: str) -> Cron:
        """Return a cron job."""
        return self._call(self._crons.get, name)

    def list_all(self) -> list[Cron]:
        """Return all cron jobs."""
        return self._call(self._crons.list_all)

    def change(self, name: str, **members: JSON) -> Cron:
        """Change members of a cron job."""
        return self._call(self._crons.change, name, **members)

    def pause(self, name: str) -> Cron:
        """Stop a cron job from firing."""
        return self._call(self._crons.pause, name)

    def resume(self, name: str) -> Cron:
        """Let a cron job fire again."""
        return self._call(self._crons.resume, name)

    def trigger(self, name: str) -> Job:
        """Enqueue the job of a cron job now."""
        return self._call(self._crons.trigger, name)

    def history(self, name: str) -> list[dict[str, JSON]]:
        """Return the latest occurrences of a cron job."""
        return self._call(self._crons.history, name)

    def delete(self, name: str) -> None:
        """Delete a cron job."""
        self._call(self._crons.delete, name)
