"""Every option means the same for every kind of enqueue: alone, batch, step, cron."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    HOUR,
    ack,
    envelope,
    new_job,
    promote_all,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.store.workflow_jobs import chain, job_ids, make, state_of, step
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Body = dict[str, Any]
Way = Callable[[Store, Body], Awaitable[JobRecord]]


async def alone(store: Store, body: Body) -> JobRecord:
    return await enqueue(store, parse_job(json.dumps(body).encode()))


async def in_a_batch(store: Store, body: Body) -> JobRecord:
    [other] = queues_in_other_shards(store, 1)
    batch = [new_job(other), parse_job(json.dumps(body).encode())]
    return (await enqueue_many(store, batch))[1]


async def as_a_step(store: Store, body: Body) -> JobRecord:
    workflow = await chain(store, body)
    return await read_jobs.get(store, job_ids(workflow)[0])


async def as_a_later_step(store: Store, body: Body) -> JobRecord:
    workflow = await make(
        store,
        name="w",
        steps=[step(id="first", queue="first"), {**body, "id": "then", "depends_on": ["first"]}],
    )
    [first] = await take(store, "first")
    await ack(store, first)
    return await read_jobs.get(store, job_ids(workflow)[1])


async def as_a_callback(store: Store, body: Body) -> JobRecord:
    workflow = await make(
        store, type="batch", jobs=[step(queue="first")], callbacks={"on_complete": body}
    )
    [first] = await take(store, "first")
    await ack(store, first)
    return await read_jobs.get(store, job_ids(workflow)[1])


async def by_cron(store: Store, body: Body) -> JobRecord:
    definition = {"name": "c", "expression": "@daily", **body}
    await cron.register(store, parse_cron(json.dumps(definition).encode()))
    return (await cron.trigger(store, "c"))[1]


async def by_a_cron_template(store: Store, body: Body) -> JobRecord:
    definition = {"name": "c", "schedule": "@daily", "job_template": body}
    await cron.register(store, parse_cron(json.dumps(definition).encode()))
    return (await cron.trigger(store, "c"))[1]


WAYS = (
    *(alone, in_a_batch, as_a_step, as_a_later_step, as_a_callback),
    *(by_cron, by_a_cron_template),
)
MINUTE = 60_000


def seen(job: JobRecord) -> dict[str, Any]:
    """Return the stored values of a job's options."""

    def number(name: bytes, since: int = 0) -> int | None:
        value = job.fields.get(name)
        return int(value) - since if value else None

    shown = envelope(job)
    return {
        "state": str(job.state),
        "queue": job.queue,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "on_exhaustion": job.fields.get(f.ON_EXHAUSTION),
        "timeout": number(f.TIMEOUT),
        "lease": number(f.VISIBILITY),
        "due_in": number(f.DUE, job.created_ms),
        "due": number(f.DUE),
        "expires_in": number(f.EXPIRES, job.created_ms),
        "expires": number(f.EXPIRES),
        "rate": number(f.MAX_PER_SECOND),
        "unique": bool(job.fields.get(f.UNIQUE)),
        "tags": shown.get("tags"),
        "meta": shown["meta"],
        "x": shown.get("x"),
    }


FAR = "2099-01-01T00:00:00Z"
FAR_MS = 4_070_908_800_000
TABLE: list[tuple[Body, Body, Body]] = [
    ({}, {}, {"state": "available", "queue": "default", "max_attempts": 3, "unique": False}),
    ({"queue": "a"}, {}, {"queue": "a"}),
    ({}, {"queue": "a"}, {"queue": "a"}),
    ({"priority": 7}, {}, {"priority": 7}),
    ({}, {"priority": -7}, {"priority": -7}),
    ({"max_attempts": 9}, {}, {"max_attempts": 9}),
    ({"retry": {"max_attempts": 8}}, {}, {"max_attempts": 8}),
    ({"retry_policy": {"max_attempts": 8}}, {}, {"max_attempts": 8}),
    ({}, {"retry": {"max_attempts": 8}}, {"max_attempts": 8}),
    ({"retry": {"on_exhaustion": "dead_letter"}}, {}, {"on_exhaustion": b"dead_letter"}),
    ({"timeout_ms": 1500}, {}, {"timeout": 1500}),
    ({}, {"timeout_ms": 1500}, {"timeout": 1500}),
    ({}, {"timeout": 30}, {"timeout": 30_000}),
    ({"visibility_timeout_ms": 1500}, {}, {"lease": 1500}),
    ({"visibility_timeout": "PT2S"}, {}, {"lease": 2000}),
    ({}, {"visibility_timeout_ms": 1500}, {"lease": 1500}),
    ({"scheduled_at": "+PT1H"}, {}, {"state": "scheduled", "due_in": HOUR}),
    ({"delay_until": "+PT1H"}, {}, {"state": "scheduled", "due_in": HOUR}),
    ({"delay_until": FAR}, {}, {"state": "scheduled", "due": FAR_MS}),
    ({}, {"scheduled_at": FAR}, {"state": "scheduled", "due": FAR_MS}),
    ({"scheduled_at": "2001-01-01T00:00:00Z"}, {}, {"state": "available"}),
    ({"expires_at": "+PT1H"}, {}, {"expires_in": HOUR}),
    ({"expires_at": FAR}, {}, {"expires": FAR_MS}),
    ({}, {"expires_at": FAR}, {"expires": FAR_MS}),
    ({"ttl": 60}, {}, {"expires_in": MINUTE}),
    ({"ttl": "PT1H"}, {}, {"expires_in": HOUR}),
    ({"enqueue_ttl": 60}, {}, {"expires_in": MINUTE}),
    ({}, {"enqueue_ttl": 60}, {"expires_in": MINUTE}),
    ({"pending": True}, {}, {"state": "pending"}),
    ({"pending": True, "scheduled_at": "+PT1H"}, {}, {"state": "pending", "due_in": HOUR}),
    ({"unique": {"keys": ["type"]}}, {}, {"unique": True}),
    ({}, {"unique": {"key": "mine"}}, {"unique": True}),
    ({"tags": ["a", "b"]}, {}, {"tags": ["a", "b"]}),
    ({}, {"tags": ["a"]}, {"tags": ["a"]}),
    ({"rate_limit": {"max_per_second": 5}}, {}, {"rate": 5}),
    ({"metadata": {"k": 1}}, {}, {"meta": {"k": 1}}),
    ({}, {"meta": {"k": 1.0}}, {"meta": {"k": 1.0}}),
    ({}, {"x": {"unknown": []}}, {"x": {"unknown": []}}),
]


@pytest.mark.parametrize(("options", "beside", "expected"), TABLE)
async def test_an_option_means_the_same_on_every_way(
    store: Store,
    consistent: Callable[[], InvariantReport],
    options: Body,
    beside: Body,
    expected: Body,
) -> None:
    body = {"type": "t", "args": [], **beside, **({"options": options} if options else {})}
    for way in WAYS:
        job = await way(store, body)

        found = seen(job)
        for name in ("cron_name", "cron_triggered_at"):
            found["meta"].pop(name, None)
        assert {name: found[name] for name in expected} == expected, way.__name__
        assert seen(await read_jobs.get(store, job.id))["state"] == found["state"]
        await cancel(store, job.id)  # so that the next is not of the same uniqueness
    consistent()


@pytest.mark.parametrize("way", [as_a_step, as_a_later_step, by_cron])
async def test_a_pending_job_waits_for_its_activation_then_runs(store: Store, way: Way) -> None:
    job = await way(store, step(options={"queue": "p", "pending": True}))
    assert await take(store, "p") == []

    await activate(store, job.id)

    [taken] = await take(store, "p")
    assert taken.id == job.id
    assert (await ack(store, taken)).state is State.COMPLETED
    await assert_workflow(store, job, "completed")


@pytest.mark.parametrize("spelling", ["scheduled_at", "delay_until"])
@pytest.mark.parametrize("way", [as_a_step, as_a_later_step, by_cron])
async def test_a_delayed_job_runs_when_it_is_due(
    store: Store, db: Any, way: Way, spelling: str
) -> None:
    job = await way(store, step(options={"queue": "p", spelling: "+PT1H"}))
    assert await take(store, "p") == []

    age_job(db, shard_of(store, "p"), job.id, HOUR)
    await promote_all(store, "p")

    [taken] = await take(store, "p")
    assert taken.id == job.id
    await ack(store, taken)
    await assert_workflow(store, job, "completed")


@pytest.mark.parametrize("spelling", ["expires_at", "ttl"])
@pytest.mark.parametrize("way", [as_a_step, as_a_later_step, by_cron])
async def test_a_job_that_expires_is_discarded_and_its_workflow_has_failed(
    store: Store, db: Any, way: Way, spelling: str
) -> None:
    value = "+PT1H" if spelling == "expires_at" else 3600
    job = await way(store, step(options={"queue": "p", spelling: value}))

    age_job(db, shard_of(store, "p"), job.id, HOUR)
    await reap_all(store, "p")

    assert await take(store, "p") == []
    assert (await read_jobs.get(store, job.id)).expired
    await assert_workflow(store, job, "failed")


async def assert_workflow(store: Store, job: JobRecord, state: str) -> None:
    """Check how the job's workflow has ended. The run of a cron job has none."""
    workflow_id = job.fields.get(f.WORKFLOW)
    if workflow_id is not None:
        assert await state_of(store, workflow_id.decode()) == state
        assert (await read_workflows.get(store, workflow_id.decode())).finished_ms is not None
