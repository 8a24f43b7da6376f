"""Create, read, list and cancel workflows (spec: ojs-workflows 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from ojs_cluster.core.errors import InvalidRequest, QueueFull
from ojs_cluster.core.payload_limits import MAX_BATCH_JOBS
from ojs_cluster.core.workflow import (
    CALLBACK_STEPS,
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    RUNNING,
    WorkflowNode,
)
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_new_workflow
from ojs_cluster.http.cursor_kinds import WORKFLOWS
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.http.shapes import workflows as shapes
from ojs_cluster.store.engine.args_validation import check_workflow
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.features.workflows import workflows as store_workflows
from ojs_cluster.store.features.workflows.read_workflows import JobOutcome, WorkflowRecord
from ojs_cluster.store.features.workflows.visible_workflows import list_visible
from ojs_cluster.store.ground.off_loop import off_loop

_STATES: Final = {
    RUNNING: RUNNING,
    "active": RUNNING,
    "pending": "pending",
    COMPLETED: COMPLETED,
    FAILED: FAILED,
    CANCELLED: CANCELLED,
}
"""Workflow states by the name that a filter may use. No workflow of this server is ever pending."""
_MAX_READS: Final = 4
"""Maximum number of calls of ``list_visible`` for one page."""
_MAX_QUEUES: Final = 10
"""Maximum number of queues that a summary names."""
_MANY_NODES: Final = 10_000
"""Number of nodes of workflows above which a thread summarizes them. As many take 3 ms."""


async def create(app: App, request: Request) -> Response:
    """Create a workflow and enqueue its first jobs.

    (spec: ojs-http-binding 14.1)
    """
    if request.body:
        require_json(request)
    trace = fields.trace(app, request)
    limits, tenant = app.settings.limits, request.tenant or ""
    parse = partial(parse_workflow, request.body, limits=limits, trace=trace, tenant=tenant)
    new = await off_loop(parse, len(request.body))
    check_new_workflow(request.queues, new, app.settings.limits)
    warnings = await check_workflow(app.store, new)
    try:
        created = await store_workflows.create(app.store, new)
    except QueueFull as full:
        nodes = (node for node in new.plan.jobs if node.queue == full.details.get("queue"))
        job_type = next((node.type for node in nodes), "")
        await app.store.rejections.report(app.store, app.store.events_arg, full, job_type)
        raise
    response = _response(201, created, (("Location", f"/ojs/v1/workflows/{created.id}"),))
    return replies.with_warnings(response, warnings)


async def get(app: App, request: Request, workflow_id: str) -> Response:
    """Return a workflow with its steps, all or a page of them.

    Jobs are counted from 0 in the order of the request, nested ones and callbacks included. With
    ``limit=0`` the response has no step, and its size does not grow with the workflow. The failures
    and the start that a response names are those of its page.

    (spec: ojs-http-binding 14.2)
    """
    given = query.parameters(request.query)
    page = read_workflows.ALL_JOBS
    if given.get("limit") or given.get("offset"):
        start = query.integer(given, "offset", 0, low=0, high=MAX_BATCH_JOBS)
        limit = query.integer(given, "limit", MAX_BATCH_JOBS, low=0, high=MAX_BATCH_JOBS)
        page = range(start, start + limit)
    workflow = await read_workflows.get(app.store, workflow_id, page=page)
    return _response(200, workflow, page=page)


async def cancel(app: App, _request: Request, workflow_id: str) -> Response:
    """Cancel a workflow and its unfinished jobs. The request body is ignored.

    (spec: ojs-http-binding 14.3)
    """
    workflow = await store_workflows.cancel(app.store, workflow_id)
    return _response(
        200, workflow, cancelled_steps=sum(job.state == CANCELLED for job in workflow.jobs)
    )


async def progress(app: App, _request: Request, workflow_id: str) -> Response:
    """Return the counts of a workflow without its jobs.

    (spec: ojs-workflows 11)
    """
    workflow = await read_workflows.get(app.store, workflow_id, jobs=False)
    counts = _counts(workflow)
    total = counts["job_count"]
    ended = counts["completed_count"] + counts["failed_count"]
    value: shapes.WorkflowProgressAnswer = {
        "workflow_id": workflow.id,
        "id": workflow.id,
        "state": workflow.state,
        "progress": 1.0 if workflow.state == COMPLETED else round(ended / total, 4),
        "percentage": 100.0 if workflow.state == COMPLETED else round(100 * ended / total, 2),
        "total": total,
        "completed": counts["completed_count"],
        "failed": counts["failed_count"],
        **counts,
        **_steps(workflow),
    }
    return replies.json_response(200, value)


async def list_workflows(app: App, request: Request) -> Response:
    """List workflows without their steps, newest first.

    If the request is for one tenant, or its API key is restricted to some queues, the list has only
    the workflows that it may access.
    Their number is not known, so ``total`` is absent. A page may then have fewer entries than
    ``limit`` although other pages follow, and has a ``next_cursor``.

    (spec: ojs-workflows 11)
    """
    given = query.parameters(request.query)
    state = _state(given.get("state"))
    if request.is_restricted:
        return await _list_within(app, given, request, state)
    if state is not None:
        return await _list_in_state(app, given, state)
    page = query.numbered_page(given, WORKFLOWS, default=50, max_limit=200)
    workflows, total, last = await read_workflows.list_workflows(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    pages = query.pagination(page, len(workflows), total, last)
    listed = await _summaries(workflows)
    return Response(
        200,
        b'{"workflows":%b,"items":%b,"total":%d,"pagination":%b}'
        % (listed, listed, total, replies.dumps(pages)),
    )


def _state(text: str | None) -> str | None:
    """Return the state that a filter names, None for any.

    Raises:
        InvalidRequest: there is no such state.
    """
    if not text:
        return None
    if text not in _STATES:
        raise InvalidRequest(f"state must be one of {', '.join(_STATES)}", field="state")
    return _STATES[text]


async def _list_in_state(app: App, given: Mapping[str, str], state: str) -> Response:
    """Return a page of the workflows in one state.

    States are not indexed, so a page searches a bounded number of workflows. If it ends before all
    were searched, ``total`` is a lower bound, and ``next_cursor`` continues where the search ended.
    """
    page = query.numbered_page({**given, "cursor": ""}, default=50, max_limit=200)
    given_cursor = given.get("cursor") or None
    offset = 0 if given_cursor else page.offset
    workflows: list[WorkflowRecord] = []
    cursor = given_cursor
    for _ in range(_MAX_READS):
        missing = offset + page.limit - len(workflows)
        more, cursor = await list_visible(
            app.store, None, limit=missing, cursor=cursor, state=state
        )
        workflows += more
        if cursor is None or len(workflows) >= offset + page.limit:
            break
    shown = workflows[offset:]
    following: list[WorkflowRecord] = []
    if cursor is not None:
        # A cursor at the end of the list would lead to an empty page, so one more entry is read.
        following, further = await list_visible(
            app.store, None, limit=1, cursor=cursor, state=state
        )
        if not following and further is None:
            cursor = None
    pages = replies.pagination(
        limit=page.limit,
        shown=len(shown),
        offset=offset,
        total=None if given_cursor else len(workflows) + len(following),
        cursor=cursor,
    )
    pages["has_more"] = cursor is not None
    pages["total_exact"] = cursor is None and given_cursor is None
    listed = await _summaries(shown)
    return Response(
        200,
        b'{"workflows":%b,"items":%b,"pagination":%b}' % (listed, listed, replies.dumps(pages)),
    )


async def _list_within(
    app: App, given: Mapping[str, str], request: Request, state: str | None
) -> Response:
    cursor = given.get("cursor") or None
    page = query.numbered_page({**given, "cursor": ""}, default=50, max_limit=200)
    if not cursor and page.offset:
        raise InvalidRequest(
            "this request may access some workflows only, so the list has no offsets: use the "
            "cursor",
            field="page" if given.get("page") else "offset",
        )
    limit = page.limit
    workflows, next_cursor = await list_visible(
        app.store,
        request.queues,
        limit=limit,
        cursor=cursor,
        state=state,
        tenant=request.tenant,
    )
    pages = replies.pagination(limit=limit, shown=len(workflows), cursor=next_cursor)
    listed = await _summaries(workflows)
    return Response(
        200,
        b'{"workflows":%b,"items":%b,"pagination":%b}' % (listed, listed, replies.dumps(pages)),
    )


def _response(
    status: int,
    workflow: WorkflowRecord,
    headers: tuple[tuple[str, str], ...] = (),
    page: range = read_workflows.ALL_JOBS,
    **more: int,
) -> Response:
    """Return a response with the members of a workflow, in ``workflow`` and at the top level.

    ``jobs`` repeats ``steps`` without the results, because results may have megabytes. The SDKs
    read results from ``steps``.

    Args:
        status: the status.
        workflow: the workflow.
        headers: response headers.
        page: numbers of the jobs that the response has.
        **more: other members of the workflow.
    """
    summary = replies.dumps(_summary(workflow))[1:-1]
    # Callbacks of nested batches are listed as steps, because their names may repeat. Callbacks of
    # the Go SDK are listed as steps, because it sends callbacks as steps and reads only steps.
    nodes = workflow.plan.jobs[page.start : page.stop]
    callbacks = [node for node in nodes if node.callback and node.parent == 0]
    listed = [
        node
        for node in nodes
        if not (node.callback and node.parent == 0) or node.label in CALLBACK_STEPS
    ]
    steps = replies.array(_job(node, workflow) for node in listed)
    jobs = replies.array(_job(node, workflow, result=False) for node in listed)
    body = b'%b,"steps":%b,"jobs":%b' % (summary, steps, jobs)
    if callbacks:
        by_name = {node.callback: _job(node, workflow) for node in callbacks}
        pairs = b",".join(b'"%b":%b' % (name.encode(), job) for name, job in by_name.items())
        body += b',"callbacks":{%b}' % pairs
    failed = [
        (node, workflow.jobs[node.job]) for node in nodes if workflow.jobs[node.job].state == FAILED
    ]
    if failed:
        body += b',"failed_step_index":%d,"failed_job_ids":%b,"errors":%b' % (
            failed[0][0].job,
            replies.dumps([node.job_id for node, _ in failed]),
            replies.array(_error(node, outcome) for node, outcome in failed),
        )
    start_times = [outcome.started_ms for outcome in workflow.jobs if outcome.started_ms]
    if start_times:
        body += b',"started_at":"%b"' % replies.iso(min(start_times)).encode()
    body += b"".join(b',"%b":%d' % (name.encode(), value) for name, value in more.items())
    body = b'{"workflow":{%b},%b}' % (body, body)
    return Response(status, body, headers, object_ids=lambda: {"workflow_id": workflow.id})


async def _summaries(workflows: Sequence[WorkflowRecord]) -> bytes:
    """Return the summaries of workflows as a JSON array."""

    def summarize() -> bytes:
        return replies.array(replies.dumps(_summary(workflow)) for workflow in workflows)

    nodes = sum(len(workflow.plan.nodes) for workflow in workflows)
    return await off_loop(summarize, nodes, large=_MANY_NODES)


def _summary(workflow: WorkflowRecord) -> shapes.WorkflowSummary:
    times: shapes.WorkflowTimes = {"created_at": replies.iso(workflow.created_ms)}
    if workflow.finished_ms is not None:
        finished_at = replies.iso(workflow.finished_ms)
        times["completed_at"] = finished_at
        if workflow.state == CANCELLED:
            times["cancelled_at"] = finished_at
    metadata: shapes.WorkflowMetadata = {**times, **_counts(workflow)}
    # It is not known which steps were moved, and the queue of the plan may be the wrong one.
    if workflow.state == RUNNING and not workflow.moved_to:
        states = workflow.evaluation.states
        started = (
            n.queue
            for n, state in zip(workflow.plan.nodes, states, strict=True)
            if n.job >= 0 and state == RUNNING
        )
        metadata["queues"] = list(islice(dict.fromkeys(started), _MAX_QUEUES))
    return {
        "id": workflow.id,
        "type": workflow.type,
        "name": workflow.name,
        "state": workflow.state,
        **_steps(workflow),
        **times,
        "metadata": metadata,
    }


def _steps(workflow: WorkflowRecord) -> shapes.StepCounts:
    """Return the counts of the outermost steps. A nested workflow counts as one step."""
    steps = workflow.plan.steps
    completed = sum(workflow.evaluation.states[number] == COMPLETED for number in steps)
    return {
        "step_count": len(steps),
        "steps_total": len(steps),
        "steps_completed": completed,
        "jobs_total": len(steps),
        "jobs_completed": completed,
    }


def _counts(workflow: WorkflowRecord) -> shapes.WorkflowCounts:
    evaluation, plan = workflow.evaluation, workflow.plan
    return {
        "job_count": len(plan.jobs),
        "completed_count": evaluation.count(plan, COMPLETED),
        "failed_count": evaluation.count(plan, FAILED),
        "cancelled_count": evaluation.count(plan, *(ENDED - {COMPLETED, FAILED})),
    }


def _job(node: WorkflowNode, workflow: WorkflowRecord, *, result: bool = True) -> bytes:
    outcome = workflow.jobs[node.job]
    nodes = workflow.plan.nodes
    value: shapes.WorkflowStep = {
        "index": node.job,
        "id": node.label or f"step-{node.job}",
        "name": node.label or f"step-{node.job}",
        "type": node.type,
        "queue": node.queue,
        "state": outcome.state,
        "job_id": None if outcome.state == "waiting" else node.job_id,
        "depends_on": [_label(nodes[dep], dep) for dep in node.deps],
    }
    if node.callback:
        value["callback"] = node.callback
    if outcome.attempt:
        value["attempt"] = outcome.attempt
    if outcome.started_ms:
        value["started_at"] = replies.iso(outcome.started_ms)
    if outcome.finished_ms:
        value["completed_at"] = replies.iso(outcome.finished_ms)
    body = replies.dumps(value)[:-1]
    if result and outcome.result:
        body += b',"result":' + outcome.result
    if outcome.error:
        body += b',"error":' + outcome.error
    return body + b"}"


def _label(node: WorkflowNode, number: int) -> str:
    """Return the label of a node that others depend on. An inner node has no job (-1)."""
    return node.label or (f"step-{node.job}" if node.job >= 0 else f"{node.kind}-{number}")


def _error(node: WorkflowNode, outcome: JobOutcome) -> bytes:
    job = b'"job_id":"%b"' % node.job_id.encode()
    if outcome.error is None:
        return b'{%b,"code":"discarded","message":"","attempt":%d}' % (job, outcome.attempt)
    members = outcome.error.strip()[1:]
    return b"{%b%b%b" % (job, b"" if members.lstrip() == b"}" else b",", members)
