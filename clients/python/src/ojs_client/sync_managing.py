"""What operators do with jobs and queues, for programs without an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar, Unpack

from ojs_client.bulk import BulkReport, JobFilter
from ojs_client.jobs import Job
from ojs_client.managed_jobs import Jobs, Order, Sort
from ojs_client.managing import Queue, Queues
from ojs_client.options import JSON, State

P = ParamSpec("P")
R = TypeVar("R")


class Call(Protocol):
    """Calls async functions in the event loop of a client."""

    def __call__(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run an async function and return its result."""
        ...


class SyncJobs:
    """The jobs of a server; ``SyncClient.jobs`` is one. ``Jobs`` describes the methods."""

    def __init__(self, jobs: Jobs, call: Call) -> None:
        self._jobs = jobs
        self._call = call

    def find(
        self,
        query: str | None = None,
        *,
        type: str | None = None,
        queue: str | None = None,
        state: State | None = None,
        sort: Sort | None = None,
        order: Order | None = None,
    ) -> Iterator[Job]:
        """Yield the jobs that match, newest first, page by page."""
        found = self._jobs.find(query, type=type, queue=queue, state=state, sort=sort, order=order)
        return _each(self._call, found)

    def history(self, job_id: str) -> Iterator[dict[str, JSON]]:
        """Yield the events of a job, oldest first."""
        return _each(self._call, self._jobs.history(job_id))

    def retry(self, job_id: str) -> Job:
        """Make a discarded job available again, whether or not it is a dead letter."""
        return self._call(self._jobs.retry, job_id)

    def cancel_run(self, job_id: str) -> Job:
        """End the current attempt of an active job; its retry policy decides what follows."""
        return self._call(self._jobs.cancel_run, job_id)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended."""
        self._call(self._jobs.delete, job_id)

    def cancel_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Cancel all jobs that match. A search or a filter is needed."""
        return self._call(self._jobs.cancel_all, query, **chosen)

    def retry_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Make all discarded jobs that match available again."""
        return self._call(self._jobs.retry_all, query, **chosen)

    def delete_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Delete all jobs that match and have ended."""
        return self._call(self._jobs.delete_all, query, **chosen)

    def report(self, operation_id: str) -> BulkReport:
        """Return how far an operation is that has changed many jobs."""
        return self._call(self._jobs.report, operation_id)

    def move(self, job_id: str, queue: str) -> Job:
        """Move a job that waits to another queue."""
        return self._call(self._jobs.move, job_id, queue)

    def edit(
        self,
        job_id: str,
        *,
        args: list[JSON] | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        max_attempts: int | None = None,
        meta: Mapping[str, JSON] | None = None,
        tags: list[str] | None = None,
    ) -> Job:
        """Change a job that waits. None keeps a member as it is."""
        return self._call(
            self._jobs.edit,
            job_id,
            args=args,
            priority=priority,
            scheduled_at=scheduled_at,
            max_attempts=max_attempts,
            meta=meta,
            tags=tags,
        )


class SyncQueues:
    """The queues of a server; ``SyncClient.queues`` is one. ``Queues`` describes the methods."""

    def __init__(self, queues: Queues, call: Call) -> None:
        self._queues = queues
        self._call = call

    def find(self) -> Iterator[Queue]:
        """Yield the queues by name."""
        return _each(self._call, self._queues.find())

    def create(self, name: str, **settings: JSON) -> Mapping[str, JSON]:
        """Create a queue, which is kept without jobs, and return its settings."""
        return self._call(self._queues.create, name, **settings)

    def get(self, name: str) -> Queue:
        """Return a queue."""
        return self._call(self._queues.get, name)

    def pause(self, name: str) -> None:
        """Give no job of a queue to workers."""
        self._call(self._queues.pause, name)

    def resume(self, name: str) -> None:
        """Give the jobs of a queue to workers again."""
        self._call(self._queues.resume, name)

    def drain(self, name: str) -> None:
        """Refuse new jobs of a queue, and let workers empty it. ``resume`` ends the drain."""
        self._call(self._queues.drain, name)

    def purge(self, name: str) -> int:
        """Remove the available jobs of a queue, and return their number."""
        return self._call(self._queues.purge, name)

    def configure(self, name: str, **settings: JSON) -> Mapping[str, JSON]:
        """Change settings of a queue, which need not exist yet, and return all of them."""
        return self._call(self._queues.configure, name, **settings)

    def delete(self, name: str) -> None:
        """Delete a queue."""
        self._call(self._queues.delete, name)


def _each(call: Call, found: AsyncIterator[R]) -> Iterator[R]:
    async def following() -> R | None:
        return await anext(found, None)

    while (each := call(following)) is not None:
        yield each
