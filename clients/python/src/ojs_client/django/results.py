"""Jobs as results of Django's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from django.conf import settings
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskError
from django.utils import timezone

from ojs_client.client import Client
from ojs_client.jobs import Job, JobError, parse_time
from ojs_client.worker.running import BlockingJob

Starts: TypeAlias = Mapping[int, Mapping[str, Any]]
"""The start of each attempt by its number: an event of the job's history."""

_STATUS: Final = {
    "active": TaskResultStatus.RUNNING,
    "completed": TaskResultStatus.SUCCESSFUL,
    "cancelled": TaskResultStatus.FAILED,
    "discarded": TaskResultStatus.FAILED,
}
_ENDS: Final = ("completed_at", "cancelled_at", "discarded_at")
_CLASSES: Final = {
    "timeout": "builtins.TimeoutError",
    "visibility_timeout": "ojs_client.errors.LeaseLost",
    "worker_lost": "ojs_client.errors.LeaseLost",
}
"""Exceptions of errors that no task has raised."""

if TYPE_CHECKING:  # generic in its stubs only
    _TaskContext: TypeAlias = TaskContext[..., Any]
else:
    _TaskContext = TaskContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(_TaskContext):  # type: ignore[misc] # the stubs do not know that it is frozen
    """The context of a task, with ``job``: it reports progress, saves checkpoints, and the like."""

    job: BlockingJob


def project_time(text: Any) -> datetime | None:
    """Return a time of a response as the project has times: naive without ``USE_TZ``."""
    time = parse_time(text)
    return time if time is None or settings.USE_TZ else timezone.make_naive(time)


async def starts_of(client: Client, job: Job) -> Starts:
    """Return the starts of a job's attempts."""
    if not job.attempt:
        return {}
    events = [event async for event in client.jobs.history(job.id)]
    started = [each for each in events if each["event_type"] == "job.attempt_started"]
    return {each["data"]["attempt"]: each for each in started}


def result_of(
    job: Job, starts: Starts, task: Task[..., Any], backend: BaseTaskBackend
) -> TaskResult[..., Any]:
    """Return a job as the result of a task.

    Args:
        job: the job.
        starts: the starts of its attempts, as far as they are known.
        task: its task, as it is declared.
        backend: the backend that reads it.
    """
    args, kwargs = call_of(job.args)
    known = not backend.queues or job.queue in backend.queues  # an operator may move a job
    result: TaskResult[..., Any] = TaskResult(
        task=task.using(
            priority=job.priority,
            queue_name=job.queue if known else None,
            run_after=project_time(job.members.get("scheduled_at")),
            backend=backend.alias,
        ),
        id=job.id,
        status=_STATUS.get(job.state, TaskResultStatus.READY),
        enqueued_at=project_time(job.members.get("created_at")),
        started_at=project_time(starts[1]["timestamp"] if 1 in starts else _last_start(job)),
        finished_at=project_time(next(filter(None, map(job.members.get, _ENDS)), None)),
        last_attempted_at=project_time(_last_start(job)),
        args=args,
        kwargs=kwargs,
        backend=backend.alias,
        errors=[_error(each) for each in job.errors] + _cancellation(job),
        worker_ids=[_worker(job, starts, number) for number in range(1, job.attempt + 1)],
    )
    object.__setattr__(result, "_return_value", job.result)
    return result


def call_of(args: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call, by position and by name, from the args of a job.

    Raises:
        ValueError: they have another form.
    """
    match args:
        case [list() as by_position, dict() as by_name]:
            return by_position, by_name
    raise ValueError("the args of a Django task are a list and an object")


def _last_start(job: Job) -> Any:
    return job.members.get("started_at")


def _worker(job: Job, starts: Starts, number: int) -> str:
    """Return the worker of an attempt; empty if the job does not keep it."""
    if number in starts:
        return str(starts[number]["data"].get("worker_id", ""))
    return str(job.members.get("worker_id", "")) if number == job.attempt else ""


def _cancellation(job: Job) -> list[TaskError]:
    path = "ojs_client.errors.JobCancelled"
    text = f"{path}: job {job.id} is cancelled\n"
    return [TaskError(exception_class_path=path, traceback=text)] * (job.state == "cancelled")


def _error(error: JobError) -> TaskError:
    details = error.members.get("details")
    if not isinstance(details, dict):
        details = {}  # another client has written the error
    path = _CLASSES.get(error.code, "ojs_client.errors.OJSError")
    return TaskError(
        exception_class_path=details.get("exception_class_path", path),
        traceback=details.get("traceback", f"{error.type}: {error.message}\n"),
    )
