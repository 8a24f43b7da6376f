"""The workflows, and one workflow as a drawing and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.core.workflow import FAILED, WorkflowNode
from ojs_cluster.core.workflow_copy import copy_request
from ojs_cluster.store.engine.jobs.read_jobs import get as get_job
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.ui import raw
from ojs_cluster.ui.drawings.dag import HEIGHT, MAX_BOXES, WIDTH, Drawing, Step, draw
from ojs_cluster.ui.drawings.workflow_chart import LEFT, MIDDLE
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.shared.ordered import order_of
from ojs_cluster.ui.pages.timelines.workflow_events import read_events
from ojs_cluster.ui.pages.timelines.workflow_waits import (
    Queues,
    Wait,
    no_worker,
    paused_queue,
    read_queues,
    wait_of,
    without_hidden_keys,
)
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.redaction.rules import Path
from ojs_cluster.ui.serving import read_workers_by_queue
from ojs_cluster.ui.visit import Answer, Page, SeeOther, Visit, number_of_page
from ojs_cluster.ui.workers_by_queue import RECENT_MINUTES

_PER_PAGE: Final = 50
_PER_READ: Final = 200
_MAX_READS: Final = 5
"""Number of times that a page of a search reads workflows."""
_MAX_SUSPECTS: Final = 10
"""Maximum number of queues of which the list reads whether jobs have run in them."""
_PER_TABLE: Final = 200
"""Number of steps in a table: a thousand take a tenth of a second of the event loop."""
_MAX_FAILED: Final = 20
"""Maximum number of failed steps of which the page says whether they were retried by hand."""
_MAX_MESSAGE: Final = 200  # characters
_MAP_WIDTH: Final = 480
_MAP_HEIGHT: Final = 120
_MIN_MAP_HEIGHT: Final = 20
STATES: Final = ("running", "completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Row:
    """One step in the table of a workflow.

    Attributes:
        node: the step in the plan.
        step: the step in the drawing.
        started_at: when its last attempt started, as RFC 3339; empty if it has not started.
        ended_at: when it ended; empty if it has not.
        ran_ms: how long the last attempt ran, in milliseconds; None if it has not ended.
        attempts: the number of its attempts so far.
        error: the message of its error, or the type; empty if there is none.
        error_path: which of the two it is.
        wait: what it waits for; None if it runs or has ended.
    """

    node: WorkflowNode
    step: Step
    started_at: str
    ended_at: str
    ran_ms: int | None
    attempts: int
    error: str
    error_path: Path
    wait: Wait | None


async def show_all(visit: Visit) -> Answer:
    """List the workflows, newest first; those whose name or id contains what the user searches.

    Names are not indexed, so a page of a search reads a bounded number of workflows.
    """
    state = visit.query.get("state", "")
    state = state if state in STATES else ""
    order = order_of(visit, "workflows", {}, kept={"state": state})
    if is_job_id(order.filters["find"]):
        return SeeOther(visit.url("workflows", order.filters["find"]))
    cursor = next_cursor = visit.query.get("cursor", "")
    total: int | None = None
    found: list[dict[str, Any]] = []
    limit, reads = (_PER_READ, _MAX_READS) if order.is_given else (_PER_PAGE, 1)
    for _number in range(reads):
        body = await visit.get("workflows", state=state, cursor=next_cursor, limit=limit)
        listed = orjson.loads(body)
        total = None if order.is_given else listed.get("total")
        found += (each for each in listed["items"] if order.finds(each["name"], each["id"]))
        next_cursor = listed["pagination"].get("next_cursor") or ""
        if not next_cursor or len(found) >= _PER_PAGE:
            break
    return Page(
        "workflows.html",
        {
            "workflows": found,
            "stuck": await _stuck(visit, found),
            "order": order,
            "total": total,
            "states": STATES,
            "state": state,
            "cursor": cursor,
            "next_cursor": next_cursor,
        },
    )


async def _stuck(visit: Visit, listed: Sequence[Mapping[str, Any]]) -> dict[str, Wait]:
    """Return why running workflows do not continue, by their ids.

    All is known from the metrics of queues, which a process has. Only of those that seem to lack
    workers, the first ones are read.
    """
    admitted, by_queue = visit.principal.queues, await read_workers_by_queue(visit)
    names = {name for each in listed for name in each["metadata"].get("queues", ())}
    waits: dict[str, Wait] = {}
    try:
        queues = (await visit.app.cached_metrics.get()).queues
    except OJSError:
        return {}
    suspects = []
    for name in sorted(names.intersection(queues)):
        queue = queues[name]
        if admitted is not None and not admitted.admits(name):
            continue
        if queue.paused:
            waits[name] = paused_queue(name)
        elif (
            by_queue is not None
            and queue.jobs[State.AVAILABLE]
            and not queue.jobs[State.ACTIVE]
            and by_queue.may_lack(name, queue.oldest_ms)
        ):
            suspects.append(name)

    async def check(name: str) -> None:
        with suppress(OJSError):
            if not (await get_stats(visit.app.store, name)).has_run_since(RECENT_MINUTES):
                waits[name] = no_worker(name)

    await run_concurrently(suspects[:_MAX_SUSPECTS], check)
    return {
        each["id"]: waits[name]
        for each in listed
        for name in each["metadata"].get("queues", ())
        if name in waits
    }


async def show_one(visit: Visit, workflow_id: str) -> Answer:
    """Show one workflow."""
    # The API checks the scope and the queues of the key, and that the workflow exists.
    progress = orjson.loads(await visit.get("workflows", workflow_id, "progress"))
    found = await read_workflows.get(visit.app.store, workflow_id)
    if not found.jobs:
        raise NotFound("workflow", workflow_id)
    steps, drawing = await _draw(found)
    queues = await read_queues(visit, found)
    rows = _rows(found, steps, (visit.page - 1) * _PER_TABLE, queues, visit.clock.now_ms())
    rows = await _without_hidden(visit, rows)
    events = number_of_page(visit.query.get("events", ""))
    retried = await _retried(visit, found, rows)
    return Page(
        "workflow.html",
        {
            "workflow": found,
            "progress": progress,
            "drawing": drawing,
            "box": (WIDTH, HEIGHT),
            "history": await read_events(visit, workflow_id, _draw, events),
            "lane_left": LEFT,
            "lane_middle": MIDDLE,
            "rows": rows,
            "held_up": await _held_up(visit, found, steps, queues),
            "map_size": _map_size(drawing),
            "created_at": _time(found.created_ms),
            "page": visit.page,
            "has_more": len(steps) > visit.page * _PER_TABLE,
            "ended": found.state != "running",
            "paused": queues.paused,
            "may_cancel": found.state == "running" and visit.may_change(Scope.DATA_WRITE),
            "may_copy": found.state != "running" and visit.may_change(Scope.DATA_WRITE),
            "retried": retried,
            "refreshes": _may_change(found, retried),
        },
    )


async def copy(visit: Visit, workflow_id: str) -> Answer:
    """Create a workflow with the same steps, whose jobs may all run now."""
    # The API checks the scope and the queues of the key, and that the workflow exists.
    await visit.get("workflows", workflow_id, "progress")
    found = await read_workflows.get(visit.app.store, workflow_id, jobs=False)
    definitions = await read_workflows.read_definitions(visit.app.store, found)
    try:
        size = sum(map(len, definitions))
        limits = visit.app.settings.limits
        write = partial(copy_request, found.name, found.plan, definitions, limits=limits)
        body = await off_loop(write, size)
    except ValueError as error:
        why = _("There is no copy: %(reason)s.", reason=error)
        return SeeOther(visit.url("workflows", workflow_id), why, failed=True)
    response = await visit.send("POST", "workflows", body=body, action="workflow.copy")
    new_id = raw.text(raw.members(response), "id")
    return SeeOther(visit.url("workflows", new_id), _("This is the copy. All its steps run again."))


async def cancel(visit: Visit, workflow_id: str) -> Answer:
    """Cancel a workflow and its unfinished jobs."""
    await visit.send("POST", "workflows", workflow_id, "cancel", action="workflow.cancel")
    return visit.back(_("The workflow is cancelled."), "workflows")


async def _held_up(
    visit: Visit, found: WorkflowRecord, steps: Sequence[Step], queues: Queues
) -> tuple[Step, Wait] | None:
    """Return the enqueued step for which the workflow waits, and what this step waits for.

    Returns:
        The first step that does not start without an operator; while none runs, the first enqueued
        one; None if steps run, and after the end of the workflow.
    """
    if found.state != "running":
        return None
    now_ms = visit.clock.now_ms()
    by_queue = await read_workers_by_queue(visit)
    lacking = {
        name
        for name, stats in queues.stats.items()
        if by_queue is not None
        and stats.counts[State.AVAILABLE]
        and not stats.counts[State.ACTIVE]
        and not stats.has_run_since(RECENT_MINUTES)
        and by_queue.may_lack(name, now_ms - found.created_ms)
    }
    first: tuple[WorkflowNode, Wait] | None = None
    for node, job in zip(found.plan.jobs, found.jobs, strict=True):
        wait = wait_of(found, node, steps, queues, now_ms) if job.state == "pending" else None
        if wait is None:
            continue
        if wait.queue in lacking and not wait.is_stopped:
            wait = no_worker(wait.queue)
        if first is None or wait.is_stopped:
            first = node, wait
        if wait.is_stopped:
            break
    runs = any(job.state == "active" for job in found.jobs)
    if first is None or (runs and not first[1].is_stopped):
        return None
    [shown] = await without_hidden_keys(visit, [(first[1], first[0].type)])
    return None if shown is None else (steps[first[0].job], shown)


def _map_size(drawing: Drawing) -> tuple[int, int]:
    """Return width and height of the map of a drawing, which fits into a part of the window."""
    scale = min(_MAP_WIDTH / drawing.width, _MAP_HEIGHT / drawing.height)
    return round(drawing.width * scale), max(_MIN_MAP_HEIGHT, round(drawing.height * scale))


async def _retried(visit: Visit, found: WorkflowRecord, rows: Sequence[Row]) -> dict[str, str]:
    """Return the states of the jobs of failed steps that were retried by hand, by their ids.

    A retried job runs again, but the outcome of its step stays.
    """
    failed = [row.node.job_id for row in rows if row.step.state == FAILED][:_MAX_FAILED]
    states: dict[str, str] = {}

    async def check(job_id: str) -> None:
        with suppress(OJSError):  # its retention is over, or Redis does not answer
            job = await get_job(visit.app.store, job_id)
            if job.replays:
                states[job_id] = job.state.value

    await run_concurrently(failed, check)
    return states


def _rows(
    found: WorkflowRecord, steps: list[Step], start: int, queues: Queues, now_ms: int
) -> list[Row]:
    """Return the steps of one table with their times and waits, in the order of the plan."""
    jobs = zip(found.plan.jobs, steps, found.jobs, strict=True)
    return [
        Row(
            node,
            step,
            _time(outcome.started_ms),
            _time(outcome.finished_ms),
            outcome.finished_ms - outcome.started_ms
            if outcome.started_ms and outcome.finished_ms
            else None,
            outcome.attempt,
            *_message(outcome.error),
            wait_of(found, node, steps, queues, now_ms),
        )
        for node, step, outcome in islice(jobs, start, start + _PER_TABLE)
    ]


async def _without_hidden(visit: Visit, rows: Sequence[Row]) -> list[Row]:
    """Return the rows without what the operator hides in their errors and waits."""
    told = [(row.error, row.error_path, row.node.type) for row in rows]
    texts = await visit.redaction.texts_of(each for each in told if each[0])
    shown = iter(texts)
    rows = [replace(row, error=next(shown)[:_MAX_MESSAGE]) if row.error else row for row in rows]
    waits = await without_hidden_keys(visit, ((row.wait, row.node.type) for row in rows))
    return [replace(row, wait=wait) for row, wait in zip(rows, waits, strict=True)]


def _time(ms: int | None) -> str:
    return format_ms(ms).decode() if ms else ""


def _message(error: bytes | None) -> tuple[str, Path]:
    """Return the message of the error of a step, or its type, with its path; empty for no error."""
    members = raw.members(error) if error else {}
    message = raw.text(members, "message")
    return (message, ERROR_MESSAGE) if message else (raw.text(members, "type"), ERROR_TYPE)


def _may_change(found: WorkflowRecord, retried: Mapping[str, str]) -> bool:
    """Return whether a step may still start or end."""
    return (
        found.state == "running"
        or any(job.state == "active" for job in found.jobs)
        or not TERMINAL.issuperset(retried.values())
    )


async def _draw(found: WorkflowRecord) -> tuple[list[Step], Drawing]:
    if len(found.plan.nodes) <= MAX_BOXES:
        return _drawn(found)
    # Each of 400 jobs may wait for 400 others, which takes tenths of a second.
    return await trio.to_thread.run_sync(_drawn, found)


def _drawn(found: WorkflowRecord) -> tuple[list[Step], Drawing]:
    """Return the jobs of a workflow as a graph, and the drawing of the graph."""
    steps = _steps(found)
    return steps, draw(steps)


def _steps(found: WorkflowRecord) -> list[Step]:
    """Return the jobs of a workflow as a graph, without the inner nodes of nested workflows."""
    nodes = found.plan.nodes
    last_jobs: dict[int, set[int]] = {}
    types = Counter(node.type for node in nodes if node.job >= 0)
    return [
        Step(
            node.label
            or node.callback
            or (node.type if types[node.type] == 1 else f"{node.type} {node.job + 1}"),
            found.jobs[node.job].state,
            frozenset(_jobs_before(found, node, last_jobs)),
            "" if found.jobs[node.job].state == "waiting" else node.job_id,
            node.label or node.callback or node.type,
            node.type,
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
