"""Many acks or nacks in one request, with independent results in order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, digest
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.redis import Client
from ojs_cluster.redis import Reply as RedisReply
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, Reply, open_app
from tests.support.lossy import without

ACK = "/ojs/v1/workers/ack/batch"
NACK = "/ojs/v1/workers/nack/batch"
UNKNOWN_ID = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
QUEUES = [f"many-{n}" for n in range(12)]


class RestrictedApi(Api):
    """Calls with a key for the queues of this file."""

    async def call(self, *args: Any, **kind: Any) -> Reply:
        kind["headers"] = {"Authorization": "Bearer many-key", **(kind.get("headers") or {})}
        return await super().call(*args, **kind)


async def active_jobs(api: Api, count: int, **options: Any) -> list[dict[str, Any]]:
    """Return jobs of queues in several shards, fetched by worker ``w1``."""
    for number in range(count):
        await api.enqueue(options={"queue": QUEUES[number % len(QUEUES)], **options})
    jobs = await api.fetch(*QUEUES, count=100, worker_id="w1")
    assert len(jobs) == count
    return jobs


async def many(api: Api, path: str, items: list[dict[str, Any]], worker: str | None = "w1") -> Any:
    name = "acks" if path == ACK else "nacks"
    body: dict[str, Any] = {name: items}
    if worker is not None:
        body["worker_id"] = worker
    reply = await api.post(path, body)
    assert reply.status == 200, reply.body
    return reply.json


async def job_of(api: Api, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = (await api.get(f"/ojs/v1/jobs/{job_id}")).json["job"]
    return job


async def test_many_jobs_of_many_shards_are_completed_with_their_results(any_api: Api) -> None:
    jobs = await active_jobs(any_api, 40)
    acks = [
        {"job_id": job["id"], "lease_id": job["lease_id"], "result": {"n": n}}
        for n, job in enumerate(jobs)
    ]
    answer = await many(any_api, ACK, acks)
    assert answer["results"] == [
        {"job_id": job["id"], "status": 200, "state": "completed"} for job in jobs
    ]
    assert (answer["succeeded"], answer["failed"]) == (40, 0)
    for n, job in enumerate(jobs):
        assert (await job_of(any_api, job["id"]))["result"] == {"n": n}
    stats = [(await any_api.get(f"/ojs/v1/queues/{q}/stats")).json["queue"] for q in QUEUES]
    assert sum(queue["completed"] for queue in stats) == 40
    assert sum(queue["active"] for queue in stats) == 0


async def test_an_item_that_cannot_be_acked_does_not_affect_the_others(any_api: Api) -> None:
    good, lost, waiting = await active_jobs(any_api, 3)
    await any_api.post("/ojs/v1/workers/nack", {"job_id": waiting["id"], "requeue": True})
    acks = [
        {"job_id": UNKNOWN_ID},
        {"job_id": lost["id"], "lease_id": "another-lease"},
        {"job_id": good["id"]},
        {"job_id": waiting["id"]},
        {"job_id": "no id at all"},
        {"job_id": good["id"]},
    ]
    results = (await many(any_api, ACK, acks))["results"]
    assert [(result["status"], result.get("state")) for result in results] == [
        (404, None),
        (409, None),
        (200, "completed"),
        (409, None),
        (404, None),
        (200, "completed"),
    ]
    assert [result["error"]["code"] for result in results if "error" in result] == [
        "not_found",
        "conflict",
        "conflict",
        "not_found",
    ]
    assert (await job_of(any_api, lost["id"]))["state"] == "active"
    queue = (await any_api.get(f"/ojs/v1/queues/{good['queue']}/stats")).json["queue"]
    assert queue["completed"] == 1


async def test_the_same_acks_again_get_the_same_answers(any_api: Api) -> None:
    acks = [{"job_id": job["id"]} for job in await active_jobs(any_api, 5)]
    assert await many(any_api, ACK, acks) == await many(any_api, ACK, acks)
    again = await many(any_api, ACK, acks, worker="w2")
    assert [result["status"] for result in again["results"]] == [409] * 5


async def test_jobs_whose_ids_clients_chose_are_found_in_their_queues(any_api: Api) -> None:
    ids = [new_job_id(n, 8, 1_700_000_000_000) for n in range(8)]
    for job_id in ids:
        await any_api.enqueue(id=job_id, options={"queue": QUEUES[0]})
    fetched = {job["id"] for job in await any_api.fetch(QUEUES[0], count=100, worker_id="w1")}
    assert fetched == set(ids)
    answer = await many(any_api, ACK, [{"job_id": job_id} for job_id in ids])
    assert {result["status"] for result in answer["results"]} == {200}


async def test_each_nack_ends_its_job_s_attempt_in_its_own_way(any_api: Api) -> None:
    once: dict[str, Any] = {"max_attempts": 1}
    (retry,) = await active_jobs(any_api, 1)
    (last,) = await active_jobs(any_api, 1, **once)
    (discarded,) = await active_jobs(any_api, 1, **once, retry={"on_exhaustion": "dead_letter"})
    (given_back,) = await active_jobs(any_api, 1)
    nacks = [
        {"job_id": retry["id"], "error": {"code": "boom", "message": "again"}},
        {"job_id": last["id"], "error": "a plain text"},
        {"job_id": discarded["id"]},
        {"job_id": given_back["id"], "requeue": True},
        {"job_id": UNKNOWN_ID},
    ]
    results = (await many(any_api, NACK, nacks))["results"]
    assert [result.get("state") for result in results] == [
        "retryable",
        "discarded",
        "discarded",
        "available",
        None,
    ]
    assert results[4]["status"] == 404
    assert (await job_of(any_api, retry["id"]))["error"]["code"] == "boom"
    assert (await job_of(any_api, last["id"]))["error"]["message"] == "a plain text"
    dead = (await any_api.get("/ojs/v1/dead-letter")).json["jobs"]
    assert [job["id"] for job in dead] == [discarded["id"]]


async def test_dead_letters_stay_capped_when_many_jobs_fail_at_once(backend: Embedded) -> None:
    async with open_app(backend, store=StoreSettings(dead_letter_max=3)) as app:
        api = Api(app)
        for _ in range(8):
            retry = {"on_exhaustion": "dead_letter"}
            await api.enqueue(options={"queue": "graves", "max_attempts": 1, "retry": retry})
        jobs = await api.fetch("graves", count=100, worker_id="w1")
        nacks = [{"job_id": job["id"]} for job in jobs]
        answer = await many(api, NACK, nacks)
        assert answer["succeeded"] == 8
        dead = (await api.get("/ojs/v1/dead-letter")).json
        assert dead["pagination"]["total"] == 3
        assert {job["id"] for job in dead["jobs"]} == {job["id"] for job in jobs[-3:]}


async def test_a_nack_that_comes_twice_is_a_repetition_only_with_its_lease(any_api: Api) -> None:
    (job,) = await active_jobs(any_api, 1)
    named = {"job_id": job["id"], "lease_id": job["lease_id"]}
    results = (await many(any_api, NACK, [named, named, {"job_id": job["id"]}]))["results"]
    assert [result["status"] for result in results] == [200, 200, 409]
    assert (await job_of(any_api, job["id"]))["attempt"] == 1
    assert len((await job_of(any_api, job["id"]))["errors"]) == 1


async def test_workflows_advance_after_many_acks(any_api: Api) -> None:
    for _ in range(5):
        steps = [{"type": "first", "args": []}, {"type": "second", "args": []}]
        reply = await any_api.post("/ojs/v1/workflows", {"type": "chain", "steps": steps})
        assert reply.status == 201
    first = await any_api.fetch(count=100, worker_id="w1")
    await many(any_api, ACK, [{"job_id": job["id"], "result": 1} for job in first])
    second = await any_api.fetch(count=100, worker_id="w1")
    assert [job["type"] for job in second] == ["second"] * 5
    assert all(job["parent_results"] == [1] for job in second)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (ACK, {}, "acks"),
        (ACK, {"acks": []}, "acks"),
        (ACK, {"acks": {}}, "acks"),
        (ACK, {"acks": [{"job_id": UNKNOWN_ID}] * 1001}, "acks"),
        (ACK, {"acks": [{"job_id": UNKNOWN_ID}], "worker_id": "a\n"}, "worker_id"),
        (ACK, b'{"acks": [', "body"),
        (NACK, {}, "nacks"),
        (NACK, {"nacks": []}, "nacks"),
        (NACK, [], "body"),
    ],
)
async def test_a_wrong_request_is_refused_as_a_whole(
    api: Api, path: str, body: Any, field: str
) -> None:
    reply = await api.post(path, body)
    assert reply.status == 400
    assert reply.error["details"]["field"] == field


@pytest.mark.parametrize(
    ("path", "wrong", "job_id", "field"),
    [
        (ACK, {}, None, "job_id"),
        (ACK, {"job_id": 1}, None, "job_id"),
        (ACK, 7, None, "item"),
        (ACK, None, None, "item"),
        (ACK, {"job_id": UNKNOWN_ID, "lease_id": "a\n"}, UNKNOWN_ID, "lease_id"),
        (ACK, {"id": UNKNOWN_ID, "lease_id": 1}, UNKNOWN_ID, "lease_id"),
        (NACK, {"error": "lost"}, None, "job_id"),
        (NACK, {"job_id": UNKNOWN_ID, "error": 7}, UNKNOWN_ID, "error"),
        (NACK, {"job_id": UNKNOWN_ID, "requeue": "yes"}, UNKNOWN_ID, "requeue"),
        (NACK, [], None, "item"),
    ],
)
async def test_an_invalid_item_does_not_affect_the_others(
    any_api: Api, path: str, wrong: Any, job_id: str | None, field: str
) -> None:
    first, last = await active_jobs(any_api, 2)
    items = [{"job_id": first["id"]}, wrong, wrong, {"job_id": last["id"]}]
    answer = await many(any_api, path, items)
    results = answer["results"]
    assert [(result["job_id"], result["status"]) for result in results] == [
        (first["id"], 200),
        (job_id, 400),
        (job_id, 400),
        (last["id"], 200),
    ]
    assert {result["error"]["details"]["field"] for result in results[1:3]} == {field}
    assert (answer["succeeded"], answer["failed"]) == (2, 2)
    assert (await job_of(any_api, last["id"]))["state"] != "active"


async def test_a_result_that_is_too_large_keeps_only_its_own_job_active(backend: Embedded) -> None:
    async with open_app(backend, store=StoreSettings(result_max_bytes=1024)) as app:
        api = Api(app)
        jobs = await active_jobs(api, 3)
        acks: list[dict[str, Any]] = [{"job_id": job["id"], "result": 1} for job in jobs]
        acks[1]["result"] = "x" * 2000
        results = (await many(api, ACK, acks))["results"]
        assert [result["status"] for result in results] == [200, 413, 200]
        assert results[1]["error"]["code"] == "payload_too_large"
        assert results[1]["error"]["details"]["field"] == "result"
        states = [(await job_of(api, job["id"]))["state"] for job in jobs]
        assert states == ["completed", "active", "completed"]
        alone = await api.post("/ojs/v1/workers/ack", {"worker_id": "w1", **acks[1]})
        assert alone.error["message"] == results[1]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "items", "member"),
    [(ACK, "acks", '"result":%s'), (NACK, "nacks", '"error":{"details":[%s]}')],
)
async def test_an_item_may_nest_as_deep_as_a_request_of_its_own(
    any_api: Api, path: str, items: str, member: str
) -> None:
    deepest = any_api.app.settings.limits.depth - 1 - (2 if path == NACK else 0)
    for levels, status in ((deepest, 200), (deepest + 1, 400)):
        nested = member % ("[" * levels + "]" * levels)
        alone, together = await active_jobs(any_api, 2)
        single = f'{{"worker_id":"w1","job_id":"{alone["id"]}",{nested}}}'
        reply = await any_api.post(path.removesuffix("/batch"), single.encode())
        assert reply.status == status, reply.body
        item = f'{{"job_id":"{together["id"]}",{nested}}}'
        reply = await any_api.post(path, f'{{"worker_id":"w1","{items}":[{item}]}}'.encode())
        assert reply.status == status, reply.body


@dataclass
class NamedCalls:
    """A client that notes the names of the commands."""

    client: Client
    names: list[str] = field(default_factory=list)

    async def call(self, slot: int, name: str, *args: Any, **kind: Any) -> RedisReply:
        self.names.append(name)
        return await self.client.call(slot, name, *args, **kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


async def test_with_a_restricted_key_an_unreachable_job_does_not_affect_the_others(
    standalone: Embedded,
) -> None:
    owner = Principal("many", queues=QueuePatterns(["many-*"]))
    access = AccessControl(Keyring({digest("many-key"): owner}, {}))
    async with open_app(standalone, access=access) as app:
        api = RestrictedApi(app)
        jobs = await active_jobs(api, 12)
        shards = {job["id"]: app.store.keys.shard_of_id(job["id"]) for job in jobs}
        away = shards[jobs[0]["id"]]
        broken = RestrictedApi(replace(app, store=without(app.store, away)))
        items = [{"job_id": job["id"], "error": {"message": "no"}} for job in jobs]
        expected = [503 if shard is away else 200 for shard in shards.values()]
        assert set(expected) == {503, 200}
        answer = await many(broken, NACK, items)
        assert [result["status"] for result in answer["results"]] == expected
        reply = await broken.post("/ojs/v1/jobs/bulk/cancel", {"job_ids": list(shards)})
        assert reply.status == 207
        found = ["failed" if status == 503 else "cancelled" for status in expected]
        assert [item["status"] for item in reply.json["items"]] == found
        beat = {"worker_id": "w1", "active_jobs": [jobs[0]["id"]]}
        assert (await broken.post("/ojs/v1/workers/heartbeat", beat)).status == 503


async def test_the_queue_of_a_large_job_is_read_without_the_job(standalone: Embedded) -> None:
    owner = Principal("many", queues=QueuePatterns(["many-*"]))
    access = AccessControl(Keyring({digest("many-key"): owner}, {}))
    async with open_app(standalone, access=access) as app:
        jobs = await active_jobs(RestrictedApi(app), 3)
        client = NamedCalls(app.store.redis)
        store = replace(app.store, redis=cast(Client, client))
        items = [{"job_id": job["id"]} for job in jobs]
        answer = await many(RestrictedApi(replace(app, store=store)), ACK, items)
        assert answer["succeeded"] == 3
        assert client.names.count("HMGET") == 3
        assert "HGETALL" not in client.names
