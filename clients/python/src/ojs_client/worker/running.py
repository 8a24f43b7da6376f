"""The argument of a handler: its job, with methods that report progress and save checkpoints."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from anyio.lowlevel import current_token

from ojs_client.client import Client
from ojs_client.errors import Conflict, JobCancelled, LeaseLost
from ojs_client.jobs import Job
from ojs_client.options import JSON
from ojs_client.sync import SyncClient
from ojs_client.transport import Repeat, Transport, segment
from ojs_client.worker.held_jobs import HeldJob, HeldJobs, Loss

if TYPE_CHECKING:
    from ojs_client.outbox.statements import ExecutesAsync, SyncConnection


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The parts of a worker that a running job needs."""

    transport: Transport
    client: Client
    held: HeldJobs
    worker_id: str


class JobInfo:
    """The job that a handler runs.

    Attributes:
        id: its id.
        type: its type.
        queue: its queue.
        args: its arguments.
        meta: its metadata.
        tags: its tags.
        attempt: the number of this attempt, from 1.
        max_attempts: number of attempts that its retry policy allows.
        parent_results: results of the earlier steps, if it is a step of a chain.
        checkpoint: the last state that an earlier attempt has saved; None if there is none.
        job: the whole job.
    """

    def __init__(self, held: HeldJob, context: WorkerContext) -> None:
        self._held = held
        self._context = context
        self.job: Job = Job.from_json(held.members)
        self.id: str = self.job.id
        self.type: str = self.job.type
        self.queue: str = self.job.queue
        self.args: list[JSON] = self.job.args
        self.meta: dict[str, JSON] = self.job.meta
        self.tags: list[str] = list(held.members.get("tags") or ())
        self.attempt: int = self.job.attempt
        self.max_attempts: int = self.job.max_attempts
        self.parent_results: list[JSON] = list(held.members.get("parent_results") or ())
        self.checkpoint: JSON = (held.members.get("checkpoint") or {}).get("state")

    @property
    def lease_lost(self) -> bool:
        """Whether the worker has lost the job, or requeues it at the end of a drain.

        A sync handler should return when it reads True. Its result is then ignored.
        """
        if self._held.lost is None and not self._held.requeued:
            return False
        self._held.loss_read = True
        return True

    @property
    def cancelled(self) -> bool:
        """Whether a client has cancelled the job. Then ``lease_lost`` is True, too."""
        return self._held.lost == "cancelled"

    @overload
    def once(self, connection: ExecutesAsync) -> Coroutine[Any, Any, bool]: ...
    @overload
    def once(self, connection: SyncConnection) -> bool: ...
    def once(self, connection: SyncConnection | ExecutesAsync) -> bool | Coroutine[Any, Any, bool]:
        """Return whether no committed transaction has called this for the job.

        See ``ojs_client.outbox.once``: effects in the same transaction happen once.
        """
        from ojs_client.outbox.statements import once

        return once(connection, self.id)

    def _loss(self, reason: str = "") -> LeaseLost:
        """Return the error of a handler whose job is lost."""
        if self._held.lost == "cancelled":
            return JobCancelled(f"job {self.id} is cancelled")
        return LeaseLost(f"the lease of job {self.id} is lost{reason}")


class RunningJob(JobInfo):
    """The job that an async handler runs. The handler is cancelled if the lease is lost."""

    @property
    def client(self) -> Client:
        """A client that shares the worker's connections, for jobs that the handler enqueues."""
        return self._context.client

    async def progress(
        self,
        progress: float,
        message: str | None = None,
        *,
        data: Mapping[str, JSON] | None = None,
    ) -> None:
        """Report how far the job is. The report extends the lease, as a heartbeat does.

        Args:
            progress: a number from 0 to 1.
            message: a text for people.
            data: a JSON object for programs.

        Raises:
            LeaseLost: the worker does not hold the job any more.
            JobCancelled: a client has cancelled the job, which is a LeaseLost, too.
        """
        body: dict[str, JSON] = {"progress": progress}
        if message is not None:
            body["message"] = message
        if data is not None:
            body["data"] = dict(data)
        sent_at = time.monotonic()
        reply = await self._call("POST", "/workers/progress", body)
        # The server ignores a report about a job that has ended.
        if reply["state"] != "active":
            self._held.lose(_loss_in(reply["state"]))
            raise self._loss(f": it is {reply['state']}")
        self._context.held.extend([self._held], sent_at)

    async def save_checkpoint(self, state: JSON) -> None:
        """Store a state from which a later attempt can continue (spec: ojs-durable-execution 4.1).

        Args:
            state: any JSON value; it replaces the earlier one.

        Raises:
            LeaseLost: the worker does not hold the job any more.
        """
        path = f"/jobs/{segment(self.id)}/checkpoint"
        await self._call("POST", path, {"state": state})

    async def _call(self, method: str, path: str, body: dict[str, JSON]) -> Any:
        if self.lease_lost:
            raise self._loss()
        body = {
            "job_id": self.id,
            "worker_id": self._context.worker_id,
            "lease_id": self._held.lease_id,
            **body,
        }
        try:
            return await self._context.transport.request(method, path, body, repeat=Repeat.ALWAYS)
        except Conflict as error:
            self._held.lose(_loss_in(error.details.get("state")))
            raise self._loss(f": {error.message}") from error


def _loss_in(state: JSON) -> Loss:
    """Return how a job in this state is lost to the worker that holds it."""
    return "cancelled" if state == "cancelled" else "server"


class BlockingJob(JobInfo):
    """The job that a sync handler runs, in a thread.

    A thread cannot be cancelled. A long handler checks ``lease_lost``, or reports progress, which
    raises LeaseLost.
    """

    def __init__(self, held: HeldJob, context: WorkerContext) -> None:
        super().__init__(held, context)
        self._async = RunningJob(held, context)
        self._loop = current_token()  # so that threads of the handler reach it, too

    @property
    def client(self) -> SyncClient:
        """A client for jobs that the handler enqueues, in its threads."""
        return SyncClient.over(self._context.client, self._loop)

    def progress(
        self,
        progress: float,
        message: str | None = None,
        *,
        data: Mapping[str, JSON] | None = None,
    ) -> None:
        """Report how far the job is, as ``RunningJob.progress`` does."""
        from anyio import from_thread

        async def report() -> None:
            await self._async.progress(progress, message, data=data)

        from_thread.run(report, token=self._loop)

    def save_checkpoint(self, state: JSON) -> None:
        """Store a state from which a later attempt can continue."""
        from anyio import from_thread

        from_thread.run(self._async.save_checkpoint, state, token=self._loop)
