"""Running workflows that make no progress: their jobs are read, and told of again.

A workflow's record and its jobs live in different shards. With asynchronous replication a failover
may lose, in the one, how a job ended in the other; nothing would tell the workflow again, and it
would run for ever. So each running workflow is listed in its shard (``keys.Shard.unfinished``) by
the time at which its jobs are read: five minutes after its creation and after each job that ended,
then when it is twice as old, at most an hour later.

* A job that has ended is recorded, as its effect would have done.
* A job that may start and is not known to be enqueued is enqueued under its fixed id.
* A job that was enqueued and is not there any more was lost itself, or deleted. It is missed twice,
  five minutes apart, because an effect may still be on its way; then storing it is made impossible,
  and its step has failed with the error ``job_lost``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import orjson

from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.workflow import MARK_OF_STATE, QUEUED_MARK, RUNNING, Plan
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.unique.locks import write_tombstone
from ojs_cluster.store.workflows import advance

log = logging.getLogger("ojs.store")

_LOST = orjson.dumps(
    {
        "code": "job_lost",
        "type": "job_lost",
        "message": "the step's job is not there any more: a failover lost it, or it was deleted",
    }
)


class WorkflowCheck:
    """Looks at workflows without progress; remembers which of their jobs it has missed once."""

    def __init__(self) -> None:
        self._missed: dict[str, set[int]] = {}

    async def check(self, store: Store, shard: Shard, limit: int) -> SweepResult:
        """Look at up to ``limit`` workflows of a shard; one that cannot be read stops no other.

        Raises:
            BackendUnavailable: ``shard`` did not answer in time.
        """
        now, following, *due = await store.run(
            shard, "workflow_stalled", [shard.running_workflows], [limit], idempotent=True
        )

        async def one(raw: bytes) -> None:
            workflow_id = raw.decode()
            impatient, _ = store.for_effect(patient=False)  # a shard that is away is met once
            missed_before = self._missed.pop(workflow_id, set())
            missing: set[int] = set()
            try:
                missing = await self._check(impatient, workflow_id, missed_before)
                soon = bool(missing)
            except Exception as error:  # a malformed record, too, must stop no other
                log.warning("workflow %s cannot be checked", workflow_id, exc_info=error)
                soon = True
            keys = [shard.workflow(workflow_id), shard.running_workflows]
            args = [workflow_id, "1" * soon]
            await store.run(shard, "workflow_checked", keys, args, idempotent=True)
            if missing - missed_before:  # only now is it certain that the next look is later
                self._missed[workflow_id] = missing - missed_before

        await over_shards(due, one)
        next_ms = None if following < 0 else following
        return SweepResult(len(due), next_ms, now, len(due) >= limit)

    async def _check(self, store: Store, workflow_id: str, missed_before: set[int]) -> set[int]:
        """Read the jobs of one workflow; returns which of them are not there."""
        missing: set[int] = set()
        read: set[int] = set()
        while True:
            found = await _progress(store, workflow_id)
            if found is None:
                return missing
            progress, plan = found
            queued = {n for n, mark in enumerate(progress.marks) if mark == QUEUED_MARK} - read
            gone = await _tell_all(store, workflow_id, plan, queued)
            for number in gone & missed_before:
                await _give_up(store, workflow_id, plan, number)
            missing |= gone
            read |= queued
            # What may start now may have run long ago: then it is read next.
            found = await _progress(store, workflow_id)
            if found is None:
                return missing
            before = found[0].marks
            await advance.advance(store, found[0])
            found = await _progress(store, workflow_id)
            if found is None or found[0].marks == before:
                return missing


async def _progress(store: Store, workflow_id: str) -> tuple[advance.Progress, Plan] | None:
    """A workflow that runs, None when it does not or is gone."""
    progress = await advance.look(store, workflow_id)
    fixed = await advance.fixed_part(store, workflow_id)
    if progress is None or fixed is None or progress.state != RUNNING:
        return None
    return progress, fixed.plan


async def _tell_all(store: Store, workflow_id: str, plan: Plan, numbers: Iterable[int]) -> set[int]:
    """Record how jobs ended, where they have; returns the numbers of those that are not there."""
    gone: set[int] = set()

    async def one(number: int) -> None:
        if not await _tell(store, workflow_id, plan, number):
            gone.add(number)

    await over_shards(numbers, one)
    return gone


async def _tell(store: Store, workflow_id: str, plan: Plan, number: int) -> bool:
    """Record how a job ended, if it has; returns whether there is such a job."""
    job_id = plan.jobs[number].job_id
    shard = store.keys.shard_of_id(job_id)
    for _ in range(2):
        found: Any = await store.redis.call(
            shard.slot, "HMGET", shard.job(job_id), f.STATE, f.ALIAS, idempotent=True
        )
        if found[0] is not None:
            if found[0].decode() in TERMINAL:
                job = await read_jobs.read(store, shard, job_id)
                await advance.record_end(store, workflow_id, number, found[0].decode(), job)
            return True
        if found[1] is None:
            return False
        shard = store.keys.shard(int(found[1]))  # an import may have put it elsewhere
    return False


async def _give_up(store: Store, workflow_id: str, plan: Plan, number: int) -> None:
    """End a step whose job is not there and never will be."""
    job_id = plan.jobs[number].job_id
    if await write_tombstone(store, store.keys.shard_of_id(job_id), job_id, overridable=False):
        log.error("job %s of workflow %s is lost", job_id, workflow_id)
        outcome = (MARK_OF_STATE["discarded"], "0 0 0", b"", _LOST, 0)
        await advance.write_outcome(store, workflow_id, number, outcome)
