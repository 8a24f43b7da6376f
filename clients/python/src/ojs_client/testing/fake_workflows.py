"""The workflows of the fake server (spec: ojs-workflows)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, Final

from ojs_client.testing.fake_jobs import FakeJob, new_id
from ojs_client.testing.job_store import JobStore
from ojs_client.testing.refusals import Refusal, conflict, invalid, not_found
from ojs_client.testing.times import iso

_MAX_LEVELS: Final = 5
_UNSUCCESSFUL: Final = frozenset({"failed", "cancelled", "skipped"})
_ENDED: Final = _UNSUCCESSFUL | {"completed"}
_OUTCOMES: Final = {"completed": "completed", "discarded": "failed", "cancelled": "cancelled"}
_CALLBACKS: Final = ("on_complete", "on_success", "on_failure")


@dataclass(slots=True, eq=False)
class Node:
    """A step of a workflow, or a workflow.

    Attributes:
        kind: ``job``, ``chain``, ``group``, ``batch`` or ``dag``.
        parent: the workflow around it; None for the outermost one.
        request: the enqueue request of a job.
        label: the name of a callback or the id of a step of a graph; empty for other steps.
        number: the number of a job among all jobs; -1 for a workflow.
        steps: the steps of a workflow.
        order: the steps of a graph, none of which waits for a later one.
        callbacks: the callbacks of a batch by name.
        waits_for: the steps that it waits for.
        job_id: the id of the job.
        job: the job; None before it is enqueued.
        state: waiting, running, completed, failed, cancelled or skipped.
    """

    kind: str
    parent: Node | None
    request: Any = None
    label: str = ""
    number: int = -1
    steps: list[Node] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)
    callbacks: dict[str, Node] = field(default_factory=dict)
    waits_for: list[Node] = field(default_factory=list)
    job_id: str = ""
    job: FakeJob | None = None
    state: str = "waiting"

    def walk(self) -> Iterator[Node]:
        """Yield the node and all nodes in it, in their order."""
        yield self
        for child in (*self.steps, *self.callbacks.values()):
            yield from child.walk()

    def result(self) -> Any:
        """Return the result: a chain has that of its last step, a group has a list."""
        if self.kind == "job":
            return None if self.job is None else self.job.result
        results = [step.result() for step in self.steps]
        return results[-1] if self.kind == "chain" else results

    def inputs(self) -> list[Any]:
        """Return the results that a step gets.

        A step of a chain gets the results of all steps before it, a step of a graph those of the
        steps that it waits for, and a callback those of all jobs.
        The first step of a nested workflow gets the inputs of the nested workflow.
        """
        node = self
        while node.parent is not None:
            sources = node.waits_for
            if node.parent.kind == "chain" and node in node.parent.steps:
                sources = node.parent.steps[: node.parent.steps.index(node)]
            if sources:
                return [source.result() for source in sources]
            node = node.parent
        return []


@dataclass(slots=True, eq=False)
class FakeWorkflow:
    """A workflow.

    Attributes:
        id: its id.
        name: its name.
        root: its outermost node.
        created_ms: when it was created, as Unix time in milliseconds.
        state: running, completed, failed or cancelled.
        finished_ms: when it has ended, as Unix time in milliseconds.
    """

    id: str
    name: str
    root: Node
    created_ms: int
    state: str = "running"
    finished_ms: int | None = None

    @property
    def jobs(self) -> list[Node]:
        """The jobs in their order, callbacks included."""
        return [node for node in self.root.walk() if node.kind == "job"]

    def json(self) -> dict[str, Any]:
        """Return the workflow as the server shows it."""
        callbacks = list(self.root.callbacks.values())
        value: dict[str, Any] = {
            "id": self.id,
            "type": self.root.kind,
            "name": self.name,
            "state": self.state,
            "created_at": iso(self.created_ms),
            "steps": [self._step_json(node) for node in self.jobs if node not in callbacks],
        }
        if callbacks:
            value["callbacks"] = {node.label: self._step_json(node) for node in callbacks}
        if self.finished_ms is not None:
            value["completed_at"] = iso(self.finished_ms)
        return value

    def _step_json(self, node: Node) -> dict[str, Any]:
        state = self._state_of(node)
        name = node.label or f"step-{node.number}"
        value: dict[str, Any] = {
            "index": node.number,
            "id": name,
            "name": name,
            "type": node.request["type"],
            "state": state,
            "job_id": None if state == "waiting" else node.job_id,
        }
        if node.job is not None and node.job.ended:
            if node.state == "completed" and node.job.result is not None:
                value["result"] = node.job.result
            elif node.job.errors and node.state != "completed":
                value["error"] = node.job.errors[-1]
        return value

    def _state_of(self, node: Node) -> str:
        if node.state == "running" and node.job is not None:
            live = "active" if node.job.state == "active" else "pending"
            return _OUTCOMES.get(node.job.state, live)
        if node.state == "skipped" or (node.state == "waiting" and self.state != "running"):
            return "cancelled"
        return node.state


class WorkflowStore:
    """The workflows of a fake server.

    Args:
        jobs: the jobs.
    """

    def __init__(self, jobs: Callable[[], JobStore]) -> None:
        self._jobs = jobs
        self._workflows: dict[str, FakeWorkflow] = {}

    def get(self, workflow_id: str) -> FakeWorkflow:
        """Return a workflow.

        Raises:
            Refusal: there is no such workflow.
        """
        if workflow_id not in self._workflows:
            raise not_found("workflow", workflow_id)
        return self._workflows[workflow_id]

    def create(self, body: Any) -> FakeWorkflow:
        """Store a workflow and enqueue its first jobs.

        Raises:
            Refusal: the workflow is invalid.
        """
        now_ms = self._jobs().now_ms
        root = _node(body, None, 1)
        jobs = [node for node in root.walk() if node.kind == "job"]
        for number, node in enumerate(jobs):
            # An invalid step is refused now.
            node.number, node.job_id = number, FakeJob.from_request(node.request, now_ms).id
        workflow = FakeWorkflow(new_id(now_ms), body.get("name") or "", root, now_ms)
        self._workflows[workflow.id] = workflow
        self._advance(workflow)
        return workflow

    def cancel(self, workflow_id: str) -> FakeWorkflow:
        """Cancel a workflow: no further step starts.

        Raises:
            Refusal: there is no such workflow, or it has ended.
        """
        workflow = self.get(workflow_id)
        if workflow.state != "running":
            raise conflict(f"workflow '{workflow_id}' is {workflow.state}", id=workflow_id)
        self._end(workflow, "cancelled")
        for node in workflow.jobs:
            if node.job is not None:
                self._jobs().cancel_waiting(node.job)
        return workflow

    def on_job_ended(self, job: FakeJob) -> None:
        """Record the end of a step, and enqueue the steps that may start now."""
        if job.workflow is None:
            return
        workflow = self.get(job.workflow[0])
        workflow.jobs[job.workflow[1]].state = _OUTCOMES[job.state]
        self._advance(workflow)

    def _advance(self, workflow: FakeWorkflow) -> None:
        if workflow.state != "running":
            return
        self._start(workflow, workflow.root)
        if workflow.state == "running" and workflow.root.state in _ENDED:
            self._end(workflow, workflow.root.state)

    def _end(self, workflow: FakeWorkflow, state: str) -> None:
        now_ms = self._jobs().now_ms
        workflow.state, workflow.finished_ms = state, now_ms
        if state != "cancelled":  # as on the server
            self._jobs().events.add(f"workflow.{state}", now_ms, workflow_id=workflow.id)

    def _start(self, workflow: FakeWorkflow, node: Node) -> None:
        """Enqueue the jobs of a node that may start, and set the state of the node."""
        if node.state in _ENDED:
            return
        if node.kind == "job":
            if node.job is None:
                self._enqueue(workflow, node)
            return
        node.state = "running"
        for step in node.order or node.steps:
            before = {each.state for each in step.waits_for}
            if before <= {"completed"}:
                self._start(workflow, step)
            elif before & _UNSUCCESSFUL:
                _skip(step)
        states = [step.state for step in node.steps]
        if any(state not in _ENDED for state in states):
            return
        success = all(state == "completed" for state in states)
        for name, callback in node.callbacks.items():
            if name == "on_complete" or (name == "on_success") == success:
                self._start(workflow, callback)
            else:
                _skip(callback)
        called = [callback.state for callback in node.callbacks.values()]
        if all(state in _ENDED for state in called):
            success = success and all(state in ("completed", "skipped") for state in called)
            node.state = "completed" if success else "failed"

    def _enqueue(self, workflow: FakeWorkflow, node: Node) -> None:
        node.state = "running"
        try:
            [(job, deduplicated)] = self._jobs().enqueue([{**node.request, "id": node.job_id}])
        except Refusal:  # a unique job that conflicts
            node.state = "failed"
            return
        if deduplicated:
            node.state = "completed"
            return
        node.job = job
        job.workflow = (workflow.id, node.number)
        job.parent_results = node.inputs()


def _skip(node: Node) -> None:
    for each in node.walk():
        each.state = "skipped"


def _node(body: Any, parent: Node | None, level: int) -> Node:
    """Return the node that a request describes.

    Raises:
        Refusal: it is invalid.
    """
    if not isinstance(body, dict):
        raise invalid("a step must be an object", "steps")
    if "steps" not in body and "jobs" not in body:
        request = {k: v for k, v in body.items() if k not in ("id", "name", "depends_on")}
        return Node("job", parent, request={"args": [], **request})
    if level > _MAX_LEVELS:
        raise invalid(f"workflows nest {_MAX_LEVELS} levels at most", "steps")
    kind, steps = body.get("type"), body.get("steps") or body.get("jobs")
    if kind not in ("chain", "group", "batch", "dag"):
        raise invalid("type must be chain, group, batch or dag", "type")
    if not steps:
        raise invalid("steps must be a non-empty array", "steps")
    node = Node(kind, parent)
    node.steps = [_node(step, node, level + 1) for step in steps]
    if kind == "chain":
        for before, step in pairwise(node.steps):
            step.waits_for = [before]
    if kind == "dag":
        _link(node, steps)
    for name, callback in (body.get("callbacks") or {}).items():
        if name not in _CALLBACKS:
            raise invalid(f"a callback is one of {', '.join(_CALLBACKS)}", f"callbacks.{name}")
        node.callbacks[name] = _node(callback, node, level + 1)
        node.callbacks[name].label = name
        node.callbacks[name].waits_for = node.steps
    if kind == "batch" and not node.callbacks:
        raise invalid("a batch needs a callback", "callbacks")
    return node


def _link(graph: Node, steps: list[dict[str, Any]]) -> None:
    """Let the steps of a graph wait for each other.

    Raises:
        Refusal: a step waits for one that does not exist, or for itself through others.
    """
    named = {step.get("id") or f"step-{i}": graph.steps[i] for i, step in enumerate(steps)}
    if len(named) < len(steps):
        raise invalid("two steps have the same id", "steps")
    for (label, node), step in zip(named.items(), steps, strict=True):
        node.label = label
        for other in step.get("depends_on") or ():
            if other not in named:
                raise invalid(f"there is no step '{other}'", "steps.depends_on")
            node.waits_for.append(named[other])
    try:
        sorter = TopologicalSorter({step: step.waits_for for step in graph.steps})
        graph.order = list(sorter.static_order())
    except CycleError:
        raise invalid("the step waits for itself, directly or through others", "steps") from None
