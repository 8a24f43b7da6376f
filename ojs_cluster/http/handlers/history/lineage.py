"""Return the place of a job in its workflow (spec: ojs-execution-history 5)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import MalformedRecord, NotFound
from ojs_cluster.core.workflow import RUNNING, STATUS_ENQUEUED, WAITING
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.history.workflow_graph import WorkflowGraph
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.history import JobLineage, LineageChild
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.off_loop import off_loop

_MAX_LEVELS: Final = 10
"""Maximum number of levels of children in a response."""
_SMALL: Final = 1000
"""Number of nodes of a workflow above which a thread follows them. As many take 3 ms."""


async def get(app: App, request: Request, job_id: str) -> Response:
    """Return the place of a job in its workflow: the jobs before it and those after it.

    A job without a workflow, and one whose workflow has been removed, has no parents and no
    children. Jobs that the workflow has not enqueued yet are left out, and so are jobs of queues
    that the API key may not access. If a job was moved to such a queue, the response has no other
    job, because the workflow does not tell which one was moved.

    (spec: ojs-execution-history 7.2)
    """
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    workflow_id = job.fields.get(f.WORKFLOW, b"").decode() or None
    workflow = None
    if workflow_id is not None:
        with suppress(NotFound, MalformedRecord):  # it has been removed, or is damaged
            workflow = await read_workflows.get(app.store, workflow_id, jobs=False)
    lineage: JobLineage = _without_workflow(job.id, workflow_id)
    queues = request.queues
    if workflow is not None and (queues is None or all(map(queues.admits, workflow.moved_to))):
        follow = partial(_lineage, job.id, workflow, queues)
        lineage = await off_loop(follow, len(workflow.plan.nodes), large=_SMALL)
    return replies.json_response(200, lineage)


def _without_workflow(job_id: str, workflow_id: str | None) -> JobLineage:
    return {
        "job_id": job_id,
        "workflow_id": workflow_id,
        "root_id": job_id,
        "parent_id": None,
        "parents": [],
        "children": [],
        "truncated": False,
    }


def _lineage(job_id: str, workflow: WorkflowRecord, queues: QueuePatterns | None) -> JobLineage:
    nodes = workflow.plan.nodes
    statuses = workflow.fields[b"node_statuses"].decode()
    states = workflow.evaluation.states
    runs = workflow.state == RUNNING
    visible = {
        number
        for number, node in enumerate(nodes)
        if node.job >= 0
        and not (runs and statuses[node.job] != STATUS_ENQUEUED and states[number] == WAITING)
        and (queues is None or queues.admits(node.queue))
    }
    lineage = _without_workflow(job_id, workflow.id)
    number = next((each for each in visible if nodes[each].job_id == job_id), None)
    if number is None:
        return lineage
    graph = WorkflowGraph(workflow.plan, visible)
    parents = [nodes[parent].job_id for parent in graph.parents(number)]
    lineage["root_id"] = nodes[graph.root(number)].job_id
    lineage["parent_id"] = parents[0] if parents else None
    lineage["parents"] = parents
    lineage["children"], lineage["truncated"] = _descendants(graph, number)
    return lineage


def _descendants(graph: WorkflowGraph, number: int) -> tuple[list[LineageChild], bool]:
    """Return the tree below a job, and whether levels are missing.

    A job that waits for several others is shown once, at its first place.
    """
    top: list[LineageChild] = []
    level: list[tuple[int, list[LineageChild]]] = [(number, top)]
    for _ in range(_MAX_LEVELS):
        following: list[tuple[int, list[LineageChild]]] = []
        for parent, shown in level:
            for child in graph.take_children(parent):
                job_id = graph.plan.nodes[child].job_id
                entry: LineageChild = {"job_id": job_id, "children": []}
                shown.append(entry)
                following.append((child, entry["children"]))
        level = following
    return top, any(graph.take_children(parent) for parent, _ in level)
