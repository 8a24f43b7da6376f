"""Joins the enqueues of concurrent tasks into batch requests, as databases join commits.

The first enqueue is sent at once. Those of the same queue that arrive while it is under way go
together in the next request, after 10 ms at the latest. A batch of one queue costs the server
little more than one job, and a shard that does not answer delays the jobs of its own queues only.

A batch is sent by a task of its own, so a caller that is cancelled does not end the enqueues of the
others. No caller gets the error of another: if the server has certainly stored nothing, each caller
sends its own job.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from ojs_client.errors import ApiError, ConnectionFailed, OJSError, copy_of
from ojs_client.transport import Repeat, Transport

if TYPE_CHECKING:
    import asyncio

_MAX_WAIT_S: Final = 0.010
"""Maximum time in seconds that an enqueue waits for the request before it."""
_MAX_JOBS: Final = 100
_MAX_BYTES: Final = 256 * 1024


@dataclass(slots=True, eq=False)
class _Enqueue:
    """A job that waits for a request.

    Attributes:
        job: its JSON.
        done: set when its caller can go on.
        result: the job as the server returned it, or the error of the batch; None if the caller has
            to send it.
        dropped: whether its caller is cancelled.
    """

    job: bytes
    done: anyio.Event = field(default_factory=lambda: anyio.Event())
    result: dict[str, Any] | OJSError | None = None
    dropped: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs that go together. ``due`` is set when the batch need not wait any longer."""

    enqueues: list[_Enqueue] = field(default_factory=list)
    size: int = 0
    due: anyio.Event = field(default_factory=lambda: anyio.Event())


@dataclass(slots=True)
class _Queue:
    """The requests of a queue that are under way, and the batch that is collected."""

    requests: int = 0
    next: _Batch | None = None


class JoinedEnqueues:
    """Enqueues jobs of one client.

    Args:
        transport: sends the requests.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._queues: dict[str, _Queue] = {}
        self._tasks: dict[anyio.CancelScope, anyio.Event] = {}
        """The tasks that send batches, and what each sets at its end."""

    async def send(self, queue: str, job: bytes) -> Any:
        """Enqueue a job without an id of its own and without uniqueness.

        Args:
            queue: the queue.
            job: the JSON of the job.

        Returns:
            The response to the request ``POST /jobs``.

        Raises:
            ApiError: the server refused the job.
            ConnectionFailed: the server did not answer.
        """
        found = self._queues.get(queue)
        if found is not None:
            enqueue = _Enqueue(job)
            self._join(queue, found, enqueue)
            try:
                await enqueue.done.wait()
            except BaseException:
                enqueue.dropped = True
                raise
            if isinstance(enqueue.result, dict):
                return {"job": enqueue.result}
            if enqueue.result is not None:
                raise copy_of(enqueue.result) from enqueue.result
        return await self._request(queue, "/jobs", job, Repeat.UNLESS_APPLIED)

    async def close(self) -> None:
        """End the requests whose callers are cancelled."""
        with anyio.CancelScope(shield=True):
            for scope, ended in list(self._tasks.items()):
                scope.cancel()
                await ended.wait()

    async def _request(self, name: str, path: str, body: bytes, repeat: Repeat) -> Any:
        queue = self._queues.setdefault(name, _Queue())
        queue.requests += 1
        try:
            return await self._transport.request("POST", path, body, repeat=repeat)
        finally:
            queue.requests -= 1
            if queue.next is not None:
                queue.next.due.set()
            self._forget_idle(name, queue)

    def _join(self, name: str, queue: _Queue, enqueue: _Enqueue) -> None:
        batch = queue.next
        if batch is not None and batch.size + len(enqueue.job) > _MAX_BYTES:
            batch.due.set()
            batch = None
        if batch is None:
            batch = queue.next = _Batch()
            _spawn(lambda: self._send_soon(name, queue, batch))
        batch.enqueues.append(enqueue)
        batch.size += len(enqueue.job)
        if len(batch.enqueues) == _MAX_JOBS:
            batch.due.set()
            queue.next = None

    async def _send_soon(self, name: str, queue: _Queue, batch: _Batch) -> None:
        """Send a batch when its turn has come. It runs in a task of its own."""
        with anyio.CancelScope() as scope:
            ended = self._tasks[scope] = anyio.Event()
            try:
                with anyio.move_on_after(_MAX_WAIT_S):
                    await batch.due.wait()
                if queue.next is batch:
                    queue.next = None
                batch.enqueues = [each for each in batch.enqueues if not each.dropped]
                if len(batch.enqueues) > 1:  # one alone is sent by its caller
                    await self._send(name, batch.enqueues)
            finally:
                if queue.next is batch:
                    queue.next = None
                for each in batch.enqueues:
                    each.done.set()
                self._forget_idle(name, queue)
                del self._tasks[scope]
                ended.set()

    async def _send(self, name: str, enqueues: list[_Enqueue]) -> None:
        interrupted = ConnectionFailed("the client was closed", applied=None)
        for each in enqueues:
            each.result = interrupted
        body = b'{"jobs":[%b]}' % b",".join(each.job for each in enqueues)
        results: list[Any]
        try:
            reply = await self._request(name, "/jobs/batch", body, Repeat.NEVER)
            results = _jobs(reply, len(enqueues))
        except (ApiError, ConnectionFailed) as error:
            results = [None if error.applied is False else error] * len(enqueues)
        except Exception as error:
            failed = ConnectionFailed(f"the enqueue has failed: {error!r}", applied=None)
            results = [failed] * len(enqueues)
        for each, result in zip(enqueues, results, strict=True):
            each.result = result

    def _forget_idle(self, name: str, queue: _Queue) -> None:
        if not queue.requests and queue.next is None and self._queues.get(name) is queue:
            del self._queues[name]


def _jobs(reply: Any, count: int) -> list[Any]:
    """Return the jobs of a batch.

    Raises:
        ConnectionFailed: the reply has another form, as from a proxy.
    """
    jobs = reply.get("jobs")
    if isinstance(jobs, list) and len(jobs) == count and all(isinstance(j, dict) for j in jobs):
        return jobs
    raise ConnectionFailed(f"the reply does not have {count} jobs", applied=None)


_tasks: Final[set[asyncio.Task[None]]] = set()
"""The tasks of asyncio, which it would forget otherwise."""


def _spawn(function: Callable[[], Awaitable[None]]) -> None:
    """Run a function in a task that no cancellation of the caller reaches.

    A task group of the client would have to be left in the task that has entered it, which fixtures
    of tests and hooks of web frameworks do not promise.
    """

    async def run() -> None:
        await function()

    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(run)
    else:
        import asyncio

        task = asyncio.get_running_loop().create_task(run())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
