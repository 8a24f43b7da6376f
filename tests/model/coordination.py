"""Unique locks, workflows and concurrency limits of the model.

The lifecycle reports every end of a job (``Model.on_end``); everything here follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ojs_cluster.core.errors import Conflict, Duplicate
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.states import TERMINAL, State
from tests.model.jobs import JobView, ModelJob
from tests.model.lifecycle import UNIT, Model

STEADY = RetryPolicy(initial_ms=UNIT, max_ms=20 * UNIT, jitter=False)
"""Retry policy of unique jobs."""


@dataclass(frozen=True, slots=True)
class Step:
    """A job that a workflow enqueues later."""

    job_id: str
    queue: str
    retry: RetryPolicy


@dataclass(slots=True)
class ModelWorkflow:
    """A chain or a group. ``ended`` has the first end of each of its jobs."""

    kind: Literal["chain", "group"]
    steps: Sequence[Step]
    state: str = "running"
    ended: dict[str, State] = field(default_factory=dict)

    @property
    def job_ids(self) -> list[str]:
        return [step.job_id for step in self.steps]


class CoordinatedModel(Model):
    """The lifecycle with the relations between jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: dict[str, str] = {}
        """Fingerprint to the job that holds the lock."""
        self.workflows: dict[str, ModelWorkflow] = {}

    # -- unique jobs

    def enqueue_unique(
        self, job_id: str, queue: str, fingerprint: str, on_conflict: str
    ) -> JobView:
        """Enqueue a job unless a live job has its fingerprint.

        Under the policy ``ignore`` the live job is returned instead.

        Raises:
            Duplicate: a live job has the fingerprint.
        """
        holder = self.locks.get(fingerprint)
        if holder is not None and on_conflict == "reject":
            raise Duplicate(holder)
        if holder is not None and on_conflict == "ignore":
            return self.get(holder)
        if holder is not None:
            self.cancel(holder)
        self.locks[fingerprint] = job_id
        return self.enqueue(job_id, queue, retry=STEADY)

    # -- workflows

    def create_workflow(
        self, workflow_id: str, kind: Literal["chain", "group"], steps: Sequence[Step]
    ) -> None:
        """Enqueue the steps that may start: the first step of a chain, all jobs of a group."""
        self.workflows[workflow_id] = ModelWorkflow(kind, steps)
        for step in steps if kind == "group" else steps[:1]:
            self._start(step)

    def cancel_workflow(self, workflow_id: str) -> None:
        """Cancel waiting steps; an active step may finish its attempt.

        Raises:
            Conflict: the workflow has ended.
        """
        workflow = self.workflows[workflow_id]
        if workflow.state != "running":
            raise Conflict(workflow.state)
        workflow.state = "cancelled"
        for job_id in workflow.job_ids:
            job = self.jobs.get(job_id)
            if job is None or job.state in TERMINAL:
                continue
            if job.state is State.ACTIVE:
                job.cancel_requested = True
            else:
                self.cancel(job_id)

    def _start(self, step: Step) -> None:
        self.enqueue(step.job_id, step.queue, retry=step.retry)

    def _advance(self, workflow: ModelWorkflow, job: ModelJob) -> None:
        if job.job_id in workflow.ended:
            return  # a dead letter that was retried
        workflow.ended[job.job_id] = job.state
        if workflow.state != "running":
            return
        ends = [workflow.ended.get(job_id) for job_id in workflow.job_ids]
        if workflow.kind == "chain" and job.state is not State.COMPLETED:
            workflow.state = "failed"
        elif None not in ends:
            whole = all(end is State.COMPLETED for end in ends)
            workflow.state = "completed" if whole else "failed"
        elif workflow.kind == "chain":
            self._start(workflow.steps[ends.index(None)])

    # -- effects of the end of a job

    def on_end(self, job: ModelJob) -> None:
        for fingerprint, holder in list(self.locks.items()):
            if holder == job.job_id:
                del self.locks[fingerprint]
        for workflow in self.workflows.values():
            if job.job_id in workflow.job_ids:
                self._advance(workflow, job)
