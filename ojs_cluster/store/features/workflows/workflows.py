"""Workflows: create, cancel, remove after retention (spec: ojs-workflows 11).

A workflow's record lives in the shard that its own id names, and its jobs in the shards of their
queues. Creation stores the record, with the ids of all jobs, and the effect that starts it.
``advance`` handles that effect and all that follows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from ojs_cluster.core.errors import (
    BackendUnavailable,
    Conflict,
    MalformedRecord,
    NotFound,
    PayloadTooLarge,
)
from ojs_cluster.core.jobs.ids import is_job_id, new_job_id
from ojs_cluster.core.workflow import (
    CANCELLED,
    STATUS_UNKNOWN,
    Plan,
    evaluate,
)
from ojs_cluster.core.workflow_request import NewWorkflow
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.tenants import admission
from ojs_cluster.store.features.workflows import remove_malformed, validate_workflow
from ojs_cluster.store.features.workflows.read_workflows import (
    JobOutcome,
    WorkflowRecord,
    get,
    read_fields,
    record_of,
)
from ojs_cluster.store.features.workflows.workflow_portions import is_large, store_portions
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.sweep_result import SweepResult

MAX_PLAN_BYTES = 3 * 1024 * 1024
"""Maximum size of a workflow's plan in bytes, because one script stores the whole plan."""
_RECORD_WITHIN_MS = 10 * 60_000
"""Time in ms after which the janitor removes definitions that were stored without a workflow."""


async def create(store: Store, new: NewWorkflow) -> WorkflowRecord:
    """Store a workflow and start it. When the function returns, the workflow is durable.

    Args:
        store: the store.
        new: the workflow.

    Raises:
        QueueFull: the queue of a first step takes no more jobs, or a limit of the tenant is
            reached.
        TooManyQueues: there are as many queues as allowed.
        TooManyRateLimitKeys: there are as many rate limit keys as allowed.
        PayloadTooLarge: the plan has more than ``MAX_PLAN_BYTES``.
        BackendUnavailable: Redis did not answer in time.
    """
    for limit_key in new.limit_keys:
        await store.limit_keys.check_key(store, limit_key)
    await store.queues.ensure(store, dict.fromkeys(node.queue for node in new.plan.jobs))
    now_ms = store.clock.now_ms()
    shards = len(store.keys)
    workflow_id = new_job_id(int.from_bytes(os.urandom(4)) % shards, shards, now_ms)
    await store.partitions.refresh_if_stale(store)
    plan = _plan_with_ids(store, new, now_ms)
    encoded = plan.encode()
    if len(encoded) > MAX_PLAN_BYTES:
        raise PayloadTooLarge(
            "the steps of the workflow wait for too many others",
            field="steps",
            limit=len(plan.nodes),
        )
    statuses = STATUS_UNKNOWN * len(plan.jobs)
    first = [plan.jobs[number] for number in evaluate(plan, statuses).ready]
    if first and first[0].tenant:  # all jobs of a workflow have the same tenant
        await admission.admit(store, first[0].tenant, len(first))
    # The last check, because it makes room in queues that drop their oldest jobs.
    await depth_bounds.check_bounds(
        store, [(store.keys.shard_of_id(job.job_id), job.queue) for job in first]
    )
    created_ms = await _store_new(store, workflow_id, new, plan, encoded, statuses)
    record = record_of(
        workflow_id,
        {
            b"type": new.type.encode(),
            b"name": new.name.encode(),
            b"state": b"running",
            b"created": b"%d" % created_ms,
            b"node_statuses": statuses.encode(),
        },
        plan,
    )
    # The response shows the workflow at its creation, even if a worker has fetched a job since. So
    # the jobs are not read.
    ready = set(record.evaluation.ready)
    jobs = [JobOutcome("pending" if n in ready else "waiting") for n in range(len(plan.jobs))]
    return replace(record, jobs=jobs)


def _plan_with_ids(store: Store, new: NewWorkflow, now_ms: int) -> Plan:
    """Return the plan of a new workflow with an id for each job, which names the job's shard."""
    nodes = []
    for node in new.plan.nodes:
        if node.job >= 0:
            shard = store.partitions.choose_shard(
                store, node.queue, declares_limit=node.job in new.declares_limit
            )
            job_id = new_job_id(shard.index, len(store.keys), now_ms)
            node = msgspec.structs.replace(node, job_id=job_id)
        nodes.append(node)
    return Plan(nodes)


async def _store_new(
    store: Store, workflow_id: str, new: NewWorkflow, plan: Plan, encoded: bytes, statuses: str
) -> int:
    """Store a new workflow, and deliver its first steps; return its Unix time of creation in ms.

    Args:
        store: the store.
        workflow_id: id of the workflow.
        new: the workflow.
        plan: its plan with ids.
        encoded: the plan as it is stored.
        statuses: the node statuses as they are stored.
    """
    owner = store.keys.shard_of_id(workflow_id)
    definitions, definitions_stored = list(enumerate(new.definitions)), 0
    if is_large(new.definitions, [encoded]):
        key = owner.workflow_definitions(workflow_id)
        await store_portions(store, owner, workflow_id, key, definitions, wait_ms=_RECORD_WITHIN_MS)
        definitions, definitions_stored = [], len(new.definitions)
    reply = await store.run(
        owner,
        "workflow_create",
        [
            *(owner.workflow(workflow_id), owner.workflow_definitions(workflow_id)),
            *(
                owner.workflows,
                owner.events,
                owner.outbox_due,
                owner.outbox,
                owner.running_workflows,
                owner.ended_workflows,
            ),
        ],
        [
            *(store.events_arg, workflow_id, new.type, new.name),
            *(encoded, statuses, event_data(workflow_id, new.name, plan), definitions_stored),
            *(part for pair in definitions for part in pair),
        ],
        idempotent=True,
    )
    if reply[0] != b"ok":
        raise BackendUnavailable(
            "a part of the workflow was lost before it was stored: try again", outcome="not_applied"
        )
    await deliver(store, owner, reply[2])
    return int(reply[1])


async def cancel(store: Store, workflow_id: str) -> WorkflowRecord:
    """Cancel a running workflow and the jobs that wait (spec: ojs-workflows 11.3).

    No further job starts. An active job may finish its present attempt. A malformed workflow is
    removed, and the jobs that its plan still names are cancelled.

    Args:
        store: the store.
        workflow_id: its id.

    Raises:
        NotFound: no such workflow.
        Conflict: it has ended.
        BackendUnavailable: Redis did not answer in time.
    """
    if not is_job_id(workflow_id):
        raise NotFound("workflow", workflow_id[:100])
    owner = store.keys.shard_of_id(workflow_id)
    try:
        await get(store, workflow_id, jobs=False)
    except MalformedRecord:
        return await _remove(store, workflow_id)
    reply = await end(store, workflow_id, CANCELLED, b"")
    if reply[0] == b"missing":
        raise NotFound("workflow", workflow_id)
    if reply[0] == b"conflict":
        state = reply[1].decode()
        raise Conflict(f"workflow '{workflow_id}' is {state}", id=workflow_id, state=state)
    await deliver(store, owner, reply[2])
    if reply[0] == b"malformed":
        raise MalformedRecord("workflow", workflow_id, "fields are missing or not numbers")
    with after_first_write():
        return await get(store, workflow_id)


async def _remove(store: Store, workflow_id: str) -> WorkflowRecord:
    """Remove a malformed workflow, or cancel it if it is repaired meanwhile.

    If this process dies after the record is marked for removal, the janitor removes it.
    """
    owner = store.keys.shard_of_id(workflow_id)
    # If the scripts can read the record, the ends of its jobs must not end the workflow otherwise.
    cancelled = await end(store, workflow_id, CANCELLED, b"")
    effects = cancelled[2] if cancelled[0] == b"ok" else []
    plan = await remove_malformed.read_plan(store, workflow_id)
    if plan is not None:
        await remove_malformed.cancel_jobs(store, plan)
    damaged: list[Arg] | None = []
    try:
        fields = await read_fields(store, workflow_id)
    except MalformedRecord:
        pass  # of a key of another type nothing is compared
    else:
        names = validate_workflow.damaged_fields(workflow_id, fields)
        damaged = [part for name in names for part in (name, *_present(fields.get(name)))] or None
    repaired = damaged is None
    if damaged is not None:
        reply = await end(store, workflow_id, "removed", b"", damaged)
        repaired = reply[0] == b"repaired"
    with after_first_write():
        if repaired:
            record = await _cancel_repaired(store, workflow_id)
            await deliver(store, owner, effects)
            return record
        purged = await purge_ended(store, owner, 1)
    await deliver(store, owner, effects)  # finds no workflow any more
    return remove_malformed.removed_record(workflow_id, plan, purged.now_ms)


async def _cancel_repaired(store: Store, workflow_id: str) -> WorkflowRecord:
    with suppress(MalformedRecord):
        record = await get(store, workflow_id)
        if record.state == CANCELLED:
            return record
    return await cancel(store, workflow_id)


def _present(value: bytes | None) -> tuple[Arg, Arg]:
    """Return a field's value for ``workflow_end.lua``: whether it exists, and its value."""
    return (0, b"") if value is None else (1, value)


async def end(
    store: Store, workflow_id: str, state: str, data: bytes, damaged: Sequence[Arg] = ()
) -> list[Any]:
    """Run ``workflow_end.lua`` and return its reply.

    Args:
        store: the store.
        workflow_id: the workflow.
        state: its final state; ``removed`` for one that the next purge removes.
        data: members of the event's data, as JSON.
        damaged: for ``removed``, fields that show the damage: name, 1 or 0 for a missing field, and
            value of each; none if the key has another type.
    """
    owner = store.keys.shard_of_id(workflow_id)
    settings = store.settings
    reply: list[Any] = await store.run(
        owner,
        "workflow_end",
        [
            *(owner.workflow(workflow_id), owner.ended_workflows, owner.events),
            *(owner.outbox_due, owner.outbox, owner.running_workflows),
        ],
        [store.events_arg, workflow_id, state, settings.retention_workflow_ms, data, *damaged],
        # Only one client may learn that it cancelled the workflow, so this is not repeated.
        idempotent=state != CANCELLED,
    )
    return reply


async def purge_ended(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Remove up to ``limit`` workflows of a shard whose retention is over.

    Args:
        store: the store.
        shard: the shard of the workflows.
        limit: maximum number of workflows.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed, now, following = await store.run(
        shard, "workflow_purge", [shard.ended_workflows, shard.workflows], [limit], idempotent=True
    )
    return SweepResult(removed, None if following < 0 else following, now, removed >= limit)


def event_data(workflow_id: str, name: str, plan: Plan) -> bytes:
    """Return the JSON members that the data of all events of a workflow have.

    Spec: ojs-events 3.5.

    Args:
        workflow_id: the workflow.
        name: its name.
        plan: its plan.
    """
    return b'"workflow_id":"%b","workflow_name":%b,"total_steps":%d' % (
        workflow_id.encode(),
        orjson.dumps(name),
        len(plan.jobs),
    )
