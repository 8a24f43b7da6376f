"""Remove a malformed workflow that a client has cancelled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import Conflict, MalformedJob, MalformedRecord, NotFound
from ojs_cluster.core.workflow import CANCELLED, Plan, WorkflowEvaluation, WorkflowNode
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.workflows import validate_workflow
from ojs_cluster.store.features.workflows.read_workflows import JobOutcome, WorkflowRecord
from ojs_cluster.store.ground.fanout import run_concurrently

CAUSE = Cause("system", why="its workflow was cancelled")


async def read_plan(store: Store, workflow_id: str) -> Plan | None:
    """Return the plan of a malformed workflow; None if it cannot be read."""
    owner = store.keys.shard_of_id(workflow_id)
    with suppress(MalformedRecord, RedisReplyError):
        raw: Any = await store.redis.call(
            owner.slot, "HGET", owner.workflow(workflow_id), "plan", idempotent=True
        )
        return validate_workflow.parse_plan(workflow_id, raw or b"")
    return None


async def cancel_jobs(store: Store, plan: Plan) -> None:
    """Cancel the jobs of a plan that wait. An active job may finish its present attempt."""

    async def cancel_job(node: WorkflowNode) -> None:
        # It was never enqueued, has ended, runs its last attempt, or is quarantined.
        with suppress(NotFound, Conflict, MalformedJob):
            await cancel(store, node.job_id, only="inactive", cause=CAUSE)

    await run_concurrently(plan.jobs, cancel_job)


def removed_record(workflow_id: str, plan: Plan | None, removed_ms: int) -> WorkflowRecord:
    """Return what the response to the cancellation shows of a removed workflow.

    Args:
        workflow_id: the workflow.
        plan: its plan; None if it cannot be read. One unknown job stands for it then.
        removed_ms: Unix time in ms of its removal.
    """
    if plan is None:
        job = WorkflowNode("job", 0, type="unknown", queue="unknown", job=0, job_id=workflow_id)
        plan = Plan([WorkflowNode("group", -1), job])
    # The first 12 hexadecimal digits of a UUIDv7 are its creation time in Unix milliseconds.
    return WorkflowRecord(
        id=workflow_id,
        type=plan.nodes[0].kind,
        name="",
        state=CANCELLED,
        created_ms=int(workflow_id.replace("-", "")[:12], 16),
        finished_ms=removed_ms,
        plan=plan,
        evaluation=WorkflowEvaluation(CANCELLED, [CANCELLED] * len(plan.nodes), ()),
        fields={},
        jobs=[JobOutcome(CANCELLED)] * len(plan.jobs),
    )
