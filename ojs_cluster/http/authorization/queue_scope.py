"""Enforce the queue patterns of API keys, and the tenants of requests.

The dispatcher calls ``check_path_access`` before the handler of a route whose path names a queue, a
job, a cron job or a workflow. Handlers whose body or query names queues or jobs call the other
functions. For a request without restrictions ``Request.queues`` and ``Request.tenant`` are None,
and these functions return at once.

A queue is accessible if a pattern of the API key matches its name. A job is accessible if its queue
is, and if it has the tenant of the request. An inaccessible job is treated like a job that does not
exist. A request that names an inaccessible queue gets 403, whether or not the queue exists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import (
    BackendUnavailable,
    Duplicate,
    InvalidRequest,
    MalformedJob,
    MalformedRecord,
    NotFound,
    OJSError,
    PermissionDenied,
)
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.workflow_request import NewWorkflow
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request
from ojs_cluster.http.routing.router import QueueAccess, Route
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron import cron as store_cron
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.ground.fanout import run_concurrently


async def check_path_access(
    app: App, route: Route, request: Request, params: tuple[str, ...]
) -> None:
    """Check the object that the path of a request names.

    Raises:
        PermissionDenied: the queue is not accessible.
        NotFound: the job, cron job or workflow does not exist, or its queue is not accessible.
    """
    if route.queue_access is QueueAccess.QUEUE:
        check_queues(request.queues, [params[0]])
    elif route.queue_access is QueueAccess.JOB:
        await check_job(app, request, fields.job_id(params[0]))
    elif route.queue_access is QueueAccess.CRON:
        with _hiding_malformed("cron job", params[0]):
            cron = await store_cron.get(app.store, params[0])
        if not _admits(request, cron.definition.queue, cron.definition.tenant):
            raise NotFound("cron job", params[0][:255])
    elif route.queue_access is QueueAccess.WORKFLOW:
        with _hiding_malformed("workflow", params[0]):
            workflow = await read_workflows.get(app.store, params[0], jobs=False)
        if not all(_admits(request, queue, workflow.plan.tenant) for queue in workflow.queues):
            raise NotFound("workflow", params[0])


@contextmanager
def _hiding_malformed(resource: str, name: str) -> Iterator[None]:
    """Raise NotFound for a malformed record, whose queues and tenant cannot be trusted."""
    try:
        yield
    except MalformedRecord:
        raise NotFound(resource, name[:255]) from None


def _admits(request: Request, queue: str, tenant: str) -> bool:
    """Return whether a request may access a job of this queue and of this tenant."""
    return (request.queues is None or request.queues.admits(queue)) and (
        request.tenant is None or request.tenant == tenant
    )


def check_queues(queues: QueuePatterns | None, names: Iterable[str]) -> None:
    """Check the queues that a request names.

    Raises:
        PermissionDenied: one of them is not accessible.
    """
    if queues is None:
        return
    for name in names:
        if not queues.admits(name):
            raise PermissionDenied(
                f"the API key may not access the queue '{name[:255]}'", queue=name
            )


def check_new_job(queues: QueuePatterns | None, job: NewJob) -> None:
    """Check a job that is to be enqueued.

    A job that is unique in all queues could return, or replace, a job of an inaccessible queue. So
    its uniqueness must include the queue.

    Raises:
        PermissionDenied: the queue of the job is not accessible, or the job is unique in all
            queues.
    """
    if queues is None:
        return
    check_queues(queues, [job.queue])
    if job.unique is not None and "queue" not in job.unique.keys:
        raise PermissionDenied(
            "the API key may access some queues only, and this job would be unique in all of them: "
            "add 'queue' to unique.keys",
            field="options.unique.keys",
        )


def check_new_workflow(
    queues: QueuePatterns | None, new: NewWorkflow, limits: PayloadLimits
) -> None:
    """Check every job of a workflow that is to be created, callbacks included.

    Raises:
        PermissionDenied: see ``check_new_job``.
    """
    if queues is not None:
        for definition in new.definitions:
            check_new_job(queues, parse_job(definition, limits=limits))


async def check_job(app: App, request: Request, job_id: str) -> None:
    """Check a job by its id. For a request without restrictions no call of Redis is needed.

    Raises:
        NotFound: the job does not exist, or is not accessible.
    """
    if not request.is_restricted:
        return
    try:
        job = await store_jobs.get(app.store, job_id)
    except MalformedJob:  # the queue of a malformed job cannot be trusted
        raise NotFound("job", job_id) from None
    check_read_job(request, job)


def check_read_job(request: Request, job: JobRecord) -> None:
    """Check a job that was read.

    Raises:
        NotFound: the job is not accessible.
    """
    if not _admits(request, job.queue, job.tenant):
        raise NotFound("job", job.id)


async def accessible_jobs(app: App, request: Request, job_ids: Collection[str]) -> Collection[str]:
    """Return the ids of jobs that exist and are accessible; all ids without restrictions.

    Jobs of shards that do not answer are left out.

    Raises:
        BackendUnavailable: no job is accessible, and for at least one Redis did not answer.
    """
    errors = await access_errors(app, request, job_ids)
    if len(errors) == len(job_ids):
        for error in errors.values():
            if isinstance(error, BackendUnavailable):
                raise error
    return [job_id for job_id in job_ids if job_id not in errors]


async def access_errors(
    app: App, request: Request, job_ids: Collection[str]
) -> dict[str, OJSError]:
    """Return why jobs are not accessible, by their ids; nothing without restrictions.

    Returns:
        A ``NotFound`` for a job that does not exist, or is not accessible, and a
        ``BackendUnavailable`` for a job whose shard did not answer in time.
    """
    if not request.is_restricted:
        return {}
    errors: dict[str, OJSError] = {}

    async def check(job_id: str) -> None:
        try:
            if _admits(request, *await store_jobs.get_queue_and_tenant(app.store, job_id)):
                return
        except BackendUnavailable as error:
            errors[job_id] = error
            return
        except (MalformedJob, NotFound):
            pass
        errors[job_id] = NotFound("job", job_id)

    await run_concurrently(job_ids, check)
    return errors


async def hide_existing(app: App, request: Request, error: Duplicate) -> OJSError:
    """Return the error of a new job, without what the client may not know of an existing job.

    An id is unique in the whole installation, so the client must learn that it cannot use an id. It
    gets the same error whether a job of others has the id, or the id is kept for another reason.

    Args:
        app: the state of the process.
        request: the request that has the new job.
        error: the error that names the existing job.

    Returns:
        The given error if the existing job is accessible.
    """
    job_id = error.details.get("existing_job_id")
    if job_id is None or not request.is_restricted:
        return error
    await ensure_task()
    hidden = (await access_errors(app, request, [job_id])).get(job_id)
    if hidden is None or isinstance(hidden, BackendUnavailable):
        return hidden or error
    index = error.details.get("index")
    if error.field == "id":
        return InvalidRequest("the id cannot be used: choose another one", field="id", index=index)
    key = error.details.get("uniqueness_key")
    return Duplicate("a job of the same uniqueness exists", uniqueness_key=key, index=index)


def check_cron(request: Request, existing: CronRecord) -> None:
    """Check a cron job whose definition is to be replaced.

    Raises:
        PermissionDenied: the existing cron job is not accessible.
    """
    if not _admits(request, existing.definition.queue, existing.definition.tenant):
        raise PermissionDenied(
            f"the name '{existing.name}' belongs to a cron job that the API key may not access",
            field="name",
        )
