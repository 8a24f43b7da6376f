"""Enqueue and run OpenJobSpec jobs, with asyncio or trio."""

from ojs_client._version import __version__
from ojs_client.client import Client
from ojs_client.cron import CronJobs
from ojs_client.errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    Discard,
    JobCancelled,
    JobFailed,
    LeaseLost,
    NotFound,
    OJSError,
    RateLimited,
    ResultPending,
    Retry,
    Unavailable,
)
from ojs_client.jobs import Cron, Job, Workflow, WorkflowStep
from ojs_client.options import JobOptions, NewJob, RetryPolicy, Unique, new_job, new_job_id
from ojs_client.sync import SyncClient, SyncCronJobs
from ojs_client.worker.handlers import Middleware, Next
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, RunningJob
from ojs_client.worker.worker import Worker
from ojs_client.workflows import NewWorkflow, batch, chain, group

__all__ = [
    "ApiError",
    "BlockingJob",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Cron",
    "CronJobs",
    "Discard",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobOptions",
    "LeaseLost",
    "Middleware",
    "NewJob",
    "NewWorkflow",
    "Next",
    "NotFound",
    "OJSError",
    "ProcessJob",
    "RateLimited",
    "ResultPending",
    "Retry",
    "RetryPolicy",
    "RunningJob",
    "SyncClient",
    "SyncCronJobs",
    "Unavailable",
    "Unique",
    "Worker",
    "Workflow",
    "WorkflowStep",
    "__version__",
    "batch",
    "chain",
    "group",
    "new_job",
    "new_job_id",
]
