"""The types of the decorators that register handlers. They accept what a worker can run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, overload

from ojs_client.values import Encodable
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, RunningJob

AsyncT = TypeVar("AsyncT", bound=Callable[[RunningJob], Awaitable[Encodable]])
SyncT = TypeVar("SyncT", bound=Callable[[BlockingJob], Encodable])
ProcessT = TypeVar("ProcessT", bound=Callable[[ProcessJob], Encodable])


class RegistersHandler(Protocol):
    """Registers a handler that runs in the event loop or in a thread, and returns it."""

    @overload
    def __call__(self, function: AsyncT, /) -> AsyncT: ...
    @overload
    def __call__(self, function: SyncT, /) -> SyncT: ...


class RegistersProcessHandler(Protocol):
    """Registers a handler that runs in a child process, and returns it."""

    def __call__(self, function: ProcessT, /) -> ProcessT:
        """Register a handler."""
        ...
