"""Write the request that creates a copy of a workflow.

A workflow keeps its plan, and an enqueue request for each job. Both together are the request of the
client, apart from spelling: callbacks become steps, and each step has the options of the workflow.
The copy runs all steps now, so it leaves out uniqueness and the times of the original steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits
from ojs_cluster.core.raw_json import Raw, join, object_members
from ojs_cluster.core.workflow import Plan, WorkflowNode
from ojs_cluster.core.workflow_request import parse_workflow

_OWN: Final = frozenset({"unique", "scheduled_at", "delay_until", "expires_at"})
"""Members of a step, or of its options, that a copy does not have. A unique step would be skipped
as a duplicate, and the times may be over."""


def copy_request(
    name: str,
    plan: Plan,
    definitions: Sequence[bytes],
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
) -> bytes:
    """Return the body of a request that runs the steps of a workflow again.

    Args:
        name: the name of the workflow; empty for none.
        plan: the plan of the workflow.
        definitions: one enqueue request per job of the plan, as JSON.
        limits: limits of the jobs.

    Raises:
        ValueError: the request would create another workflow, as from damaged data.
        OJSError: a job does not meet the limits of this server any more.
    """
    attributes = _composite(plan, 0, definitions)
    if name:
        attributes["name"] = _json(name)
    body = b"{%b}" % join(attributes)
    if _shape(parse_workflow(body, limits=limits).plan) != _shape(plan):
        raise ValueError("the workflow cannot be written as a request")
    return body


def _composite(plan: Plan, number: int, definitions: Sequence[bytes]) -> dict[str, Raw]:
    """Return the members of a chain, group, batch or graph with its steps."""
    children = plan.children[number]
    named = _named_dependencies(plan, number)
    labels = _labels(plan, children, {dep for deps in named.values() for dep in deps})
    steps: list[bytes] = []
    for child in children:
        node = plan.nodes[child]
        if node.job < 0:
            attributes = _composite(plan, child, definitions)
        else:
            attributes = _step(object_members(Raw(definitions[node.job])) or {})
        if named[child]:
            attributes["depends_on"] = _json([labels[dep] for dep in named[child]])
        if child in labels:
            attributes["id"] = _json(labels[child])
        if node.callback:
            options = dict(object_members(attributes.get("options", Raw(b"{}"))) or {})
            options["callback_type"] = _json(node.callback)
            attributes["options"] = Raw(b"{%b}" % join(options))
        steps.append(b"{%b}" % join(attributes))
    return {"type": _json(plan.nodes[number].kind), "steps": Raw(b"[%b]" % b",".join(steps))}


def _step(definition: Mapping[str, Raw]) -> dict[str, Raw]:
    """Return the members of a job and its options without those that a copy does not have."""
    attributes = {name: raw for name, raw in definition.items() if name not in _OWN}
    options = object_members(attributes.get("options", Raw(b"null")))
    if options and not _OWN.isdisjoint(options):
        kept = {name: raw for name, raw in options.items() if name not in _OWN}
        attributes["options"] = Raw(b"{%b}" % join(kept))
    return attributes


def _named_dependencies(plan: Plan, number: int) -> dict[int, Sequence[int]]:
    """Return what each child waits for, without what follows from the kind of its parent.

    A step of a chain waits for the step before it, and a callback for all steps.
    """
    children = plan.children[number]
    steps = {child for child in children if not plan.nodes[child].callback}
    before: set[int] = set()
    named: dict[int, Sequence[int]] = {}
    for child in children:
        node = plan.nodes[child]
        named[child] = () if set(node.deps) == (steps if node.callback else before) else node.deps
        if plan.nodes[number].kind == "chain" and not node.callback:
            before = {child}
    return named


def _labels(plan: Plan, children: Sequence[int], needed: Collection[int]) -> dict[int, str]:
    """Return the labels of siblings, with new ones for those in ``needed`` that have none."""
    labels = {child: plan.nodes[child].label for child in children if plan.nodes[child].label}
    used = set(labels.values())
    for child in sorted(needed):
        if child not in labels:
            label = f"step-{child}"
            while label in used:
                label += "'"
            labels[child] = label
            used.add(label)
    return labels


def _json(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _shape(plan: Plan) -> list[WorkflowNode]:
    """Return the nodes without what differs in a copy: ids, and labels that the copy needs."""
    return [
        msgspec.structs.replace(node, job_id="", label="", deps=tuple(sorted(node.deps)))
        for node in plan.nodes
    ]
