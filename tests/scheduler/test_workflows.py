"""The scheduler continues workflows of processes that died, and removes old ones."""

from __future__ import annotations

import json
from dataclasses import replace

from ojs_cluster.core.errors import BackendUnavailable, NotFound
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_scheduler.settings import SchedulerSettings
from tests.scheduler.running import eventually
from tests.scheduler.test_background import served
from tests.support.servers import all_keys

STEPS = [{"type": "a", "queue": "q1"}, {"type": "b", "queue": "q2"}, {"type": "c", "queue": "q3"}]
CHAIN = json.dumps({"type": "chain", "steps": STEPS}).encode()


async def _dies(_store: Store, _shard: Shard, _payload: bytes) -> None:
    raise BackendUnavailable("gone before it could deliver", outcome="unknown")


async def _fetched(store: Store, queue: str) -> JobRecord:
    taken: list[JobRecord] = []

    async def look() -> bool:
        taken.extend(await fetch(store, [queue], count=9, worker_id="w"))
        return bool(taken)

    await eventually(look, what=f"a job in {queue}")
    [job] = taken
    return job


async def test_a_chain_goes_on_though_each_acting_process_dies(backend: Embedded) -> None:
    async with served(backend) as (store, _):
        dying = replace(store, effects=dict.fromkeys(store.effects, _dies))
        made = await workflows.create(dying, parse_workflow(CHAIN))
        for number, queue in enumerate(("q1", "q2", "q3")):
            job = await _fetched(store, queue)
            assert json.loads(job.json()).get("parent_results", []) == list(range(number))
            await ack(dying, job.id, worker_id="w", lease_id=None, result=b"%d" % number)

        async def completed() -> bool:
            return (await read_workflows.get(store, made.id)).state == "completed"

        await eventually(completed, what="completed")


async def test_an_ended_workflow_is_removed_after_its_retention(backend: Embedded) -> None:
    kept = StoreSettings(retention_workflow_ms=1000)
    async with served(backend, kept, SchedulerSettings(janitor_sleep_ms=500)) as (store, _):
        made = await workflows.create(store, parse_workflow(CHAIN))
        await workflows.cancel(store, made.id)

        async def gone() -> bool:
            try:
                await read_workflows.get(store, made.id, jobs=False)
            except NotFound:
                return True
            return False

        await eventually(gone, what="gone")
        assert not [key for key in all_keys(backend) if b":wf" in key or b":wd" in key]
