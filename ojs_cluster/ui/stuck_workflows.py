"""Read which workflows are stuck, because no worker runs the job of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import MalformedRecord, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows.read_workflows import get
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.ui.serving import ParkedType

_MAX_JOBS: Final = 20
"""Number of jobs of a partition that are read, those that would run first."""
_MAX_STUCK: Final = 3


class StuckWorkflow(msgspec.Struct, frozen=True):
    """A workflow with a step that no worker runs.

    Args:
        id: the workflow.
        step: the name of the step, or the type of its job.
        number: the number of the step, from 1.
        queue: the queue of its job.
        type: the type that no worker runs; empty if no worker fetches from the queue.
    """

    id: str
    step: str
    number: int
    queue: str
    type: str


async def find_stuck(
    store: Store, unserved: Sequence[str], parked: Sequence[ParkedType]
) -> list[StuckWorkflow]:
    """Return the first stuck workflows, each with the first such step.

    Args:
        store: the store.
        unserved: the queues from which no worker fetches.
        parked: the types that no worker runs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, StuckWorkflow] = {}
    places = [*((name, "") for name in unserved), *((each.queue, each.type) for each in parked)]
    for queue, job_type in places:
        for shard in await store.partitions.occupied_shards(store, queue):
            key = shard.parked_jobs(queue, job_type) if job_type else shard.queue_available(queue)
            for workflow_id, step in await _steps(store, shard, key):
                if len(found) >= _MAX_STUCK:
                    return list(found.values())
                if workflow_id not in found:
                    name = await _name_of(store, workflow_id, step)
                    if name:
                        stuck = StuckWorkflow(workflow_id, name, step + 1, queue, job_type)
                        found[workflow_id] = stuck
    return list(found.values())


async def _steps(store: Store, shard: Shard, key: bytes) -> list[tuple[str, int]]:
    """Return workflow and number of the step of the first jobs in an index, without other jobs."""
    ids: Any = await store.redis.call(shard.slot, "ZRANGE", key, 0, _MAX_JOBS - 1, idempotent=True)
    found = []
    for job_id in ids:
        fields: Any = await store.redis.call(
            *(shard.slot, "HMGET", shard.job(job_id.decode()), f.WORKFLOW, f.STEP), idempotent=True
        )
        workflow, step = fields
        if workflow and step and step.isdigit():
            found.append((workflow.decode(errors="replace"), int(step)))
    return found


async def _name_of(store: Store, workflow_id: str, step: int) -> str:
    """Return the name of a step, or its type without a name; empty if there is no such step."""
    try:
        jobs = (await get(store, workflow_id, jobs=False)).plan.jobs
    except (NotFound, MalformedRecord):
        return ""
    return jobs[step].label or jobs[step].type if step < len(jobs) else ""
