"""Short ways to make workflows and to run their jobs."""

from __future__ import annotations

import json
from typing import Any

from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox.outbox import drain
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from tests.store.shortcuts import QUEUE, ack, shard_of, take
from tests.store.unique_jobs import drain_waiting_now


def step(type: str = "step", queue: str = QUEUE, **members: Any) -> dict[str, Any]:
    """Return one step as a client sends it."""
    return {"type": type, "args": [], "options": {"queue": queue}, **members}


async def make(store: Store, **body: Any) -> WorkflowRecord:
    """Create a workflow from the members of its request."""
    return await workflows.create(store, parse_workflow(json.dumps(body).encode()))


async def chain(store: Store, *steps: dict[str, Any]) -> WorkflowRecord:
    return await make(store, type="chain", steps=list(steps))


async def group(store: Store, *jobs: dict[str, Any]) -> WorkflowRecord:
    return await make(store, type="group", jobs=list(jobs))


async def batch(store: Store, jobs: list[dict[str, Any]], **callbacks: Any) -> WorkflowRecord:
    return await make(store, type="batch", jobs=jobs, callbacks=callbacks)


async def run_one(store: Store, queue: str = QUEUE, result: Any = None) -> str:
    """Fetch the queue's next job and complete it; return its type."""
    [job] = await take(store, queue)
    await ack(store, job, worker_id="w1", result=json.dumps(result).encode())
    return job.type


async def state_of(store: Store, workflow: WorkflowRecord | str) -> str:
    workflow_id = workflow if isinstance(workflow, str) else workflow.id
    return (await read_workflows.get(store, workflow_id)).state


async def step_states(store: Store, workflow: WorkflowRecord) -> list[str]:
    return [job.state for job in (await read_workflows.get(store, workflow.id)).jobs]


def job_ids(workflow: WorkflowRecord) -> list[str]:
    return [node.job_id for node in workflow.plan.jobs]


def parents(job: JobRecord) -> Any:
    """Return the results that are the job's inputs."""
    return json.loads(job.json()).get("parent_results")


async def drain_all(store: Store, db: Any, *, everything: bool = True) -> None:
    """Deliver all effects, however young; or one round in each shard only."""
    if not everything:
        for shard in store.keys:
            await drain(store, shard, 100)
        return
    for _ in range(10):
        owing = [
            shard
            for shard in store.keys
            if db.exists(shard.outbox_due, shard.outbox_blocked_shards)
        ]
        if not owing:
            return
        for shard in owing:
            for number in db.zrange(shard.outbox_due, 0, -1):
                db.zadd(shard.outbox_due, {number: 0})
            await drain(store, shard, 100)
            await drain_waiting_now(store, db, shard)


def assert_no_effects(store: Store, db: Any) -> None:
    for shard in store.keys:
        left = {k: v for k, v in db.hgetall(shard.outbox).items() if k != b"seq"}
        assert left == {}
        assert (
            db.zcard(shard.outbox_due)
            == db.zcard(shard.outbox_dead_letters)
            == db.zcard(shard.outbox_blocked_shards)
            == 0
        )


def home_of(store: Store, workflow: WorkflowRecord) -> Shard:
    return store.keys.shard_of_id(workflow.id)


def lose_statuses(store: Store, db: Any, workflow: WorkflowRecord, statuses: str) -> None:
    """Make the workflow's master lose all changes after ``statuses``."""
    home, key = home_of(store, workflow), home_of(store, workflow).workflow(workflow.id)
    for number, mark in enumerate(statuses):
        if mark in ".q":
            db.hdel(key, f"t{number}", f"e{number}")
            db.hdel(home.workflow_results(workflow.id), str(number))
    db.hset(key, mapping={"node_statuses": statuses, "state": "running"})
    db.hdel(key, "finished")
    db.zrem(home.ended_workflows, workflow.id)
    db.zadd(home.running_workflows, {workflow.id: 1})


def lose_job(store: Store, db: Any, job_id: str, queue: str = QUEUE) -> None:
    """Make the master of a waiting job lose it."""
    shard = shard_of(store, queue)
    assert db.delete(shard.job(job_id)) == 1
    assert db.zrem(shard.queue_available(queue), job_id) == 1
