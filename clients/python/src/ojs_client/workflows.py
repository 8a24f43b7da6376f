"""Build workflows: chains, groups and batches, nested up to five levels (spec: ojs-workflows)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from ojs_client.options import JSON, NewJob


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A workflow that is not started yet. It may be a step of another workflow.

    Raises:
        TypeError: a step is neither a job of ``new_job`` nor a workflow, as a list is.
    """

    type: Literal["chain", "group", "batch", "dag"]
    steps: tuple[NewJob | NewWorkflow, ...]
    name: str = ""
    callbacks: Mapping[str, NewJob] = field(default_factory=dict)
    graph: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The ids of the steps of a graph, in their order, with those that each waits for."""

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
        for step, (id, depends_on) in zip(steps, self.graph.items(), strict=False):
            step |= {"id": id, "depends_on": list(depends_on)}
        body: dict[str, JSON] = {"type": self.type}
        body["steps" if self.type in ("chain", "dag") else "jobs"] = steps
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


def after(step: NewJob | NewWorkflow, *depends_on: str) -> tuple[NewJob | NewWorkflow, list[str]]:
    """Return a step of a ``dag`` that waits for the steps with these ids."""
    return step, list(depends_on)


def dag(
    steps: Mapping[str, NewJob | NewWorkflow | tuple[NewJob | NewWorkflow, Sequence[str]]],
    *,
    name: str = "",
) -> NewWorkflow:
    """Return a workflow whose steps wait for other steps, as ``after`` says.

    A step gets the results of those that it waits for as ``parent_results``.

    Args:
        steps: the steps by id.
        name: the name of the workflow.

    Raises:
        ValueError: a step waits for one that does not exist, or for itself through others.
    """
    graph = {id: step[1] if isinstance(step, tuple) else [] for id, step in steps.items()}
    for id, depends_on in graph.items():
        if unknown := set(depends_on) - graph.keys():
            raise ValueError(f"step '{id}' waits for {', '.join(sorted(unknown))}: no such step")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise ValueError(f"steps wait for each other: {' -> '.join(error.args[1])}") from None
    jobs = tuple(step[0] if isinstance(step, tuple) else step for step in steps.values())
    return NewWorkflow("dag", jobs, name, graph=graph)


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
