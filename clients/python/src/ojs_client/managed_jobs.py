"""What operators do with jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Literal, Unpack

from ojs_client.bulk import BulkReport, JobFilter, filter_json
from ojs_client.errors import ApiError, Conflict, api_error
from ojs_client.jobs import Job
from ojs_client.options import JSON, State, iso_time
from ojs_client.paging import entries
from ojs_client.transport import Repeat, Transport, segment

Sort = Literal["created_at", "scheduled_at", "started_at", "priority"]
"""The orders of a list of jobs."""
Order = Literal["asc", "desc"]


class Jobs:
    """The jobs of a server; ``Client.jobs`` is one.

    Operations on all jobs that match a search go on at the server if they last longer than ten
    seconds. Then ``finished`` of their report is False, and ``report`` returns later numbers.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def find(
        self,
        query: str | None = None,
        *,
        type: str | None = None,
        queue: str | None = None,
        state: State | None = None,
        sort: Sort | None = None,
        order: Order | None = None,
    ) -> AsyncIterator[Job]:
        """Yield the jobs that match, newest first, page by page.

        Args:
            query: a search, such as ``type:email.send error:timeout since:2h``.
            type: their type; a ``*`` at its end stands for any text.
            queue: their queue.
            state: their state.
            sort: the order.
            order: the direction of the order.

        Raises:
            ApiError: the search is not valid.
        """
        chosen = {"query": query, "type": type, "queue": queue, "state": state}
        chosen |= {"sort": sort, "order": order}
        async for members in entries(self._transport, "/jobs", "jobs", chosen):
            yield Job.from_json(members)

    async def history(self, job_id: str) -> AsyncIterator[dict[str, JSON]]:
        """Yield the events of a job, oldest first (spec: ojs-execution-history 7.1).

        Raises:
            NotFound: there is no such job.
        """
        path = f"/jobs/{segment(job_id)}/history"
        async for event in entries(self._transport, path, "events"):
            yield event

    async def retry(self, job_id: str) -> Job:
        """Make a discarded job available again, whether or not it is a dead letter.

        Raises:
            NotFound: there is no such job.
            Conflict: the job is not discarded.
        """
        path = f"/admin/jobs/{segment(job_id)}/retry"
        return Job.from_json(await self._transport.request("POST", path))

    async def cancel_run(self, job_id: str) -> Job:
        """End the current attempt of an active job; its retry policy decides what follows.

        The attempt fails with the error ``run_cancelled``, and the worker is told.

        Raises:
            NotFound: there is no such job.
            Conflict: the job is not active.
        """
        # A repetition of an applied request would end the next attempt too.
        path = f"/admin/jobs/{segment(job_id)}/cancel-run"
        reply = await self._transport.request("POST", path, repeat=Repeat.UNLESS_APPLIED)
        return Job.from_json(reply)

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended. A job that does not exist counts as deleted.

        Raises:
            Conflict: the job has not ended.
            ApiError: the server refused the request.
        """
        body: dict[str, JSON] = {"job_ids": [job_id]}
        reply = await self._transport.request("POST", "/jobs/bulk/delete", body, also=(422,))
        if not isinstance(reply, dict) or "items" not in reply:
            raise api_error(422, reply)
        [item] = reply["items"]
        if item["status"] == "skipped":
            raise Conflict(409, "conflict", item["reason"])
        if item["status"] != "deleted":
            raise ApiError(422, "not_deleted", item["reason"])

    async def cancel_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Cancel all jobs that match. A search or a filter is needed.

        Active jobs are cancelled if ``states`` or the search names the state. Without either,
        available and scheduled jobs are cancelled.

        Args:
            query: a search, such as ``type:email.* since:2h``.
            **chosen: see ``JobFilter``.

        Raises:
            ApiError: the search is not valid, or all jobs would match.
        """
        return await self._change_all("cancel", query, chosen)

    async def retry_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Make all discarded jobs that match available again.

        The arguments and errors are those of ``cancel_all``.
        """
        return await self._change_all("retry", query, chosen)

    async def delete_all(self, query: str | None = None, **chosen: Unpack[JobFilter]) -> BulkReport:
        """Delete all jobs that match and have ended.

        The arguments and errors are those of ``cancel_all``.
        """
        return await self._change_all("delete", query, chosen)

    async def report(self, operation_id: str) -> BulkReport:
        """Return how far an operation is that has changed many jobs.

        Raises:
            NotFound: there is no such operation.
        """
        path = f"/admin/bulk/{segment(operation_id)}"
        return BulkReport.from_json(await self._transport.request("GET", path))

    async def _change_all(self, action: str, query: str | None, chosen: JobFilter) -> BulkReport:
        body: dict[str, JSON] = {"filter": filter_json(query, chosen)}
        path = f"/jobs/bulk/{action}"  # a repetition would be an operation of its own
        reply = await self._transport.request("POST", path, body, repeat=Repeat.UNLESS_APPLIED)
        return BulkReport.from_json(reply)

    async def move(self, job_id: str, queue: str) -> Job:
        """Move a job that waits to another queue, which need not exist yet.

        Raises:
            NotFound: there is no such job.
            Conflict: the job does not wait or is unique in its queue, or the other queue cannot
                take it.
        """
        path = f"/admin/jobs/{segment(job_id)}/move"
        body: dict[str, JSON] = {"queue": queue}
        reply = await self._transport.request("POST", path, body, repeat=Repeat.ALWAYS)
        return Job.from_json(reply)

    async def edit(
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
        """Change a job that waits. None keeps a member as it is.

        Raises:
            NotFound: there is no such job.
            Conflict: the job does not wait.
        """
        given: dict[str, JSON] = {
            "args": args,
            "priority": priority,
            "scheduled_at": None if scheduled_at is None else iso_time(scheduled_at),
            "max_attempts": max_attempts,
            "meta": meta,
            "tags": tags,
        }
        body = {name: value for name, value in given.items() if value is not None}
        path = f"/jobs/{segment(job_id)}"
        reply = await self._transport.request("PATCH", path, body, repeat=Repeat.ALWAYS)
        return Job.from_json(reply["job"])
