"""The worker that runs the tasks of a project."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from traceback import format_exception
from typing import Any, Final

import django
from django.apps import apps
from django.db import close_old_connections
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from ojs_client.django.backend import Backend, backend_of
from ojs_client.django.discovery import all_tasks
from ojs_client.django.results import Context, Starts, result_of, starts_of
from ojs_client.errors import LeaseLost, OJSError, Retry, Snooze
from ojs_client.options import JSON, is_job_type, is_non_retryable
from ojs_client.worker.handlers import add_details, error_of, unwrapped
from ojs_client.worker.running import BlockingJob
from ojs_client.worker.worker import Worker

_MAX_TRACEBACK: Final = 8192
"""Maximum length of a stored traceback: its end."""


def project_worker(alias: str = DEFAULT_TASK_BACKEND_ALIAS, **arguments: Any) -> Worker:
    """Return a worker that runs the tasks of the project of ``DJANGO_SETTINGS_MODULE``.

    Args:
        alias: an alias of ``TASKS``, whose server and queues are those of the worker.
        **arguments: further arguments of ``Worker``.

    Raises:
        TypeError: the alias has another backend.
        ValueError: an argument is not allowed.
    """
    if not apps.ready:  # as in a process of the worker, and not in a test
        django.setup()
        _enable_loggers()
    backend, tasks = backend_of(alias), all_tasks()
    if arguments.get("pool") is None:
        named = backend.queue_names or dict.fromkeys(task.queue_name for task in tasks.values())
        arguments = {"queues": tuple(named) or None, **arguments}
    server = {name: backend.server.get(name) for name in ("url", "api_key", "transport")}
    worker = Worker(**{**server, **arguments})
    for path, task in tasks.items():
        if is_job_type(path):  # other backends allow any path
            worker.handler(path)(_handler(task, backend))
    return worker


def _enable_loggers() -> None:
    """Let the worker log: ``LOGGING`` disables earlier loggers unless it says otherwise."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "ojs_client":
            logging.getLogger(name).disabled = False


def _handler(task: Task[..., Any], backend: Backend) -> Callable[[BlockingJob], JSON]:
    def handle(job: BlockingJob) -> JSON:
        close_old_connections()  # as at the begin and the end of a request
        try:
            with backend.producer.running_in(job.client):
                return _run(task, job, backend)
        finally:
            close_old_connections()

    return handle


def _run(task: Task[..., Any], job: BlockingJob, backend: Backend) -> JSON:
    starts: Starts = {}
    if job.attempt > 1:
        with suppress(OJSError):  # the key of a worker may not read jobs
            starts = job.client.run(lambda client: starts_of(client, job.job))
    try:
        result = result_of(job.job, starts, task, backend)
    except ValueError as error:
        # Another version of the task may know these arguments, so the policy decides. No signal is
        # sent, also at the last attempt, because a signal needs a result with arguments.
        raise Retry(str(error), code="invalid_arguments") from error
    # A receiver that raises must not fail a task, or run one again that has succeeded.
    task_started.send_robust(type(backend), task_result=result)
    context = (Context(task_result=result, job=job),) if task.takes_context else ()
    try:
        value = normalize_json(task.call(*context, *result.args, **result.kwargs))
    except BaseException as raised:
        failure = unwrapped(raised)
        if isinstance(failure, Snooze | LeaseLost):
            raise
        kind = type(failure)
        lines = "".join(format_exception(raised))[-_MAX_TRACEBACK:]
        trace = lines.encode(errors="replace").decode()  # a message may have lone surrogates
        path = f"{kind.__module__}.{kind.__qualname__}"
        add_details(failure, exception_class_path=path, traceback=trace)
        if job.attempt >= job.max_attempts or _ends_job(job, failure):
            result.errors.append(TaskError(exception_class_path=path, traceback=trace))
            _finish(backend, result, TaskResultStatus.FAILED)
        raise
    object.__setattr__(result, "_return_value", value)
    _finish(backend, result, TaskResultStatus.SUCCESSFUL)
    return value


def _ends_job(job: BlockingJob, error: BaseException) -> bool:
    """Return whether the server tries a job no more after an error, as its policy says."""
    sent = error_of(error, timezone.now())
    names = {sent["code"], sent.get("type"), sent.get("details", {}).get("error_class")} - {None}
    patterns = job.job.members.get("retry", {}).get("non_retryable_errors", ())
    return not sent["retryable"] or is_non_retryable(names, patterns)


def _finish(backend: Backend, result: TaskResult[..., Any], status: TaskResultStatus) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())
    task_finished.send_robust(type(backend), task_result=result)
