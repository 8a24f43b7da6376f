"""The plan of a workflow, and what follows from the outcomes of its jobs (spec: ojs-workflows).

Chain, group, batch and the graph by ``depends_on`` have the same model: a tree whose leaves are
jobs. The children of an inner node may wait for each other. A child of a chain waits for the child
before it, a child of a group waits for no child, and a callback of a batch waits for all jobs of
the batch. The *trigger* of a node says how the nodes that it waits for must end: with success, in
any way, or with at least one failure.

``evaluate`` is pure and monotone: if a job may start or the workflow has ended, a new outcome does
not change this. So any number of processes can evaluate at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

INNER_KINDS: Final = frozenset({"chain", "group", "batch", "dag"})
"""The types of a workflow, and the kinds of inner nodes of its plan."""
_MAX_LEVELS: Final = 50
"""Maximum nesting of a stored plan. A request may nest less (``workflow_request.MAX_LEVELS``)."""

WAITING: Final = "waiting"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
SKIPPED: Final = "skipped"
"""State of a node that will never start, because the nodes that it waits for did not end as its
trigger requires."""

ENDED: Final = frozenset({COMPLETED, FAILED, CANCELLED, SKIPPED})

STATUS_UNKNOWN: Final = "."
STATUS_ENQUEUED: Final = "q"
ENDED_STATUSES: Final[Mapping[str, str]] = {"c": COMPLETED, "d": FAILED, "x": CANCELLED}
"""Node statuses, one character per job: ``.`` unknown, ``q`` enqueued, or one of these."""

STATUS_OF_JOB_STATE: Final[Mapping[str, str]] = {
    "completed": "c",
    "discarded": "d",
    "cancelled": "x",
}

TRIGGERS: Final[Mapping[str, str]] = {
    "on_complete": "complete",
    "on_success": "success",
    "on_failure": "failure",
}

CALLBACK_STEPS: Final[Mapping[str, str]] = {name.replace("_", "-"): name for name in TRIGGERS}
"""Callbacks by step id. The Go SDK sends the callbacks of a batch as steps with these ids."""

ResultTree = int | list["ResultTree"]
"""The result of a node. The result of a job is the number of the job, and stands for the JSON that
the job has returned. The result of a group is the list of the results of its children, and the
result of a chain is the result of its last child."""


class WorkflowNode(msgspec.Struct, frozen=True, array_like=True):
    """One node of the tree; the root has number 0.

    Args:
        kind: ``job``, or the type of an inner node.
        parent: number of the parent node, -1 for the root.
        deps: numbers of the siblings that the node waits for.
        trigger: ``success``, ``complete`` or ``failure``: how these siblings must end.
        label: the step's id or name; '' for none.
        callback: the callback type; '' for a step.
        type: the job's type.
        queue: the job's queue.
        job: number of the job among all jobs, without inner nodes; -1 for an inner node.
        job_id: the id of the job.
        tenant: the tenant of the job, '' for none. All jobs of a workflow have the same tenant.
    """

    kind: str
    parent: int
    deps: tuple[int, ...] = ()
    trigger: str = "success"
    label: str = ""
    callback: str = ""
    type: str = ""
    queue: str = ""
    job: int = -1
    job_id: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow's immutable plan.

    Args:
        nodes: all nodes by number.
    """

    nodes: Sequence[WorkflowNode]
    children: Mapping[int, Sequence[int]] = field(init=False)
    order: Mapping[int, Sequence[int]] = field(init=False)
    """The children of each inner node, in an order in which no child waits for a later child."""
    jobs: Sequence[WorkflowNode] = field(init=False)
    numbers: Sequence[int] = field(init=False)
    """The number of each job's node."""

    def __post_init__(self) -> None:
        children: dict[int, list[int]] = {}
        for number, node in enumerate(self.nodes[1:], 1):
            children.setdefault(node.parent, []).append(number)
        put = object.__setattr__
        put(self, "children", children)
        put(self, "order", {n: _sorted(self.nodes, below) for n, below in children.items()})
        numbers = [number for number, node in enumerate(self.nodes) if node.job >= 0]
        put(self, "numbers", numbers)
        put(self, "jobs", [self.nodes[number] for number in numbers])

    @property
    def tenant(self) -> str:
        """The tenant of the jobs, '' for none."""
        return self.jobs[0].tenant if self.jobs else ""

    @property
    def steps(self) -> Sequence[int]:
        """The children of the root without callbacks: the steps whose number clients see."""
        return [n for n in self.children[0] if not self.nodes[n].callback]

    def encode(self) -> bytes:
        """Return the plan as JSON, to be stored."""
        return msgspec.json.encode(self.nodes)


class Cycle(ValueError):
    """Steps wait for each other.

    Args:
        numbers: the nodes that can never start.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__("steps wait for each other")
        self.numbers = numbers


_decode = msgspec.json.Decoder(list[WorkflowNode]).decode


def decode_plan(raw: bytes) -> Plan:
    """Return the plan that ``Plan.encode`` wrote.

    Raises:
        ValueError: the plan is malformed.
    """
    try:
        nodes = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError("the plan cannot be read") from error
    fault = _find_fault(nodes)
    if fault is not None:
        raise ValueError(fault)
    return Plan(nodes)


def _find_fault(nodes: Sequence[WorkflowNode]) -> str | None:
    """Return why nodes are no tree that ``evaluate`` can visit; None if they are one."""
    levels: list[int] = []
    parents: set[int] = set()
    jobs = 0
    for number, node in enumerate(nodes):
        is_job = node.job >= 0
        if is_job:
            jobs += 1
        if is_job and (node.kind != "job" or node.job != jobs - 1):
            return f"the number of job {jobs - 1} is wrong"
        if not is_job and node.kind not in INNER_KINDS:
            return f"node {number} has an unknown kind"
        if number == 0:
            if is_job or node.parent != -1:
                return "the first node is not the root"
        elif not 0 <= node.parent < number or nodes[node.parent].job >= 0:
            return f"node {number} has no parent"
        if node.trigger not in TRIGGERS.values():
            return f"node {number} has an unknown trigger"
        if any(not 0 < dep < len(nodes) or nodes[dep].parent != node.parent for dep in node.deps):
            return f"node {number} waits for a node that is no sibling"
        levels.append(levels[node.parent] + 1 if number else 0)
        if levels[-1] > _MAX_LEVELS:
            return "the nodes are nested too deeply"
        parents.add(node.parent)
    if any(node.job < 0 and number not in parents for number, node in enumerate(nodes)):
        return "an inner node has no children"
    return None if nodes else "the plan has no nodes"


@dataclass(frozen=True, slots=True)
class WorkflowEvaluation:
    """What follows from the node statuses.

    Args:
        state: state of the workflow.
        states: state of every node, in the order of their numbers.
        ready: numbers of the jobs that may start and are not known to be enqueued.
    """

    state: str
    states: Sequence[str]
    ready: Sequence[int]

    def count(self, plan: Plan, *states: str) -> int:
        """Return how many jobs are in one of these states."""
        return sum(
            node.job >= 0 and state in states
            for node, state in zip(plan.nodes, self.states, strict=True)
        )


def evaluate(plan: Plan, node_statuses: str) -> WorkflowEvaluation:
    """Return what follows from the node statuses.

    Args:
        plan: the plan.
        node_statuses: one character per job; the index is the number of the job.
    """
    visit = TreeVisit.of(plan, node_statuses)
    return WorkflowEvaluation(visit.states[0], visit.states, sorted(visit.ready))


@dataclass(frozen=True, slots=True)
class TreeVisit:
    """A visit of the nodes below an inner node, which collects their states.

    Args:
        plan: the plan.
        node_statuses: one character per job.
        states: the states of all nodes. The visit sets those of the nodes that it visits.
        ready: the visit adds the jobs that may start and are not known to be enqueued.
    """

    plan: Plan
    node_statuses: str
    states: list[str]
    ready: list[int]

    @classmethod
    def of(cls, plan: Plan, node_statuses: str, number: int = 0) -> TreeVisit:
        """Return a visit of a node that has started and of all nodes below it."""
        visit = cls(plan, node_statuses, [WAITING] * len(plan.nodes), [])
        visit.visit(number, started=True)
        return visit

    def visit(self, number: int, *, started: bool) -> None:
        """Visit a node and all below it.

        Args:
            number: the node.
            started: whether the node has started.
        """
        node = self.plan.nodes[number]
        if node.job >= 0:
            status = self.node_statuses[node.job]
            ended = ENDED_STATUSES.get(status)
            if ended is None and started and status == STATUS_UNKNOWN:
                self.ready.append(node.job)
            self.states[number] = ended or (RUNNING if started else WAITING)
            return
        for child in self.plan.order[number]:
            may_start = self.may_start(child) if started else None
            if may_start is False:
                self._skip(child)
            else:
                self.visit(child, started=may_start is True)
        if started:
            self.states[number] = self._outcome(number)

    def may_start(self, number: int) -> bool | None:
        """Return whether the node may start: False for never, None for not yet.

        The visit has visited the nodes that it waits for.
        """
        node = self.plan.nodes[number]
        dep_states = [self.states[dep] for dep in node.deps]
        if node.trigger == "success":
            if any(state in ENDED and state != COMPLETED for state in dep_states):
                return False
            return True if all(state == COMPLETED for state in dep_states) else None
        if any(state not in ENDED for state in dep_states):
            return None
        return node.trigger == "complete" or any(state != COMPLETED for state in dep_states)

    def _skip(self, number: int) -> None:
        self.states[number] = SKIPPED
        for child in self.plan.children.get(number, ()):
            self._skip(child)

    def _outcome(self, number: int) -> str:
        children = self.plan.children[number]
        if any(self.states[child] not in ENDED for child in children):
            return RUNNING
        for child in children:
            state = self.states[child]
            # Skipped callbacks do not affect the outcome.
            if state != COMPLETED and not (self.plan.nodes[child].callback and state == SKIPPED):
                return FAILED
        return COMPLETED


def inputs(plan: Plan, job: int) -> tuple[list[ResultTree], list[str]]:
    """Return the results that a job gets as inputs, and the labels of the steps they come from.

    A step of a chain gets the results of all steps before it, in their order. A callback gets the
    results of all jobs. A step with ``depends_on`` gets the results of the named steps, in that
    order. The first step of a nested workflow gets the inputs of the nested workflow.

    Args:
        plan: the plan.
        job: the number of the job.
    """
    number = input_node(plan, job)
    sources = _input_sources(plan, number) if number else ()
    return (
        [_result_tree(plan, source) for source in sources],
        [plan.nodes[source].label for source in sources],
    )


def input_node(plan: Plan, job: int) -> int:
    """Return the node whose inputs a job gets: its own or one above it, 0 for no inputs.

    Jobs with the same node have the same inputs.
    """
    number = plan.numbers[job]
    while number > 0 and not _input_sources(plan, number):
        number = plan.nodes[number].parent
    return number


def leaves(trees: Sequence[ResultTree]) -> Iterator[int]:
    """Yield the numbers of all jobs in these results."""
    for tree in trees:
        if isinstance(tree, int):
            yield tree
        else:
            yield from leaves(tree)


def render(tree: ResultTree, results: Mapping[int, bytes]) -> bytes:
    """Return the result of a node as JSON. A job without a result is null.

    Args:
        tree: the result.
        results: the JSON that each job has returned, by number of the job.
    """
    if isinstance(tree, int):
        return results.get(tree) or b"null"
    return b"[%b]" % b",".join([render(part, results) for part in tree])


def _input_sources(plan: Plan, number: int) -> Sequence[int]:
    """Return the numbers of the siblings whose results a node gets as inputs."""
    node = plan.nodes[number]
    if plan.nodes[node.parent].kind != "chain" or node.callback:
        return node.deps
    siblings = plan.children[node.parent]
    return [n for n in siblings[: siblings.index(number)] if not plan.nodes[n].callback]


def _result_tree(plan: Plan, number: int) -> ResultTree:
    node = plan.nodes[number]
    if node.job >= 0:
        return node.job
    results = [_result_tree(plan, n) for n in plan.children[number] if not plan.nodes[n].callback]
    return results[-1] if node.kind == "chain" else results


def _sorted(nodes: Sequence[WorkflowNode], siblings: Sequence[int]) -> list[int]:
    """Return siblings in an order in which no sibling waits for a later sibling.

    Raises:
        Cycle: there is no such order.
    """
    missing = {n: len(nodes[n].deps) for n in siblings}
    waiting: dict[int, list[int]] = {}
    for number in siblings:
        for dep in nodes[number].deps:
            waiting.setdefault(dep, []).append(number)
    order = [n for n in siblings if not missing[n]]
    for number in order:  # grows while it is read
        for follower in waiting.get(number, ()):
            missing[follower] -= 1
            if not missing[follower]:
                order.append(follower)
    if len(order) < len(siblings):
        raise Cycle(sorted(set(siblings) - set(order)))
    return order
