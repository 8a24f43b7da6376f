"""Workflows in responses."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, JobId, Moment, Pagination, QueueName
from ojs_cluster.http.shapes.keywords import between, keywords


class StepCounts(TypedDict):
    """The counts of the outermost steps. A nested workflow counts as one step."""

    step_count: Count
    steps_total: Count
    steps_completed: Count
    jobs_total: Count
    jobs_completed: Count


class WorkflowCounts(TypedDict):
    """The number of jobs by outcome."""

    job_count: Count
    completed_count: Count
    failed_count: Count
    cancelled_count: Count


class WorkflowTimes(TypedDict):
    """The times of a workflow."""

    created_at: Moment
    completed_at: NotRequired[Moment]
    cancelled_at: NotRequired[Moment]


class WorkflowMetadata(WorkflowCounts, WorkflowTimes):
    """The times and the counts of a workflow, and while it runs the queues of its started steps.

    The queues are missing if a step was moved to another queue.
    """

    queues: NotRequired[list[QueueName]]


class WorkflowSummary(StepCounts, WorkflowTimes):
    """A workflow without its steps."""

    id: JobId
    type: Annotated[str, keywords(enum=["chain", "group", "batch", "dag"])]
    name: str
    state: str
    metadata: WorkflowMetadata


class WorkflowStep(TypedDict):
    """A job of a workflow. ``job_id`` is null while the step waits."""

    index: Count
    id: str
    name: str
    type: str
    queue: QueueName
    state: str
    job_id: JobId | None
    depends_on: list[str]
    callback: NotRequired[str]
    attempt: NotRequired[Count]
    started_at: NotRequired[Moment]
    completed_at: NotRequired[Moment]
    result: NotRequired[Any]
    error: NotRequired[dict[str, Any]]


class WorkflowError(TypedDict):
    """The error of a failed job, with the members that its worker sent."""

    job_id: JobId
    attempt: NotRequired[Count]


class WorkflowMembers(WorkflowSummary):
    """A workflow with its steps. ``jobs`` repeats ``steps`` without the results."""

    steps: list[WorkflowStep]
    jobs: list[WorkflowStep]
    callbacks: NotRequired[dict[str, WorkflowStep]]
    failed_step_index: NotRequired[Count]
    failed_job_ids: NotRequired[list[JobId]]
    errors: NotRequired[list[WorkflowError]]
    started_at: NotRequired[Moment]
    cancelled_steps: NotRequired[Count]


class WorkflowAnswer(WorkflowMembers):
    """The workflow in ``workflow``, and its members again at the top level."""

    workflow: WorkflowMembers


class CreatedWorkflow(WorkflowAnswer):
    """The workflow. ``warnings`` is that of its jobs."""

    warnings: NotRequired[list[str]]


class WorkflowProgressAnswer(StepCounts, WorkflowCounts):
    """The counts of a workflow."""

    workflow_id: JobId
    id: JobId
    state: str
    progress: Annotated[float, between(0, 1)]
    percentage: Annotated[float, between(0, 100)]
    total: Count
    completed: Count
    failed: Count


class WorkflowList(TypedDict):
    """A page of workflows, newest first."""

    workflows: list[WorkflowSummary]
    items: list[WorkflowSummary]
    total: NotRequired[Count]
    pagination: Pagination
