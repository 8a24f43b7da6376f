"""Check running workflows that make no progress: read their jobs and record missing outcomes.

A workflow's record and its jobs live in different shards. With asynchronous replication a failover
may lose the recorded outcome of a job in another shard. No effect would record it again, and the
workflow would run permanently. So each running workflow is listed in its shard
(``keys.Shard.running_workflows``) by the time of its next check. The first check is five minutes
after its creation or after its last job that ended. The next is when the workflow is twice as old,
but at most an hour later. A check reads the jobs:

* If a job has ended, its outcome is recorded as its effect would have done.
* If a job may start and is not known to be enqueued, it is enqueued under its fixed id.
* If a job was enqueued and does not exist, it was lost or deleted. It must be missing in two
  checks, five minutes apart, because an effect may not be delivered yet. Then a tombstone makes
  sure that it is never stored, and its step fails with the error ``job_lost``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import orjson

from ojs_cluster.core.errors import MalformedRecord
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.workflow import RUNNING, STATUS_ENQUEUED, STATUS_OF_JOB_STATE, Plan
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.unique_locks import write_tombstone
from ojs_cluster.store.features.workflows import advance, record_outcomes, workflow_progress
from ojs_cluster.store.features.workflows.validate_workflow import check_statuses
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

_LOST = orjson.dumps(
    {
        "code": "job_lost",
        "type": "job_lost",
        "message": "the step's job does not exist any more: a failover lost it, or it was deleted",
    }
)


class WorkflowCheck:
    """Check workflows without progress; remember which jobs were missing in the last check.

    A malformed workflow is reported, counted, and checked again after an hour.
    """

    def __init__(self) -> None:
        self._missed: dict[str, set[int]] = {}

    async def check(self, store: Store, shard: Shard, limit: int) -> SweepResult:
        """Check up to ``limit`` workflows of a shard.

        A workflow that cannot be read does not stop the check of the others.

        Args:
            store: the store.
            shard: the shard of the workflows.
            limit: maximum number of workflows.

        Raises:
            BackendUnavailable: ``shard`` did not answer in time.
        """
        quarantined = 0
        now, following, *due = await store.run(
            shard, "workflow_due_checks", [shard.running_workflows], [limit], idempotent=True
        )

        async def check_one(raw: bytes) -> None:
            nonlocal quarantined
            workflow_id = raw.decode(errors="replace")
            if not is_job_id(workflow_id):
                log.error("shard %d lists %r as a workflow: removed", shard.index, workflow_id)
                await store.redis.call(shard.slot, "ZREM", shard.running_workflows, raw)
                return
            # The checks of one run wait only once for an unreachable shard.
            checking_store, _ = store.for_effect(patient=False)
            missed_before = self._missed.pop(workflow_id, set())
            missing: set[int] = set()
            try:
                missing = await self._check(checking_store, workflow_id, missed_before)
                when = "1" if missing else ""
            except MalformedRecord as malformed:
                when = "malformed"
                quarantined += 1
                _log_quarantined(malformed)
            except Exception as error:  # a malformed record must not stop the others either
                log.warning(
                    "workflow %s cannot be checked, will retry", workflow_id, exc_info=error
                )
                when = "1"
            keys = [shard.workflow(workflow_id), shard.running_workflows]
            args = [workflow_id, when]
            await store.run(shard, "workflow_schedule_check", keys, args, idempotent=True)
            # Only after the next check is scheduled: the two checks that find a job missing must be
            # five minutes apart.
            if missing - missed_before:
                self._missed[workflow_id] = missing - missed_before

        await run_concurrently(due, check_one)
        next_ms = None if following < 0 else following
        return SweepResult(len(due), next_ms, now, len(due) >= limit, quarantined)

    async def _check(self, store: Store, workflow_id: str, missed_before: set[int]) -> set[int]:
        """Read the jobs of one workflow; return the numbers of those that do not exist."""
        missing: set[int] = set()
        read: set[int] = set()
        while True:
            workflow = await _read_running(store, workflow_id)
            if workflow is None:
                return missing
            progress, plan = workflow
            statuses = progress.node_statuses
            enqueued = {n for n, status in enumerate(statuses) if status == STATUS_ENQUEUED} - read
            not_found = await _record_ended_jobs(store, workflow_id, plan, enqueued)
            for number in not_found & missed_before:
                await _fail_lost_step(store, workflow_id, plan, number)
            missing |= not_found
            read |= enqueued
            # A job that `advance` enqueues may exist and have ended, if its enqueue was not
            # recorded. The next round of this loop reads it.
            workflow = await _read_running(store, workflow_id)
            if workflow is None:
                return missing
            progress, _ = workflow
            await advance.advance(store, progress)
            workflow = await _read_running(store, workflow_id)
            if workflow is None or workflow[0].node_statuses == progress.node_statuses:
                return missing


def _log_quarantined(malformed: MalformedRecord) -> None:
    log.error(
        "quarantined for an hour: %s; repair it in Redis, or cancel it to remove it",
        malformed.message,
    )


async def _read_running(
    store: Store, workflow_id: str
) -> tuple[workflow_progress.WorkflowProgress, Plan] | None:
    """Return progress and plan of a running workflow; None when it has ended or does not exist."""
    progress = await workflow_progress.read_progress(store, workflow_id)
    immutable = await workflow_progress.read_immutable_part(store, workflow_id)
    if progress is None or immutable is None or progress.state != RUNNING:
        return None
    check_statuses(workflow_id, immutable.plan, progress.node_statuses)
    return progress, immutable.plan


async def _record_ended_jobs(
    store: Store, workflow_id: str, plan: Plan, numbers: Iterable[int]
) -> set[int]:
    """Record outcomes of jobs that have ended; return the numbers of those that do not exist."""
    missing: set[int] = set()

    async def record(number: int) -> None:
        if not await _record_if_ended(store, workflow_id, plan, number):
            missing.add(number)

    await run_concurrently(numbers, record)
    return missing


async def _record_if_ended(store: Store, workflow_id: str, plan: Plan, number: int) -> bool:
    """Record the outcome of a job if it has ended; return whether the job exists."""
    job_id = plan.jobs[number].job_id
    shard = store.keys.shard_of_id(job_id)
    for _ in range(2):
        values: Any = await store.redis.call(
            shard.slot, "HMGET", shard.job(job_id), f.STATE, f.ALIAS, idempotent=True
        )
        if values[0] is not None:
            if values[0].decode() in TERMINAL:
                job = await read_jobs.read(store, shard, job_id)
                await record_outcomes.record_job_outcome(
                    store, workflow_id, number, values[0].decode(), job
                )
            return True
        if values[1] is None:
            return False
        shard = store.keys.shard(int(values[1]))  # an import may have stored it in another shard
    return False


async def _fail_lost_step(store: Store, workflow_id: str, plan: Plan, number: int) -> None:
    """Write a tombstone for the id of a lost job, so that it is never stored; fail its step."""
    job_id = plan.jobs[number].job_id
    if await write_tombstone(store, store.keys.shard_of_id(job_id), job_id, overridable=False):
        log.error(
            "job %s of workflow %s is lost and its step has failed: a failover lost it, or a "
            "client deleted it",
            job_id,
            workflow_id,
        )
        outcome = record_outcomes.JobOutcomeFields(STATUS_OF_JOB_STATE["discarded"], error=_LOST)
        await record_outcomes.write_outcome(store, workflow_id, number, outcome)
