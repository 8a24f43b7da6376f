"""Enqueue many jobs with a result for each (spec: ojs-bulk-operations 5)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import trio

from ojs_cluster.core.access.scopes import ANONYMOUS
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.enqueue import idempotency, independent_jobs
from ojs_cluster.store.engine.enqueue.enqueue import enqueue as enqueue_one
from tests.http.api import Api, Reply, open_app
from tests.support.servers import observer

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


async def bound(api: Api, max_depth: int) -> None:
    config = {"backpressure": {"max_depth": max_depth}}
    reply = await api.call("PUT", "/ojs/v1/admin/queues/imports/config", config)
    assert reply.status == 200, reply.body


async def test_a_full_queue_takes_as_many_jobs_as_fit(any_api: Api) -> None:
    await bound(any_api, 2)
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
        ({"jobs": [JOB], "idempotency_key": ""}, 400, "idempotency_key"),
        ({"jobs": [JOB], "idempotency_key": "k" * 257}, 400, "idempotency_key"),
    ],
)
async def test_an_invalid_request_enqueues_nothing(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    reply = await api.post(BULK, body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert await stored(api) == []


async def repeat(api: Api, jobs: list[Any], key: str, **members: Any) -> Reply:
    body = {"jobs": jobs, **members}
    return await api.post(BULK, body, headers={"Idempotency-Key": key})


async def test_a_repeated_request_is_carried_out_once(any_api: Api) -> None:
    jobs = [JOB, {**JOB, "type": ""}, {**JOB, "queue": "other"}]
    first = await repeat(any_api, jobs, "k1")
    assert (first.status, statuses(first)) == (207, ["created", "failed", "created"])
    ids = await stored(any_api)
    again = await repeat(any_api, jobs, "k1")
    assert (again.status, again.json) == (207, first.json)
    assert again.headers["x-ojs-batch-size"] == "3"
    other = await repeat(any_api, [JOB], "k1")
    assert (other.status, other.error["code"]) == (409, "conflict")
    assert ids == [first.json["items"][0]["job"]["id"]]
    assert await stored(any_api) == []


async def test_the_key_of_the_header_has_priority(any_api: Api) -> None:
    by_header = [await repeat(any_api, [JOB], "k1", idempotency_key="k2") for _ in range(2)]
    by_member = [await enqueue(any_api, [JOB], idempotency_key="k2") for _ in range(2)]
    for first, second in (by_header, by_member):
        assert first.json == second.json
    assert len(await stored(any_api)) == 2


@pytest.mark.parametrize("atomicity", ["partial", "atomic"])
async def test_a_request_whose_process_died_is_finished_by_its_repetition(
    any_api: Api, monkeypatch: pytest.MonkeyPatch, atomicity: str
) -> None:
    async def die(*_args: Any) -> None:
        raise BackendUnavailable("dead", outcome="not_applied")

    jobs = [JOB, {**JOB, "queue": "other"}, UNIQUE]
    own = new_job_id(0, 8, 1_700_000_000_000)
    if atomicity == "atomic":
        jobs.append({**JOB, "queue": "last", "id": own})
    with monkeypatch.context() as patched:
        patched.setattr("ojs_cluster.store.engine.enqueue.idempotency.end", die)
        died = await repeat(any_api, jobs, "k", atomicity=atomicity)
    assert (died.status, died.error["details"]["outcome"]) == (503, "unknown")
    again = await repeat(any_api, jobs, "k", atomicity=atomicity)
    assert again.status == 201
    ids = [item["job"]["id"] for item in again.json["items"]]
    assert (await repeat(any_api, jobs, "k", atomicity=atomicity)).json == again.json
    assert sorted(await stored(any_api)) == sorted([ids[0], ids[2]])
    assert [job["id"] for job in await any_api.fetch("other")] == [ids[1]]
    assert ids[3:] == ([own] if atomicity == "atomic" else [])
    assert len(await any_api.fetch("last")) == len(ids[3:])


@pytest.mark.parametrize("atomicity", ["partial", "atomic"])
async def test_repetitions_at_the_same_time_all_succeed(any_api: Api, atomicity: str) -> None:
    own = new_job_id(0, 8, 1_700_000_000_000)
    jobs = [{**JOB, "id": own}, {**JOB, "queue": "other"}]
    jobs.append({**JOB, "id": new_job_id(1, 8, 1_700_000_000_001)})
    replies: list[Reply] = []

    async def send(number: int) -> None:
        headers = {"Idempotency-Key": "k", "traceparent": f"00-{'1' * 32}-{number:016x}-01"}
        body = {"jobs": jobs, "atomicity": atomicity}
        replies.append(await any_api.post(BULK, body, headers=headers))

    async with trio.open_nursery() as nursery:
        for number in range(1, 4):
            nursery.start_soon(send, number)
    await send(4)
    assert [reply.status for reply in replies] == [201] * 4
    [ids] = {tuple(item["job"]["id"] for item in reply.json["items"]) for reply in replies}
    assert sorted(await stored(any_api)) == sorted([ids[0], ids[2]])
    assert ids[0] == own
    changed = await repeat(any_api, [{**JOB, "id": own, "args": [2]}], "k2")
    assert (changed.status, statuses(changed)) == (422, ["failed"])
    kept = await repeat(any_api, [{**JOB, "id": own, "args": [2]}], "k2")
    assert kept.json == changed.json


def keys_kept(backend: Embedded) -> int:
    with observer(backend) as db:
        return sum(1 for _ in db.scan_iter(match="ojs:*:ik:*", count=10_000))


@pytest.mark.parametrize("atomicity", ["partial", "atomic"])
async def test_a_full_queue_takes_the_repetition_when_it_has_room(
    any_api: Api, backend: Embedded, atomicity: str
) -> None:
    await bound(any_api, 1)
    await any_api.enqueue(options={"queue": "imports"})
    for _ in range(2):
        refused = await repeat(any_api, [JOB], "k", atomicity=atomicity)
        assert refused.json["items"][0]["error"]["retryable"] is True
    with observer(backend) as db:
        [key] = db.scan_iter(match="ojs:*:ik:*", count=10_000)
        assert db.pttl(key) <= idempotency.FORGOTTEN_MS, (
            "nothing is stored, so little is remembered"
        )
    other = await repeat(any_api, [{**JOB, "args": [2]}], "k", atomicity=atomicity)
    assert other.status == 422, "the key is free for another request"
    await stored(any_api)
    made = await repeat(any_api, [JOB], "k", atomicity=atomicity)
    assert (made.status, statuses(made)) == (201, ["created"])
    again = await repeat(any_api, [JOB], "k", atomicity=atomicity)
    assert again.json == made.json


async def test_a_job_that_was_refused_for_a_time_is_tried_again_beside_stored_ones(
    any_api: Api,
) -> None:
    await bound(any_api, 1)
    jobs = [JOB, {**JOB, "queue": "other"}, JOB]
    first = await repeat(any_api, jobs, "k")
    assert (first.status, statuses(first)) == (207, ["created", "created", "failed"])
    ids = await stored(any_api)
    second = await repeat(any_api, jobs, "k")
    assert second.status == 201
    assert [item["job"]["id"] for item in second.json["items"]][:1] == ids
    assert await stored(any_api) == [second.json["items"][2]["job"]["id"]]
    assert (await repeat(any_api, jobs, "k")).json == second.json
    assert len(await any_api.fetch("other", count=9)) == 1


@pytest.mark.parametrize(
    ("jobs", "members"),
    [
        ([{**JOB, "type": ""}, "no job"], {}),
        ([{**JOB, "type": ""}, JOB], {"atomicity": "atomic"}),
    ],
    ids=["all invalid", "one of an atomic request"],
)
async def test_a_request_without_a_job_to_store_keeps_no_key(
    any_api: Api,
    backend: Embedded,
    monkeypatch: pytest.MonkeyPatch,
    jobs: list[Any],
    members: dict[str, Any],
) -> None:
    """Not even one to be removed: its process could die before that."""

    async def die(*_args: Any) -> None:
        raise BackendUnavailable("dead", outcome="not_applied")

    monkeypatch.setattr("ojs_cluster.store.engine.enqueue.idempotency.forget", die)
    for number in range(3):
        refused = await repeat(any_api, jobs, f"k{number % 2}", **members)
        assert (refused.status, refused.json["succeeded"]) == (422, 0)
    assert keys_kept(backend) == 0
    assert (await repeat(any_api, [JOB], "k0")).status == 201
    assert (await repeat(any_api, jobs, "k0", **members)).status == 409


async def test_a_refused_request_forgets_no_key_of_another_try(
    api: Api, standalone: Embedded
) -> None:
    """Two tries run at once. One is refused; the other has stored its jobs, and dies."""
    body = orjson.dumps({"jobs": [JOB]})
    begun = await idempotency.begin(api.app.store, ANONYMOUS.name, "k", body)
    await bound(api, 1)
    await api.enqueue(options={"queue": "imports"})
    headers = {"Idempotency-Key": "k"}
    refused = await api.post(BULK, body, headers=headers)
    assert refused.status == 422, refused.body
    assert keys_kept(standalone) == 1
    again = await idempotency.begin(api.app.store, ANONYMOUS.name, "k", body)
    assert again.seed == begun.seed


async def test_too_many_jobs_are_refused_with_the_maximum(api: Api) -> None:
    reply = await enqueue(api, [JOB] * 1001)
    assert (reply.status, reply.error["details"]["max_batch_size"]) == (413, 1000)
    assert reply.headers["x-ojs-max-batch-size"] == "1000"


async def test_a_job_whose_shard_does_not_answer_fails_alone(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = enqueue_one

    async def enqueue_or_fail(store: Any, job: Any, **options: Any) -> Any:
        if job.queue in away:
            raise BackendUnavailable("away", outcome="unknown")
        return await real(store, job, **options)

    monkeypatch.setattr(independent_jobs, "enqueue", enqueue_or_fail)
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
