"""Return the place of a job in its workflow (spec: ojs-execution-history 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.workflow import Plan
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.openapi.shapes.history import JobLineage, LineageChild
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs as store_jobs
from ojs_cluster.store.workflows import read_workflows

_MAX_LEVELS: Final = 10
"""Maximum number of levels of children in a response."""


async def get(app: App, request: Request, job_id: str) -> Response:
    """Return the place of a job in its workflow: the jobs before it and those after it.

    A job without a workflow, and one whose workflow has been removed, has no parents and no
    children. Jobs that the workflow has not enqueued yet are left out, and so are jobs of queues
    that the API key may not access.

    ``GET /ojs/v1/jobs/{id}/lineage`` (spec: ojs-execution-history 7.2)
    """
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    workflow_id = job.fields.get(f.WORKFLOW, b"").decode() or None
    parents: Mapping[str, list[str]] = {}
    if workflow_id is not None:
        parents = await _parents(app, workflow_id, request.queues)
    return replies.json_response(200, dict(_lineage(job.id, workflow_id, parents)))


async def _parents(
    app: App, workflow_id: str, queues: QueuePatterns | None
) -> Mapping[str, list[str]]:
    """Return the parents of each job of a workflow, by id; nothing if the workflow is removed."""
    try:
        workflow = await read_workflows.get(app.store, workflow_id)
    except NotFound:
        return {}
    visible = {
        node.job_id
        for node in workflow.plan.jobs
        if workflow.jobs[node.job].state != "waiting"
        and (queues is None or queues.admits(node.queue))
    }
    return {
        job_id: [parent for parent in found if parent in visible]
        for job_id, found in parents_of(workflow.plan).items()
        if job_id in visible
    }


def parents_of(plan: Plan) -> dict[str, list[str]]:
    """Return the ids of the jobs that each job waits for, by the id of the job.

    A job that waits for a nested workflow waits for the last jobs in it. The first jobs of a nested
    workflow wait for what the nested workflow waits for.
    """
    last: dict[int, list[int]] = {}
    for number in reversed(range(len(plan.nodes))):  # a parent has a smaller number
        below = plan.children.get(number, ())
        awaited = {dep for child in below for dep in plan.nodes[child].deps}
        ends = [end for child in below if child not in awaited for end in last[child]]
        last[number] = [number] if plan.nodes[number].job >= 0 else ends
    before: dict[int, list[int]] = {0: []}
    for number, node in enumerate(plan.nodes[1:], 1):
        own = [end for dep in node.deps for end in last[dep]]
        before[number] = own or before[node.parent]
    return {
        node.job_id: [plan.nodes[parent].job_id for parent in dict.fromkeys(before[number])]
        for number, node in enumerate(plan.nodes)
        if node.job >= 0
    }


def _lineage(job_id: str, workflow_id: str | None, parents: Mapping[str, list[str]]) -> JobLineage:
    children: dict[str, list[str]] = {}
    for child, found in parents.items():
        for parent in found:
            children.setdefault(parent, []).append(child)
    root, seen = job_id, {job_id}
    while parents.get(root) and parents[root][0] not in seen:
        root = parents[root][0]
        seen.add(root)
    shown, truncated = _descendants(job_id, children)
    own = parents.get(job_id, [])
    return {
        "job_id": job_id,
        "workflow_id": workflow_id,
        "root_id": root,
        "parent_id": own[0] if own else None,
        "parents": own,
        "children": shown,
        "truncated": truncated,
    }


def _descendants(
    job_id: str, children: Mapping[str, Iterable[str]]
) -> tuple[list[LineageChild], bool]:
    """Return the tree below a job, and whether levels are missing.

    A job that waits for several others is shown once, at its first place.
    """
    top: list[LineageChild] = []
    level: list[tuple[str, list[LineageChild]]] = [(job_id, top)]
    seen = {job_id}
    for _ in range(_MAX_LEVELS):
        following: list[tuple[str, list[LineageChild]]] = []
        for parent, shown in level:
            for child in children.get(parent, ()):
                if child not in seen:
                    seen.add(child)
                    entry: LineageChild = {"job_id": child, "children": []}
                    shown.append(entry)
                    following.append((child, entry["children"]))
        level = following
    return top, any(child not in seen for parent, _ in level for child in children.get(parent, ()))
