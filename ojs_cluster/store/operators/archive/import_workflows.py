"""Restore the workflows of an archive, after their jobs (see ``import_archive``)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.ids import id_in_shard
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.workflow import CANCELLED, RUNNING, STATUS_ENQUEUED, Plan, decode_plan
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.features.workflows import advance
from ojs_cluster.store.features.workflows.workflow_portions import (
    RESTORE_MS,
    is_large,
    store_portions,
)
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.archive.import_archive import RestoreOutcome, target_shard
from ojs_cluster.store.operators.archive.line_values import InvalidLine, WorkflowLine


async def restore_workflow(store: Store, line: WorkflowLine) -> RestoreOutcome:
    """Store a workflow whose jobs are stored already, and advance it.

    Raises:
        InvalidLine: the line cannot be stored.
        BackendUnavailable: Redis did not answer in time.
    """
    plan, statuses = await _plan(store, line)
    fields = {**line.fields, b"plan": plan.encode(), b"node_statuses": statuses.encode()}
    state = fields[b"state"].decode()
    if state != RUNNING and line.removed_ms is None:
        raise InvalidLine("a workflow that has ended needs 'removed_ms'")
    effect = {RUNNING: "workflow_start", CANCELLED: "workflow_cancel"}.get(state, "")
    owner = store.keys.shard_of_id(line.id)
    remaining = await _restore_portions(store, replace(line, fields=fields))
    if remaining is None:
        return "exists"
    reply = await store.run(
        owner,
        "restore_workflow",
        [
            *(
                owner.workflow(line.id),
                owner.workflow_definitions(line.id),
                owner.workflow_results(line.id),
            ),
            *(
                owner.workflows,
                owner.ended_workflows,
                owner.outbox_due,
                owner.outbox,
                owner.running_workflows,
            ),
        ],
        [
            *(line.id, fields[b"created"], "" if line.removed_ms is None else line.removed_ms),
            *(effect, len(remaining.fields), len(remaining.definitions)),
            *(part for pair in remaining.fields.items() for part in pair),
            *(part for pair in enumerate(remaining.definitions) for part in pair),
            *(part for pair in remaining.results.items() for part in pair),
        ],
        idempotent=True,
    )
    if reply[0] == b"ok":
        await deliver(store, owner, reply[1])
    if state == RUNNING:
        await _advance_for_ended_jobs(store, line.id, plan, statuses)
    return "created" if reply[0] == b"ok" else "exists"


async def _plan(store: Store, line: WorkflowLine) -> tuple[Plan, str]:
    """Return the plan with ids in the shards of their queues, and the status of its nodes.

    A step that was enqueued but has no stored job is enqueued again. A stored job keeps its id.
    """
    try:
        plan = decode_plan(line.fields[b"plan"])
        statuses = line.fields[b"node_statuses"].decode()
        ids = {node.job_id: store.keys.shard_of_id(node.job_id) for node in plan.jobs}
    except (msgspec.MsgspecError, ValueError):
        raise InvalidLine("'plan' is not a plan as an export writes it") from None
    if not len(statuses) == len(line.definitions) == len(plan.jobs):
        raise InvalidLine("'plan', 'node_statuses' and 'definitions' have different lengths")
    for node, definition in zip(plan.jobs, line.definitions, strict=True):
        try:
            job = parse_job(definition, limits=STORED_LIMITS)
            # The plans of versions before tenants name none.
            if job.queue != node.queue or node.tenant not in ("", job.tenant):
                raise InvalidLine("'definitions' and 'plan' name different queues or tenants")
        except OJSError as error:
            raise InvalidLine(f"one of 'definitions' is not a valid job: {error}") from None
    nodes = list(plan.nodes)
    for number, node in enumerate(nodes):
        if node.job < 0 or statuses[node.job] not in f".{STATUS_ENQUEUED}":
            continue
        if await _state(store, node.job_id) is not None:
            continue
        # The status unknown makes the workflow enqueue the step.
        statuses = f"{statuses[: node.job]}.{statuses[node.job + 1 :]}"
        shard = await target_shard(store, node.queue, node.job_id)
        if ids[node.job_id] is not shard:
            # Repeated imports give the job the same id.
            job_id = id_in_shard(node.job_id, shard.index, len(store.keys))
            nodes[number] = msgspec.structs.replace(node, job_id=job_id)
    return Plan(nodes), statuses


async def _advance_for_ended_jobs(
    store: Store, workflow_id: str, plan: Plan, statuses: str
) -> None:
    """Advance a workflow for its jobs that have ended before it was stored."""
    for number, node in enumerate(plan.jobs):
        if statuses[number] != STATUS_ENQUEUED:
            continue
        state = await _state(store, node.job_id)
        if state in TERMINAL:
            shard = await read_jobs.shard_of(store, node.queue, node.job_id)
            payload = f"{workflow_id} {number} {node.job_id} {state}"
            await advance.on_job_ended(store, shard, payload.encode())


async def _state(store: Store, job_id: str) -> State | None:
    try:
        found: Any = await read_jobs.get(store, job_id)
    except NotFound:
        return None
    return State(found.fields[f.STATE].decode()) if f.STATE in found.fields else None


async def _restore_portions(store: Store, line: WorkflowLine) -> WorkflowLine | None:
    """Store a large workflow of an archive in portions, except the record that makes it visible.

    Args:
        store: the store.
        line: the workflow's line in an archive.

    Returns:
        The line without the stored parts, for the script that stores the record; None when the
        workflow exists.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    fields, results = line.fields, line.results
    if not is_large(list(fields.values()), line.definitions, list(results.values())):
        return line
    owner = store.keys.shard_of_id(line.id)
    store_fields = partial(store_portions, store, owner, line.id, wait_ms=RESTORE_MS)
    job_fields = {name: value for name, value in fields.items() if _is_job_field(name)}
    definitions = list(enumerate(line.definitions))
    if not (
        await store_fields(owner.workflow(line.id), list(job_fields.items()))
        and await store_fields(owner.workflow_definitions(line.id), definitions)
        and await store_fields(owner.workflow_results(line.id), list(results.items()))
    ):
        return None
    rest = {name: value for name, value in fields.items() if name not in job_fields}
    return replace(line, fields=rest, definitions=(), results={})


def _is_job_field(name: bytes) -> bool:
    """Return whether a field of a workflow's record has the times or the error of a job."""
    return name[:1] in (b"t", b"e") and name[1:].isdigit()
