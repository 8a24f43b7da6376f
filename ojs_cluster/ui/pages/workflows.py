"""The workflows, and one workflow as a drawing and as a table."""

from __future__ import annotations

from typing import Final

import orjson
import trio

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.workflow import WorkflowNode
from ojs_cluster.store.workflows import read_workflows
from ojs_cluster.store.workflows.read_workflows import WorkflowRecord
from ojs_cluster.ui.dag import HEIGHT, MAX_BOXES, WIDTH, Drawing, Step, draw
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_MAX_ROWS: Final = 1000
STATES: Final = ("running", "completed", "failed", "cancelled")


async def show_all(visit: Visit) -> Answer:
    """List the workflows, newest first."""
    state = visit.query.get("state", "")
    state = state if state in STATES else ""
    cursor = visit.query.get("cursor", "")
    raw = await visit.get("workflows", state=state, cursor=cursor, limit=_PER_PAGE)
    listed = orjson.loads(raw)
    return Page(
        "workflows.html",
        {
            "workflows": listed["items"],
            "total": listed.get("total"),
            "states": STATES,
            "state": state,
            "cursor": cursor,
            "next_cursor": listed["pagination"].get("next_cursor"),
        },
    )


async def show_one(visit: Visit, workflow_id: str) -> Answer:
    """Show one workflow."""
    # The API checks the scope and the queues of the key, and that the workflow exists.
    progress = orjson.loads(await visit.get("workflows", workflow_id, "progress"))
    found = await read_workflows.get(visit.app.store, workflow_id)
    if not found.jobs:
        raise NotFound("workflow", workflow_id)
    if len(found.plan.nodes) <= MAX_BOXES:
        steps, drawing = _drawn(found)
    else:  # each of 400 jobs may wait for 400 others, which takes tenths of a second
        steps, drawing = await trio.to_thread.run_sync(_drawn, found)
    return Page(
        "workflow.html",
        {
            "workflow": found,
            "progress": progress,
            "drawing": drawing,
            "box": (WIDTH, HEIGHT),
            "rows": list(zip(found.plan.jobs, steps, strict=True))[:_MAX_ROWS],
            "may_cancel": found.state == "running" and visit.may_change(Scope.DATA_WRITE),
        },
    )


async def cancel(visit: Visit, workflow_id: str) -> Answer:
    """Cancel a workflow and its unfinished jobs."""
    await visit.send("POST", "workflows", workflow_id, "cancel", action="workflow.cancel")
    return visit.back("The workflow is cancelled.", "workflows")


def _drawn(found: WorkflowRecord) -> tuple[list[Step], Drawing]:
    """Return the jobs of a workflow as a graph, and the drawing of the graph."""
    steps = _steps(found)
    return steps, draw(steps)


def _steps(found: WorkflowRecord) -> list[Step]:
    """Return the jobs of a workflow as a graph, without the inner nodes of nested workflows."""
    nodes = found.plan.nodes
    last_jobs: dict[int, set[int]] = {}
    return [
        Step(
            node.label or node.callback or f"step-{node.job}",
            found.jobs[node.job].state,
            frozenset(_jobs_before(found, node, last_jobs)),
            "" if found.jobs[node.job].state == "waiting" else node.job_id,
        )
        for node in nodes
        if node.job >= 0
    ]


def _jobs_before(
    found: WorkflowRecord, node: WorkflowNode, last_jobs: dict[int, set[int]]
) -> set[int]:
    """Return the numbers of the jobs that a job waits for.

    A job without dependencies inside of a nested workflow waits for what that workflow waits for.

    Args:
        found: the workflow.
        node: the node of the job.
        last_jobs: the jobs with which nodes end, by node; filled as they are needed, because many
            jobs may wait for the same nodes.
    """
    nodes = found.plan.nodes
    while not node.deps and node.parent >= 0:
        node = nodes[node.parent]
    for dep in node.deps:
        if dep not in last_jobs:
            last_jobs[dep] = _last_jobs(found, dep)
    return set().union(*[last_jobs[dep] for dep in node.deps])


def _last_jobs(found: WorkflowRecord, number: int) -> set[int]:
    """Return the numbers of the jobs with which a node ends."""
    nodes = found.plan.nodes
    if nodes[number].job >= 0:
        return {nodes[number].job}
    children = found.plan.children.get(number, ())
    followed = {dep for child in children for dep in nodes[child].deps}
    return {job for child in children if child not in followed for job in _last_jobs(found, child)}
