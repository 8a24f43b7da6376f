"""Build workflows: chains, groups and batches, nested up to five levels (spec: ojs-workflows)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ojs_client.options import JSON, NewJob


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A workflow that is not started yet. It may be a step of another workflow.

    Raises:
        TypeError: a step is neither a job of ``new_job`` nor a workflow, as a list is.
    """

    type: Literal["chain", "group", "batch"]
    steps: tuple[NewJob | NewWorkflow, ...]
    name: str = ""
    callbacks: Mapping[str, NewJob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the steps."""
        for step in (*self.steps, *self.callbacks.values()):
            if not isinstance(step, NewJob | NewWorkflow):
                raise TypeError(
                    f"a {self.type} has jobs of new_job(), or workflows, each as an argument of "
                    f"its own, not a {type(step).__name__}"
                )

    def json(self) -> dict[str, JSON]:
        """Return the request that creates the workflow."""
        steps = [step.json() for step in self.steps]
        body: dict[str, JSON] = {"type": self.type}
        body["steps" if self.type == "chain" else "jobs"] = steps
        if self.name:
            body["name"] = self.name
        if self.callbacks:
            body["callbacks"] = {name: job.json() for name, job in self.callbacks.items()}
        return body


def chain(*steps: NewJob | NewWorkflow, name: str = "") -> NewWorkflow:
    """Return a workflow that runs its steps one after the other.

    A step gets the results of the earlier steps as ``parent_results``.
    """
    return NewWorkflow("chain", steps, name)


def group(*jobs: NewJob | NewWorkflow, name: str = "") -> NewWorkflow:
    """Return a workflow that runs its jobs at the same time."""
    return NewWorkflow("group", jobs, name)


def batch(
    *jobs: NewJob | NewWorkflow,
    name: str = "",
    on_complete: NewJob | None = None,
    on_success: NewJob | None = None,
    on_failure: NewJob | None = None,
) -> NewWorkflow:
    """Return a group that enqueues callbacks at its end.

    Args:
        *jobs: the jobs.
        name: the name of the workflow.
        on_complete: enqueued when all jobs have ended.
        on_success: enqueued when all jobs have completed.
        on_failure: enqueued when all jobs have ended and one has failed.
    """
    given = {"on_complete": on_complete, "on_success": on_success, "on_failure": on_failure}
    callbacks = {name: job for name, job in given.items() if job is not None}
    return NewWorkflow("batch", jobs, name, callbacks)
