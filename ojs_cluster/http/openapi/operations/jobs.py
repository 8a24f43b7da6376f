"""Jobs, their results, checkpoints and progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import (
    batch,
    checkpoints,
    edit,
    jobs,
    progress,
    result,
    retries,
    unique_jobs,
)
from ojs_cluster.http.handlers.history import events as history
from ojs_cluster.http.handlers.history import lineage
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import jobs as shapes
from ojs_cluster.http.shapes.common import Deleted
from ojs_cluster.http.shapes.history import (
    HistoryDeleted,
    JobHistory,
    JobLineage,
    StateHistory,
)
from ojs_cluster.http.shapes.job_requests import BatchBody, EnqueueBody, JobEditBody

_LOCATION: Final = {"Location": "The path of the job."}
_SETTLED: Final = (404, 409)
_CHANGED_JOB: Final = OperationDetails({200: shapes.JobAnswer}, errors=(409,))

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    jobs.enqueue: OperationDetails(
        {201: Answer(shapes.EnqueuedJob, headers=_LOCATION), 200: shapes.Deduplicated},
        body=EnqueueBody,
        errors=(409,),
    ),
    jobs.list_jobs: OperationDetails(
        {200: shapes.JobList},
        parameters=(
            *(p.STATE, p.QUEUE, p.TYPE, p.SEARCH, p.INDEX, p.SORT, p.ORDER),
            *(p.limit(), p.offset(jobs.MAX_OFFSET), p.CURSOR),
        ),
    ),
    jobs.get: OperationDetails({200: shapes.WholeJob}),
    jobs.cancel: _CHANGED_JOB,
    jobs.activate: _CHANGED_JOB,
    edit.change: OperationDetails({200: shapes.EnqueuedJob}, body=JobEditBody, errors=(409, 413)),
    batch.enqueue_many: OperationDetails({201: shapes.Batch}, body=BatchBody, errors=(409,)),
    history.get: OperationDetails({200: JobHistory}, parameters=p.page()),
    history.get_states: OperationDetails({200: StateHistory}, parameters=p.page()),
    history.delete: OperationDetails({200: HistoryDeleted}),
    lineage.get: OperationDetails({200: JobLineage}),
    result.get: OperationDetails(
        {200: shapes.JobResult},
        parameters=(
            p.flag("wait", "Whether to wait until the job is finished."),
            p.number("timeout", "Maximum time to wait, in seconds.", low=0, high=300, default=30),
        ),
        errors=(408, 410),
    ),
    retries.list_retries: OperationDetails({200: shapes.Retries}),
    checkpoints.save: OperationDetails(
        {200: shapes.CheckpointAnswer}, body=checkpoints.CheckpointBody, errors=(409,)
    ),
    checkpoints.get: OperationDetails({200: shapes.CheckpointAnswer}),
    checkpoints.delete: OperationDetails({200: Deleted}),
    checkpoints.resume: OperationDetails({200: shapes.Resume}),
    progress.get: OperationDetails(
        {
            200: Answer(
                shapes.JobProgress,
                headers={
                    "Last-Modified": "When the progress was reported.",
                    "X-OJS-Progress": "The progress, from 0 to 1.",
                },
            )
        }
    ),
    progress.report: OperationDetails(
        {200: shapes.JobProgress}, body=progress.ProgressBody, errors=_SETTLED
    ),
    progress.report_by_path: OperationDetails(
        {200: shapes.JobProgress}, body=progress.ProgressBody, errors=_SETTLED
    ),
    unique_jobs.list_unique_jobs: OperationDetails(
        {200: shapes.UniqueLocks}, parameters=p.numbered_page()
    ),
}
