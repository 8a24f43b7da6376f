"""How a key that is restricted to some queues is kept to them.

The dispatcher calls `keep_to_queues` before the handler of a route whose path names a queue, a job,
a cron job or a workflow. Handlers whose body or query names queues or jobs call the other functions
with the request's ``queues``, which is None for a key that may reach every queue: then they cost a
comparison.

A job of a queue out of reach is answered as one that does not exist. A queue that is named is
refused with 403: its name tells nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import MalformedJob, NotFound, PermissionDenied
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.limits import PayloadLimits
from ojs_cluster.core.workflow_request import NewWorkflow
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.router import Reach, Route
from ojs_cluster.store.cron import cron as store_cron
from ojs_cluster.store.cron.cron_record import CronRecord
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import read_jobs as store_jobs
from ojs_cluster.store.workflows import workflows as store_workflows


async def keep_to_queues(
    app: App, route: Route, queues: QueuePatterns, params: tuple[str, ...]
) -> None:
    """Check what the path of a request names.

    Raises:
        PermissionDenied: a queue out of reach.
        NotFound: a job, a cron job or a workflow that does not exist, or is out of reach.
    """
    if route.reach is Reach.QUEUE:
        check_queues(queues, [params[0]])
    elif route.reach is Reach.JOB:
        await check_job(app, queues, fields.job_id(params[0]))
    elif route.reach is Reach.CRON:
        cron = await store_cron.get(app.store, params[0])
        if not queues.admits(cron.definition.queue):
            raise NotFound("cron job", params[0][:255])
    elif route.reach is Reach.WORKFLOW:
        workflow = await store_workflows.get(app.store, params[0], jobs=False)
        if not all(queues.admits(node.queue) for node in workflow.plan.jobs):
            raise NotFound("workflow", params[0])


def check_queues(queues: QueuePatterns | None, names: Iterable[str]) -> None:
    """Check queues that a request names.

    Raises:
        PermissionDenied: one of them is out of reach.
    """
    if queues is None:
        return
    for name in names:
        if not queues.admits(name):
            raise PermissionDenied(
                f"the API key may not reach the queue '{name[:255]}'", queue=name
            )


def check_new_job(queues: QueuePatterns | None, job: NewJob) -> None:
    """Check a job that is to be enqueued.

    A unique job whose queue does not count might be answered with the job of another queue, or
    replace it.

    Raises:
        PermissionDenied: its queue is out of reach, or its uniqueness spans queues.
    """
    if queues is None:
        return
    check_queues(queues, [job.queue])
    if job.unique is not None and "queue" not in job.unique.keys:
        raise PermissionDenied(
            "the API key may reach some queues only, and this job would be unique in all of them: "
            "add 'queue' to unique.keys",
            field="options.unique.keys",
        )


def check_new_workflow(
    queues: QueuePatterns | None, new: NewWorkflow, limits: PayloadLimits
) -> None:
    """Check every job of a workflow that is to be created, callbacks included.

    Raises:
        PermissionDenied: as `check_new_job`.
    """
    if queues is not None:
        for definition in new.definitions:
            check_new_job(queues, parse_job(definition, limits=limits))


async def check_job(app: App, queues: QueuePatterns | None, job_id: str) -> None:
    """Check a job by its id. A key for every queue costs no call.

    Raises:
        NotFound: there is no such job in reach.
    """
    if queues is None:
        return
    try:
        job = await store_jobs.get(app.store, job_id)
    except MalformedJob:  # whose queue cannot be trusted
        raise NotFound("job", job_id) from None
    if not queues.admits(job.queue):
        raise NotFound("job", job_id)


async def jobs_in_reach(
    app: App, queues: QueuePatterns | None, job_ids: Collection[str]
) -> Collection[str]:
    """Return those of the jobs that exist in reach; all of them for a key for every queue."""
    if queues is None:
        return job_ids
    found: set[str] = set()

    async def check(job_id: str) -> None:
        try:
            await check_job(app, queues, job_id)
        except NotFound:
            return
        found.add(job_id)

    await over_shards(job_ids, check)
    return [job_id for job_id in job_ids if job_id in found]


def check_cron(queues: QueuePatterns, present: CronRecord) -> None:
    """Check a cron job whose definition is to be replaced.

    Raises:
        PermissionDenied: its queue is out of reach.
    """
    if not queues.admits(present.definition.queue):
        raise PermissionDenied(
            f"the name '{present.name}' is that of a cron job which the API key may not reach",
            field="name",
        )
