"""The backend: enqueues the jobs of tasks, and reads their results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar, Unpack, cast

from django.core.checks import CheckMessage, Error
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.tasks import (
    DEFAULT_TASK_QUEUE_NAME,
    Task,
    TaskResult,
    TaskResultStatus,
    task_backends,
)
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.asyncio import async_unsafe
from django.utils.connection import ConnectionDoesNotExist

from ojs_client.client import Client
from ojs_client.django.discovery import find_task
from ojs_client.django.results import project_time, result_of, starts_of
from ojs_client.errors import NotFound
from ojs_client.options import JobOptions, NewJob, is_job_type, is_queue, new_job_id
from ojs_client.outbox import enqueue as write_in_outbox
from ojs_client.tasks.producer import Producer

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = ("url", "api_key", "timeout_s", "retry_for_s", "headers", "transport")
"""Arguments of the client that ``OPTIONS`` may have, beside those of the backend."""

_ATTRIBUTE: Final = "_ojs_job"
"""The attribute of a function with options of its jobs."""


def job_options(**options: Unpack[JobOptions]) -> Callable[[F], F]:
    """Return a decorator with options of the jobs of a task, which stands below ``@task``.

    Other backends ignore it. Queue, priority and time are those of the task.

    Args:
        **options: see ``JobOptions``.
    """

    def add(function: F) -> F:
        setattr(function, _ATTRIBUTE, options)
        return function

    return add


class Backend(BaseTaskBackend):
    """A backend for ``TASKS``.

    Its ``OPTIONS`` are arguments of ``Client``, and these: ``job`` has options of all jobs.
    ``on_commit`` is the database whose transactions delay an enqueue until they are committed: True
    for the default database, or its alias; False for none. ``outbox`` is the database in whose
    tables an enqueue writes the job instead: True for the default database, or its alias.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.queue_names: tuple[str, ...] = tuple(params.get("QUEUES", [DEFAULT_TASK_QUEUE_NAME]))
        self._job = self.options.get("job", {})
        self._on_commit = _database(self.options.get("on_commit", True))
        self.outbox: str | None = _database(self.options.get("outbox", False))
        self.server: dict[str, Any] = {
            name: self.options[name] for name in _OPTIONS if name in self.options
        }
        self.producer: Producer = _producer(alias, self.server)

    def validate_task(self, task: Task[..., Any]) -> None:
        """Check that a task can be enqueued.

        Raises:
            InvalidTask: it cannot.
        """
        super().validate_task(task)
        if not is_job_type(task.module_path):
            raise InvalidTask(
                f"'{task.module_path}' is no job type: modules and functions of tasks need names "
                "in lower case, without an underscore in front"
            )
        try:
            self._new_job(task, ())
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"options of the job: {error}") from error

    def enqueue(
        self, task: Task[P, R], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[P, R]:
        """Enqueue a call, in a transaction when it is committed, or write it into the outbox."""
        self.validate_task(task)
        result: TaskResult[P, R] = TaskResult(
            task=task,
            id=new_job_id(),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        finish = partial(self._send, result)
        if self.outbox is not None:
            write_in_outbox(connections[self.outbox], self._job_of(result))
            finish = partial(self._tell, result)
        using = self.outbox or self._on_commit
        if using is not None and connections[using].in_atomic_block:
            # Django would leave out all later hooks after one that raises: jobs would be lost.
            transaction.on_commit(finish, using=using, robust=True)
        else:
            finish()
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return the result of a task.

        Raises:
            TaskResultDoesNotExist: there is no such job, or it is no task of this project.
        """

        async def read(client: Client) -> TaskResult[..., Any] | None:
            job = await client.get(result_id)
            if (task := find_task(job.type)) is None:
                return None
            return result_of(job, await starts_of(client, job), task, self)

        try:
            result = self._call(read)
        except NotFound:
            result = None
        if result is None:
            raise TaskResultDoesNotExist(result_id)
        return result

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what is wrong in the settings."""
        unknown = self.options.keys() - {*_OPTIONS, "job", "on_commit", "outbox"}
        wrong = [f"OPTIONS has no '{name}'" for name in sorted(unknown)]
        try:
            self.producer.new_client()
            NewJob("check", (), cast("JobOptions", self._job)).json(trace=False)
            if self.outbox is not None and connections[self.outbox].vendor != "postgresql":
                wrong.append(f"the outbox needs PostgreSQL, which '{self.outbox}' is not")
        except (TypeError, ValueError, ConnectionDoesNotExist) as error:
            wrong.append(str(error))
        wrong += [f"'{name}' is no queue name" for name in self.queue_names if not is_queue(name)]
        hint = "See docs/guide/frameworks.md."
        return [Error(f"TASKS['{self.alias}']: {each}.", hint, id="ojs.E001") for each in wrong]

    def _new_job(self, task: Task[..., Any], args: tuple[Any, ...], **options: Any) -> NewJob:
        given: Mapping[str, Any] = getattr(task.func, _ATTRIBUTE, {})
        chosen = {**self._job, **given, **options}
        chosen |= {"queue": task.queue_name, "priority": int(task.priority)}
        if task.run_after is not None:
            at = task.run_after
            chosen["scheduled_at"] = at if timezone.is_aware(at) else timezone.make_aware(at)
        job = NewJob(task.module_path, args, cast("JobOptions", chosen))
        job.json(trace=False)  # refuses a wrong option now
        return job

    def _job_of(self, result: TaskResult[..., Any]) -> NewJob:
        # With an id of its own, a repeated request creates no second job.
        return self._new_job(result.task, (result.args, result.kwargs), job_id=result.id)

    def _send(self, result: TaskResult[..., Any]) -> None:
        job = self._job_of(result)
        sent = self._call(lambda client: client.enqueue(job))
        object.__setattr__(result, "id", sent.id)  # of an earlier job, if the job is unique
        object.__setattr__(result, "enqueued_at", project_time(sent.members.get("created_at")))
        self._tell(result)

    def _tell(self, result: TaskResult[..., Any]) -> None:
        # The job exists, so that a receiver which raises must not make the caller repeat it.
        task_enqueued.send_robust(type(self), task_result=result)

    @async_unsafe
    def _call(self, function: Callable[[Client], Awaitable[R]]) -> R:
        return self.producer.run_blocking(function)


def _database(option: bool | str) -> str | None:
    return DEFAULT_DB_ALIAS if option is True else option or None


def backend_of(alias: str) -> Backend:
    """Return the backend of an alias of ``TASKS``.

    Raises:
        TypeError: it is another one.
    """
    backend = task_backends[alias]
    if not isinstance(backend, Backend):
        raise TypeError(f"TASKS['{alias}'] is a {type(backend).__name__}, not ojs_client.django")
    return backend


_lock: Final = Lock()
_producers: Final[dict[str, tuple[dict[str, Any], Producer]]] = {}


def _producer(alias: str, server: dict[str, Any]) -> Producer:
    """Return the producer of a server, which the backends of all threads share."""
    with _lock:
        known = _producers.get(alias)
        if known is not None and known[0] == server:
            return known[1]
        producer = Producer(server, ())
        _producers[alias] = server, producer
    if known is not None:  # tests change settings
        known[1].close()
    return producer
