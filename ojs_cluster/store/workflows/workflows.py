"""Workflows: create, read, list, cancel (spec: ojs-workflows 11).

A workflow's record lives in the shard that its own id names, and its jobs in the shards of their
queues. Creation stores the record, with the ids of all jobs, and the effect that starts it.
``advance`` handles that effect and all that follows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, PayloadTooLarge
from ojs_cluster.core.jobs.ids import is_job_id, new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow import (
    CANCELLED,
    COMPLETED,
    ENDED,
    RUNNING,
    STATUS_ENQUEUED,
    STATUS_UNKNOWN,
    Plan,
    WorkflowEvaluation,
    decode_plan,
    evaluate,
)
from ojs_cluster.core.workflow_request import NewWorkflow
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.read_jobs import get as get_job
from ojs_cluster.store.limits import depth_bounds
from ojs_cluster.store.newest import newest_members
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.partial_failures import after_first_write
from ojs_cluster.store.portions import PORTION_BYTES
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.workflows.workflow_portions import is_large, store_portions

RESULTS_SHOWN_BYTES = 8 * 1024 * 1024
"""Maximum number of bytes of results in a response that shows a workflow."""
MAX_PLAN_BYTES = 3 * 1024 * 1024
"""Maximum size of a workflow's plan in bytes, because one script stores the whole plan."""
_RECORD_WITHIN_MS = 10 * 60_000
"""Time in ms after which the janitor removes definitions that were stored without a workflow."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What is known of one job of a workflow.

    Args:
        state: waiting, pending, active, completed, failed or cancelled.
        started_ms: Unix time in ms when its last attempt started, None when it has not started.
        finished_ms: Unix time in ms of its end, None while it has not ended.
        attempt: number of its last attempt.
        result: result as JSON, None when there is none.
        error: error as JSON, None when there is none.
    """

    state: str
    started_ms: int | None = None
    finished_ms: int | None = None
    attempt: int = 0
    result: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A stored workflow.

    Args:
        id: id of the workflow.
        type: chain, group, batch or dag.
        name: name of the workflow; '' for none.
        state: state of the workflow.
        created_ms: Unix time of its creation in ms.
        finished_ms: Unix time of its end in ms; None while it runs.
        plan: its plan.
        evaluation: states of all nodes, as they follow from the node statuses.
        fields: the fields of its record.
        jobs: outcomes of its jobs, in the order of their numbers; empty unless requested.
    """

    id: str
    type: str
    name: str
    state: str
    created_ms: int
    finished_ms: int | None
    plan: Plan
    evaluation: WorkflowEvaluation
    fields: Mapping[bytes, bytes]
    jobs: Sequence[JobOutcome] = ()


async def create(store: Store, new: NewWorkflow) -> WorkflowRecord:
    """Store a workflow and start it. When the function returns, the workflow is durable.

    Args:
        store: the store.
        new: the workflow.

    Raises:
        QueueFull: the queue of a first step takes no more jobs.
        TooManyQueues: there are as many queues as allowed.
        TooManyRateLimitKeys: there are as many rate limit keys as allowed.
        PayloadTooLarge: the plan has more than ``MAX_PLAN_BYTES``.
        BackendUnavailable: Redis did not answer in time.
    """
    for limit_key in new.limit_keys:
        await store.limit_keys.check_key(store, limit_key)
    await store.queues.ensure(store, dict.fromkeys(node.queue for node in new.plan.jobs))
    now_ms = time.time_ns() // 1_000_000
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
    await depth_bounds.check_bounds(
        store, [(store.keys.shard_of_id(job.job_id), job.queue) for job in first]
    )
    created_ms = await _store_new(store, workflow_id, new, plan, encoded, statuses)
    record = _record(
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


async def get(store: Store, workflow_id: str, *, jobs: bool = True) -> WorkflowRecord:
    """Return one workflow.

    Args:
        store: the store.
        workflow_id: its id.
        jobs: whether to read the outcomes of its jobs, too.

    Raises:
        NotFound: no such workflow, or its retention is over.
        BackendUnavailable: Redis did not answer in time.
    """
    if not is_job_id(workflow_id):
        raise NotFound("workflow", workflow_id[:100])
    owner = store.keys.shard_of_id(workflow_id)
    flat: Any = await store.redis.call(
        owner.slot, "HGETALL", owner.workflow(workflow_id), idempotent=True
    )
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    if b"state" not in fields:  # also while an import stores it in portions
        raise NotFound("workflow", workflow_id)
    record = _record(workflow_id, fields, decode_plan(fields[b"plan"]))
    return replace(record, jobs=await _outcomes(store, record)) if jobs else record


async def cancel(store: Store, workflow_id: str) -> WorkflowRecord:
    """Cancel a running workflow and the jobs that wait (spec: ojs-workflows 11.3).

    No further job starts. An active job may finish its present attempt.

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
    reply = await end(store, workflow_id, CANCELLED, b"")
    if reply[0] == b"missing":
        raise NotFound("workflow", workflow_id)
    if reply[0] == b"conflict":
        state = reply[1].decode()
        raise Conflict(f"workflow '{workflow_id}' is {state}", id=workflow_id, state=state)
    await deliver(store, owner, reply[2])
    with after_first_write():
        return await get(store, workflow_id)


async def end(store: Store, workflow_id: str, state: str, data: bytes) -> list[Any]:
    """Run ``workflow_end.lua`` and return its reply.

    Args:
        store: the store.
        workflow_id: the workflow.
        state: its final state.
        data: members of the event's data, as JSON.
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
        [store.events_arg, workflow_id, state, settings.retention_workflow_ms, data],
        # Only one client may learn that it cancelled the workflow, so this is not repeated.
        idempotent=state != CANCELLED,
    )
    return reply


async def list_workflows(
    store: Store, *, limit: int, offset: int = 0
) -> tuple[list[WorkflowRecord], int]:
    """Return a page of workflows without their jobs, newest first, and the number of all.

    Args:
        store: the store.
        limit: maximum number of workflows of the page.
        offset: how many workflows are skipped.
    """
    ids, total = await newest_members(
        store, lambda shard: shard.workflows, limit=limit, offset=offset
    )
    found: dict[str, WorkflowRecord] = {}

    async def read_record(workflow_id: str) -> None:
        try:
            found[workflow_id] = await get(store, workflow_id, jobs=False)
        except NotFound:
            return  # its retention has ended since

    await run_concurrently(ids, read_record)
    return [found[workflow_id] for workflow_id in ids if workflow_id in found], total


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


def _record(workflow_id: str, fields: Mapping[bytes, bytes], plan: Plan) -> WorkflowRecord:
    finished = fields.get(b"finished")
    return WorkflowRecord(
        id=workflow_id,
        type=fields[b"type"].decode(),
        name=fields[b"name"].decode(),
        state=fields[b"state"].decode(),
        created_ms=int(fields[b"created"]),
        finished_ms=int(finished) if finished else None,
        plan=plan,
        evaluation=evaluate(plan, fields[b"node_statuses"].decode()),
        fields=fields,
    )


async def _outcomes(store: Store, record: WorkflowRecord) -> list[JobOutcome]:
    """Return the outcomes of all jobs.

    The workflow's record has the outcomes of ended jobs. The others are read from the jobs.
    """
    found: dict[int, JobOutcome] = {}
    ended: list[int] = []
    live: list[int] = []
    states = [
        state
        for node, state in zip(record.plan.nodes, record.evaluation.states, strict=True)
        if node.job >= 0
    ]
    statuses = record.fields[b"node_statuses"].decode()
    for job, state in enumerate(states):
        if statuses[job] == STATUS_ENQUEUED:
            live.append(job)
        elif state == RUNNING:
            found[job] = JobOutcome("pending" if record.state == RUNNING else "cancelled")
        elif statuses[job] != STATUS_UNKNOWN and state in ENDED:
            ended.append(job)
        else:
            waits = state == "waiting" and record.state == RUNNING
            found[job] = JobOutcome("waiting" if waits else "cancelled")

    async def read_live(job: int) -> None:
        found[job] = await _live_outcome(store, record.plan.jobs[job].job_id)

    await run_concurrently(live, read_live)
    results = await read_results(store, record.id, ended)
    for job in ended:
        times = record.fields.get(b"t%d" % job, b"0 0 0").split()
        found[job] = JobOutcome(
            states[job],
            int(times[0]) or None,
            int(times[1]) or None,
            int(times[2]),
            results.get(job),
            record.fields.get(b"e%d" % job),
        )
    return [found[job] for job in range(len(states))]


async def _live_outcome(store: Store, job_id: str) -> JobOutcome:
    try:
        job = await get_job(store, job_id)  # a restored job may be in another shard
    except NotFound:
        return JobOutcome(CANCELLED)
    names = {State.ACTIVE: "active", State.COMPLETED: COMPLETED}
    names |= {State.CANCELLED: CANCELLED, State.DISCARDED: "failed"}
    return JobOutcome(names.get(job.state, "pending"), job.started_ms, None, job.attempt)


async def read_results(store: Store, workflow_id: str, jobs: Sequence[int]) -> dict[int, bytes]:
    """Return results of ended jobs, as far as they fit into one response."""
    return (await read_inputs(store, workflow_id, None, jobs))[1]


async def read_inputs(
    store: Store,
    workflow_id: str,
    job: int | None,
    result_jobs: Sequence[int],
    *,
    max_bytes: int = RESULTS_SHOWN_BYTES,
) -> tuple[bytes, dict[int, bytes]]:
    """Return a job's definition, and results of other jobs.

    A result never changes, so several calls may read the results.

    Args:
        store: the store.
        workflow_id: the workflow.
        job: the number of the job; None for no definition.
        result_jobs: numbers of the jobs whose results are read, the most important first.
        max_bytes: maximum number of bytes of all results. Results that do not fit are left out.
    """
    owner = store.keys.shard_of_id(workflow_id)
    keys = [owner.workflow_definitions(workflow_id), owner.workflow_results(workflow_id)]
    found: dict[int, bytes] = {}
    definition, remaining, read = b"", max_bytes, 0
    while job is not None or read < len(result_jobs):
        args: list[Arg] = ["" if job is None else job, remaining, PORTION_BYTES]
        args += result_jobs[read:]
        reply = await store.run(owner, "workflow_inputs", keys, args, idempotent=True)
        remaining, values = reply[1], reply[2:]
        definition, job = definition or reply[0], None
        found.update(zip(result_jobs[read:], values, strict=False))
        read += len(values)
    return definition, {number: value for number, value in found.items() if value}
