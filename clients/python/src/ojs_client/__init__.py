"""Enqueue and run OpenJobSpec jobs, with asyncio or trio."""

from typing import TYPE_CHECKING, Any, Final

from ojs_client._version import __version__

if TYPE_CHECKING:
    from ojs_client.bulk import BulkFailure, BulkReport, JobFilter
    from ojs_client.client import Client
    from ojs_client.cron import CronJobs, NewCron, SyncedCrons
    from ojs_client.errors import (
        ApiError,
        Conflict,
        ConnectionFailed,
        Discard,
        InvalidArguments,
        JobCancelled,
        JobFailed,
        LeaseLost,
        NotFound,
        OJSError,
        RateLimited,
        ResultPending,
        Retry,
        Snooze,
        Unavailable,
    )
    from ojs_client.events import Event, Subscription
    from ojs_client.jobs import Cron, Job, JobError, Workflow, WorkflowStep
    from ojs_client.managed_jobs import Jobs
    from ojs_client.managing import DeadLetters, Limit, Limits, Queue, Queues
    from ojs_client.many import EnqueueReport, FailedPortion
    from ojs_client.options import JobOptions, NewJob, RetryPolicy, Unique, new_job, new_job_id
    from ojs_client.sync import SyncClient, SyncCronJobs
    from ojs_client.sync_managing import SyncJobs, SyncQueues
    from ojs_client.tasks.app import App, TaskRouter
    from ojs_client.tasks.dependencies import Depends
    from ojs_client.tasks.task import AsyncTask, SyncTask, Task
    from ojs_client.values import register_type
    from ojs_client.worker.handlers import Middleware, Next
    from ojs_client.worker.processes import ProcessJob
    from ojs_client.worker.running import BlockingJob, RunningJob
    from ojs_client.worker.worker import Worker
    from ojs_client.workflows import NewWorkflow, after, batch, chain, dag, group

__all__ = [
    "ApiError",
    "App",
    "AsyncTask",
    "BlockingJob",
    "BulkFailure",
    "BulkReport",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Cron",
    "CronJobs",
    "DeadLetters",
    "Depends",
    "Discard",
    "EnqueueReport",
    "Event",
    "FailedPortion",
    "InvalidArguments",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobFilter",
    "JobOptions",
    "Jobs",
    "LeaseLost",
    "Limit",
    "Limits",
    "Middleware",
    "NewCron",
    "NewJob",
    "NewWorkflow",
    "Next",
    "NotFound",
    "OJSError",
    "ProcessJob",
    "Queue",
    "Queues",
    "RateLimited",
    "ResultPending",
    "Retry",
    "RetryPolicy",
    "RunningJob",
    "Snooze",
    "Subscription",
    "SyncClient",
    "SyncCronJobs",
    "SyncJobs",
    "SyncQueues",
    "SyncTask",
    "SyncedCrons",
    "Task",
    "TaskRouter",
    "Unavailable",
    "Unique",
    "Worker",
    "Workflow",
    "WorkflowStep",
    "__version__",
    "after",
    "batch",
    "chain",
    "dag",
    "group",
    "new_job",
    "new_job_id",
    "register_type",
]

_MODULES: Final = {
    "bulk": ("BulkFailure", "BulkReport", "JobFilter"),
    "client": ("Client",),
    "cron": ("CronJobs", "NewCron", "SyncedCrons"),
    "errors": (
        "ApiError",
        "Conflict",
        "ConnectionFailed",
        "Discard",
        "InvalidArguments",
        "JobCancelled",
        "JobFailed",
        "LeaseLost",
        "NotFound",
        "OJSError",
        "RateLimited",
        "ResultPending",
        "Retry",
        "Snooze",
        "Unavailable",
    ),
    "events": ("Event", "Subscription"),
    "jobs": ("Cron", "Job", "JobError", "Workflow", "WorkflowStep"),
    "managed_jobs": ("Jobs",),
    "managing": ("DeadLetters", "Limit", "Limits", "Queue", "Queues"),
    "many": ("EnqueueReport", "FailedPortion"),
    "options": ("JobOptions", "NewJob", "RetryPolicy", "Unique", "new_job", "new_job_id"),
    "sync": ("SyncClient", "SyncCronJobs"),
    "sync_managing": ("SyncJobs", "SyncQueues"),
    "tasks.app": ("App", "TaskRouter"),
    "tasks.dependencies": ("Depends",),
    "tasks.task": ("AsyncTask", "SyncTask", "Task"),
    "values": ("register_type",),
    "worker.handlers": ("Middleware", "Next"),
    "worker.processes": ("ProcessJob",),
    "worker.running": ("BlockingJob", "RunningJob"),
    "worker.worker": ("Worker",),
    "workflows": ("NewWorkflow", "after", "batch", "chain", "dag", "group"),
}
"""The modules of the names. Each is imported when a program uses a name of it, so a producer does
not wait for the worker."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            import importlib

            found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
