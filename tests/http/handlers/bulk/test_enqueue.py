"""Enqueue many jobs with a result for each (spec: ojs-bulk-operations 5)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.enqueue.enqueue import enqueue as enqueue_one
from tests.http.api import Api, Reply, open_app

BULK = "/ojs/v1/jobs/bulk"
JOB: dict[str, Any] = {"type": "user.import", "args": [{"user_id": 1}], "queue": "imports"}
UNIQUE = {**JOB, "options": {"unique": {"keys": ["type"], "on_conflict": "ignore"}}}


async def enqueue(api: Api, jobs: list[Any], **members: Any) -> Reply:
    return await api.post(BULK, {"jobs": jobs, **members})


def statuses(reply: Reply) -> list[str]:
    assert [item["index"] for item in reply.json["items"]] == list(range(reply.json["total"]))
    return [item["status"] for item in reply.json["items"]]


async def stored(api: Api) -> list[str]:
    """The ids of the available jobs in the order of fetches."""
    return [job["id"] for job in await api.fetch("imports", count=100)]


async def test_all_jobs_are_created_in_order(any_api: Api) -> None:
    reply = await enqueue(any_api, [JOB] * 5)
    assert (reply.status, reply.json["total"], reply.json["succeeded"]) == (201, 5, 5)
    assert reply.headers["x-ojs-batch-size"] == "5"
    assert statuses(reply) == ["created"] * 5
    jobs = [item["job"] for item in reply.json["items"]]
    assert jobs[0] == {
        "id": jobs[0]["id"],
        "type": "user.import",
        "queue": "imports",
        "state": "available",
    }
    assert await stored(any_api) == [job["id"] for job in jobs]


async def test_an_invalid_job_does_not_affect_the_others(any_api: Api) -> None:
    taken = new_job_id(0, 8, 1_700_000_000_000)
    await any_api.enqueue(id=taken)
    jobs = [JOB, {**JOB, "type": ""}, {**JOB, "id": taken}, UNIQUE, UNIQUE, "no job", JOB]
    reply = await enqueue(any_api, jobs, atomicity="partial")
    assert (reply.status, reply.json["succeeded"], reply.json["failed"]) == (207, 4, 3)
    assert statuses(reply) == [
        *("created", "failed", "failed", "created", "duplicate", "failed", "created"),
    ]
    items = reply.json["items"]
    assert items[1]["error"]["details"]["field"] == "jobs[1].type"
    assert items[2]["error"]["code"] == "duplicate"
    assert items[4]["job"]["id"] == items[3]["job"]["id"]
    created = [item["job"]["id"] for item in items if item["status"] == "created"]
    assert await stored(any_api) == created
    none = await enqueue(any_api, [{**JOB, "id": taken}, {"type": "t"}])
    assert (none.status, statuses(none)) == (422, ["failed", "failed"])
    again = {**JOB, "id": new_job_id(0, 8, 1_700_000_000_001)}
    assert statuses(await enqueue(any_api, [again, again])) == ["created", "failed"]


async def test_an_atomic_request_enqueues_all_or_none(any_api: Api) -> None:
    reply = await enqueue(any_api, [JOB, {**JOB, "queue": "other"}], atomicity="atomic")
    assert (reply.status, statuses(reply)) == (201, ["created"] * 2)
    [first] = await stored(any_api)
    assert first == reply.json["items"][0]["job"]["id"]
    for bad in ({**JOB, "type": ""}, {**JOB, "id": first}):
        reply = await enqueue(any_api, [JOB, bad, JOB], atomicity="atomic")
        assert (reply.status, reply.json["succeeded"], reply.json["failed"]) == (422, 0, 3)
        codes = [item["error"]["code"] for item in reply.json["items"]]
        assert (codes[0], codes[2]) == ("not_applied", "not_applied")
        assert codes[1] in ("invalid_request", "duplicate")
    assert await stored(any_api) == []


async def test_a_full_queue_takes_as_many_jobs_as_fit(any_api: Api) -> None:
    config = {"backpressure": {"max_depth": 2}}
    path = "/ojs/v1/admin/queues/imports/config"
    assert (await any_api.call("PUT", path, config)).status == 200
    reply = await enqueue(any_api, [JOB] * 3 + [{**JOB, "queue": "other"}])
    assert (reply.status, statuses(reply)) == (
        207,
        ["created", "created", "failed", "created"],
    )
    assert reply.json["items"][2]["error"]["code"] == "QUEUE_FULL"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "jobs"),
        ({"jobs": []}, 400, "jobs"),
        ({"jobs": {}}, 400, "jobs"),
        ({"jobs": [JOB], "atomicity": "some"}, 400, "atomicity"),
        ({"jobs": [JOB], "atomicity": 1}, 400, "atomicity"),
        ({"jobs": [JOB], "atomic": True}, 400, "atomic"),
        ({"jobs": [JOB], "idempotency_key": "k"}, 422, "idempotency_key"),
    ],
)
async def test_an_invalid_request_enqueues_nothing(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    reply = await api.post(BULK, body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert await stored(api) == []


async def test_an_idempotency_key_in_a_header_is_refused(api: Api) -> None:
    reply = await api.post(BULK, {"jobs": [JOB]}, headers={"Idempotency-Key": "k"})
    assert (reply.status, reply.error["details"]["field"]) == (422, "idempotency_key")


async def test_too_many_jobs_are_refused_with_the_maximum(api: Api) -> None:
    reply = await enqueue(api, [JOB] * 1001)
    assert (reply.status, reply.error["details"]["max_batch_size"]) == (413, 1000)
    assert reply.headers["x-ojs-max-batch-size"] == "1000"


async def test_a_job_whose_shard_does_not_answer_fails_alone(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = enqueue_one

    async def enqueue_or_fail(store: Any, job: Any) -> Any:
        if job.queue in away:
            raise BackendUnavailable("away", outcome="unknown")
        return await real(store, job)

    monkeypatch.setattr("ojs_cluster.store.enqueue.independent_jobs.enqueue", enqueue_or_fail)
    async with open_app(standalone) as app:
        api = Api(app)
        taken = (await api.enqueue())["id"]  # prevents a single batch
        jobs = [JOB, {**JOB, "queue": "other"}, {**JOB, "id": taken}]
        away = {"other"}
        reply = await enqueue(api, jobs)
        assert (reply.status, statuses(reply)) == (207, ["created", "failed", "failed"])
        assert reply.json["items"][1]["error"]["details"]["outcome"] == "unknown"
        away = {"other", "imports"}
        reply = await enqueue(api, jobs)
        assert (reply.status, reply.error["details"]["outcome"]) == (503, "unknown")
