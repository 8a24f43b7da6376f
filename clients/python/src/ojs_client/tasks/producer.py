"""Enqueues the jobs of tasks, with the client of the current context."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Condition
from typing import Any, TypeAlias, TypeVar

from anyio.lowlevel import EventLoopToken, current_token

from ojs_client.client import Client
from ojs_client.jobs import Job
from ojs_client.options import NewJob
from ojs_client.sync import SyncClient

R = TypeVar("R")

NextEnqueue: TypeAlias = Callable[[NewJob], Awaitable[Job]]
ProducerMiddleware: TypeAlias = Callable[[NewJob, NextEnqueue], Awaitable[Job]]
"""Called around each enqueue of a task. It awaits the second argument with the job, or with another
one, and returns the result."""


class Producer:
    """The clients of an app.

    Args:
        arguments: the arguments of its clients.
        middleware: functions around each enqueue; the first one is the outermost.

    Attributes:
        overrides: functions that replace dependencies of tasks.
        opened: the client of the whole program, while the app is open.
    """

    def __init__(
        self, arguments: Mapping[str, Any], middleware: Sequence[ProducerMiddleware]
    ) -> None:
        self._arguments = arguments
        self._middleware = tuple(middleware)
        self.overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.opened: Client | None = None
        self._current: ContextVar[tuple[Client | SyncClient, EventLoopToken | None] | None]
        self._current = ContextVar("ojs_client", default=None)
        self._blocking: _Shared | None = None
        self._changed = Condition()

    def new_client(self) -> Client:
        """Return a client of the app's server."""
        return Client(**self._arguments)

    @contextmanager
    def running_in(self, client: Client | SyncClient) -> Iterator[None]:
        """Let tasks use a client in the block, such as that of the job that runs."""
        token = self._current.set((client, _event_loop()))
        try:
            yield
        finally:
            self._current.reset(token)

    @property
    def client(self) -> Client:
        """The client of the job that runs here, or of the open app.

        Raises:
            RuntimeError: there is none.
        """
        current = self._current.get()
        found = self.opened if current is None else current[0]
        if isinstance(found, Client):
            return found
        raise RuntimeError("the app is not open: use it with 'async with', or call delay()")

    async def enqueue(self, job: NewJob) -> Job:
        """Enqueue a job."""
        return await self._enqueue_with(self.client, job)

    def enqueue_blocking(self, job: NewJob) -> Job:
        """Enqueue a job in a thread without an event loop.

        Raises:
            RuntimeError: the thread runs an event loop, which would stand still.
        """
        return self.run_blocking(lambda client: self._enqueue_with(client, job))

    def run_blocking(self, function: Callable[[Client], Awaitable[R]]) -> R:
        """Return what a function returns that gets a client, in a thread without an event loop.

        A thread that an async handler has started uses the client of the handler. Otherwise the
        first call opens a client for this process, which stays open. So a program may fork before
        and after it.

        Raises:
            RuntimeError: the thread runs an event loop, which would stand still.
        """
        if _event_loop() is not None:
            raise RuntimeError("it would block the event loop: await enqueue() or result()")
        client, loop = self._current.get() or (None, None)
        if client is None:
            with self._process_client() as shared:
                return shared.run(function)
        if isinstance(client, Client):
            if loop is None:
                raise RuntimeError("the client of the app belongs to no event loop")
            client = SyncClient.over(client, loop)
        return client.run(function)

    def close(self) -> None:
        """Close the client of this process after the calls that use it; a later one opens another.

        A call must not close the client that it uses.
        """
        with self._changed:
            shared, self._blocking = self._blocking, None
            if shared is None or shared.process != os.getpid():
                return
            self._changed.wait_for(lambda: not shared.calls)
        shared.client.__exit__(None, None, None)

    @contextmanager
    def _process_client(self) -> Iterator[SyncClient]:
        with self._changed:
            shared = self._blocking
            if shared is None or shared.process != os.getpid():
                client = SyncClient(**self._arguments).__enter__()
                self._blocking = shared = _Shared(client, os.getpid())
            shared.calls += 1
        try:
            yield shared.client
        finally:
            with self._changed:
                shared.calls -= 1
                self._changed.notify_all()

    async def _enqueue_with(self, client: Client, job: NewJob) -> Job:
        send: NextEnqueue = client.enqueue
        for function in reversed(self._middleware):
            send = _around(function, send)
        return await send(job)


@dataclass(slots=True)
class _Shared:
    """The client of a process, and how many calls use it."""

    client: SyncClient
    process: int
    calls: int = 0


def _around(function: ProducerMiddleware, inner: NextEnqueue) -> NextEnqueue:
    async def send(job: NewJob) -> Job:
        return await function(job, inner)

    return send


def _event_loop() -> EventLoopToken | None:
    """Return the event loop that runs in this thread."""
    try:
        return current_token()
    except RuntimeError:
        return None
