"""Fetch, ack, nack and heartbeat over HTTP, and the list of workers."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app

FETCH = "/ojs/v1/workers/fetch"
ACK = "/ojs/v1/workers/ack"
NACK = "/ojs/v1/workers/nack"
BEAT = "/ojs/v1/workers/heartbeat"
UNKNOWN_ID = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


@pytest.mark.parametrize("path", [FETCH, "/ojs/v1/jobs/fetch"])
async def test_fetch_leases_jobs_in_the_order_of_queues(any_api: Api, path: str) -> None:
    for queue in ("low", "high"):
        await any_api.enqueue(options={"queue": queue})
    reply = await any_api.post(path, {"queues": ["high", "low"], "count": 5, "worker_id": "w"})
    jobs = reply.json["jobs"]
    assert [job["queue"] for job in jobs] == ["high", "low"]
    assert reply.json["job"] == jobs[0]
    for job in jobs:
        assert (job["state"], job["attempt"], job["worker_id"]) == ("active", 1, "w")
        assert job["lease_id"]
        assert job["started_at"]


async def test_a_fetch_gets_jobs_of_its_types(any_api: Api) -> None:
    for name in ("t.other", "t.own"):
        await any_api.post("/ojs/v1/jobs", {"type": name, "args": []})
    body = {"queues": ["default"], "types": ["t.own", "t.third"], "count": 10}
    assert [job["type"] for job in (await any_api.post(FETCH, body)).json["jobs"]] == ["t.own"]


async def test_types_that_are_too_long_to_store_do_not_end_a_lease(api: Api) -> None:
    await api.enqueue()
    [job] = await api.fetch(worker_id="w")
    types = [f"{'x' * 200}{number}" for number in range(100)]
    beat = {"worker_id": "w", "active_jobs": [job["id"]], "types": types}
    assert (await api.post(BEAT, beat)).json["jobs_extended"] == [job["id"]]


async def test_an_empty_fetch_is_an_empty_list(api: Api) -> None:
    reply = await api.post(FETCH, {"queues": ["default"]})
    assert (reply.status, reply.json) == (200, {"jobs": []})


async def test_fetch_gives_at_most_the_configured_number(standalone: Embedded) -> None:
    async with open_app(standalone, max_fetch_count=2) as app:
        api = Api(app)
        for _ in range(3):
            await api.enqueue()
        assert len(await api.fetch(count=1000)) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "queues"),
        ({"queues": []}, "queues"),
        ({"queues": "default"}, "queues"),
        ({"queues": ["ok", 1]}, "queues[1]"),
        ({"queues": ["ok", "No"]}, "queues[1]"),
        ({"queues": ["a"], "count": 0}, "count"),
        ({"queues": ["a"], "count": "2"}, "count"),
        ({"queues": ["a"], "count": True}, "count"),
        ({"queues": ["a"], "wait_ms": -1}, "wait_ms"),
        ({"queues": ["a"], "worker_id": "a\nb"}, "worker_id"),
        ({"queues": ["a"], "worker_id": "w" * 256}, "worker_id"),
        ({"queues": ["a"], "visibility_timeout_ms": -5}, "visibility_timeout_ms"),
        ({"queues": ["a"], "types": []}, "types"),
        ({"queues": ["a"], "types": ["a"] * 101}, "types"),
        ({"queues": ["a"], "types": ["ok", "No"]}, "types[1]"),
        ({"queues": ["a"], "types": "ok"}, "types"),
    ],
)
async def test_fetch_refuses_bad_members(api: Api, body: Any, field: str) -> None:
    reply = await api.post(FETCH, body)
    assert reply.status == 400
    assert reply.error["code"] == "invalid_request"
    assert reply.error["details"]["field"] == field


@pytest.mark.parametrize("path", [FETCH, ACK, NACK, BEAT])
@pytest.mark.parametrize("body", [b"", b"  ", b"nope", b"[]", b'"x"', b"\xff{}", b"[" * 5000])
async def test_a_body_that_is_no_object_is_an_invalid_payload(
    api: Api, path: str, body: bytes
) -> None:
    reply = await api.post(path, body, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.error["code"]) == (400, "invalid_payload")


async def test_ack_completes_and_answers_flat_and_nested(any_api: Api) -> None:
    job = await any_api.active()
    result = b'{ "big":123456789012345678901234567890 , "f":1.0}'
    body = b'{"job_id":"%b","worker_id":"w1","result":%b}' % (job["id"].encode(), result)
    reply = await any_api.post(ACK, body)
    assert reply.status == 200
    answer = reply.json
    assert answer["acknowledged"] is True
    assert answer["id"] == answer["job_id"] == job["id"]
    assert answer["state"] == answer["job"]["state"] == "completed"
    assert answer["completed_at"] == answer["job"]["completed_at"]
    assert b'"result":' + result in reply.body
    assert "lease_id" not in answer["job"]


async def test_ack_by_path_needs_no_body(api: Api) -> None:
    job = await api.active()
    reply = await api.post(f"/ojs/v1/jobs/{job['id']}/ack")
    assert (reply.status, reply.json["job"]["state"]) == (200, "completed")


async def test_ack_takes_id_for_job_id(api: Api) -> None:
    job = await api.active()
    assert (await api.post(ACK, {"id": job["id"]})).status == 200


async def test_a_null_result_is_a_result(api: Api) -> None:
    job = await api.active()
    reply = await api.post(ACK, {"job_id": job["id"], "result": None})
    assert reply.json["job"]["result"] is None


async def test_only_the_holder_may_ack_and_may_repeat_it(api: Api) -> None:
    job = await api.active()
    stranger = await api.post(ACK, {"job_id": job["id"], "worker_id": "w2"})
    assert (stranger.status, stranger.error["code"]) == (409, "conflict")
    stale = await api.post(ACK, {"job_id": job["id"], "lease_id": "lease_of_another"})
    assert stale.status == 409
    mine = {"job_id": job["id"], "lease_id": job["lease_id"], "result": 7}
    first, again = await api.post(ACK, mine), await api.post(ACK, mine)
    assert (first.status, again.status) == (200, 200)
    assert again.json == first.json
    assert (await api.post(ACK, {"job_id": job["id"]})).status == 409


@pytest.mark.parametrize("path", [ACK, NACK])
async def test_settling_a_job_that_is_not_there_is_404(api: Api, path: str) -> None:
    for job_id in (UNKNOWN_ID, "nonsense"):
        assert (await api.post(path, {"job_id": job_id})).status == 404
    for body in ({}, {"job_id": ""}, {"job_id": None}):
        missing = await api.post(path, body)
        assert (missing.status, missing.error["details"]["field"]) == (400, "job_id")


async def test_settling_a_waiting_job_is_a_conflict(api: Api) -> None:
    job = await api.enqueue()
    for path in (ACK, NACK):
        reply = await api.post(path, {"job_id": job["id"]})
        assert (reply.status, reply.error["retryable"]) == (409, False)
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"] == job


async def test_a_result_above_the_limit_is_refused_and_the_job_stays(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, store=StoreSettings(result_max_bytes=100)) as app:
        api = Api(app)
        job = await api.active()
        reply = await api.post(ACK, {"job_id": job["id"], "result": "x" * 200})
        assert (reply.status, reply.error["code"]) == (413, "payload_too_large")
        assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"] == "active"


async def test_nack_plans_a_retry(any_api: Api) -> None:
    retry = {"max_attempts": 3, "initial_interval": "PT2S", "jitter": False}
    job = await any_api.active(options={"retry": retry})
    error = {"code": "handler_error", "message": "no", "details": {"error_class": "Io"}}
    reply = await any_api.post(NACK, {"job_id": job["id"], "worker_id": "w1", "error": error})
    assert reply.status == 200
    answer = reply.json
    assert answer["state"] == answer["job"]["state"] == "retryable"
    assert (answer["attempt"], answer["max_attempts"]) == (1, 3)
    assert answer["retry_delay_ms"] == 2000
    assert answer["next_attempt_at"] == answer["job"]["next_attempt_at"]
    assert "discarded_at" not in answer
    assert "completed_at" not in answer
    assert answer["job"]["error"]["type"] == "Io"


@pytest.mark.parametrize("sent", ["boom", None, {"message": "boom"}])
async def test_nack_takes_any_shape_of_error(api: Api, sent: Any) -> None:
    job = await api.active()
    body = {} if sent is None else {"error": sent}
    reply = await api.post(f"/ojs/v1/jobs/{job['id']}/nack", body)
    error = reply.json["job"]["error"]
    assert (error["code"], error["type"], error["attempt"]) == ("handler_error",) * 2 + (1,)
    assert error["message"] == ("" if sent is None else "boom")


async def test_a_failure_for_good_is_discarded_with_both_times(api: Api) -> None:
    job = await api.active()
    reply = await api.post(NACK, {"job_id": job["id"], "error": {"retryable": False}})
    answer = reply.json
    assert answer["state"] == "discarded"
    assert answer["discarded_at"] == answer["completed_at"]
    assert "next_attempt_at" not in answer
    assert "retry_delay_ms" not in answer


async def test_requeue_wins_over_retryable_false(api: Api) -> None:
    job = await api.active()
    body = {"job_id": job["id"], "error": {"retryable": False}, "requeue": True}
    reply = await api.post(NACK, body)
    assert (reply.json["state"], reply.json["requeued"]) == ("available", True)
    assert (await api.fetch())[0]["id"] == job["id"]


@pytest.mark.parametrize("how", ["one", "path", "batch"])
async def test_a_job_that_was_not_started_is_returned_without_an_attempt(
    any_api: Api, how: str
) -> None:
    first, second = [await any_api.enqueue() for _ in range(2)]
    [job] = await any_api.fetch()
    assert (job["id"], job["attempt"]) == (first["id"], 1)
    body = {"lease_id": job["lease_id"], "requeue": True, "started": False}
    for _ in range(2):  # a repeated request changes nothing
        if how == "batch":
            nacks = {"nacks": [{"job_id": job["id"], **body}]}
            [result] = (await any_api.post(f"{NACK}/batch", nacks)).json["results"]
        elif how == "path":
            result = (await any_api.post(f"/ojs/v1/jobs/{job['id']}/nack", body)).json
        else:
            result = (await any_api.post(NACK, {"job_id": job["id"], **body})).json
        assert result["state"] == "available"
    shown = (await any_api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"]
    assert (shown["attempt"], "started_at" in shown, shown.get("errors")) == (0, False, None)
    again = [(await any_api.fetch())[0] for _ in range(2)]
    assert [(it["id"], it["attempt"]) for it in again] == [(first["id"], 1), (second["id"], 1)]


@pytest.mark.parametrize(
    "body", [{"requeue": True}, {"lease_id": "x"}, {"requeue": False, "lease_id": "x"}]
)
async def test_a_job_is_returned_without_an_attempt_only_with_its_lease(
    api: Api, body: dict[str, Any]
) -> None:
    job = await api.active()
    reply = await api.post(NACK, {"job_id": job["id"], "started": False, **body})
    assert (reply.status, reply.error["details"]["field"]) == (400, "started")


@pytest.mark.parametrize("path", [BEAT, "/ojs/v1/workers/beat"])
async def test_a_heartbeat_extends_what_the_worker_holds(any_api: Api, path: str) -> None:
    mine = await any_api.active(queue="a")
    other = await any_api.enqueue(options={"queue": "b"})
    body = {"worker_id": "w1", "active_jobs": [mine["id"], other["id"], "junk", UNKNOWN_ID]}
    reply = await any_api.post(path, body)
    assert reply.status == 200
    assert reply.json["acknowledged"] is True
    assert (reply.json["state"], reply.json["directive"]) == ("running", "")
    assert reply.json["jobs_extended"] == [mine["id"]]
    assert reply.json["server_time"].endswith("Z")


async def test_every_form_of_heartbeat_is_understood(api: Api) -> None:
    job = await api.active()
    for members in (
        {"job_id": job["id"]},
        {"active_job_ids": [job["id"]], "active_jobs": 1, "state": "running"},
        {"active_jobs": [job["id"]], "leases": {job["id"]: job["lease_id"]}},
    ):
        reply = await api.post(BEAT, {"worker_id": "w1", **members})
        assert (reply.status, reply.json["jobs_extended"]) == (200, [job["id"]])
    stale = {"active_jobs": [job["id"]], "leases": {job["id"]: "old"}}
    assert (await api.post(BEAT, {"worker_id": "w1", **stale})).json["jobs_extended"] == []


async def test_a_heartbeat_names_cancelled_jobs(any_api: Api) -> None:
    kept, gone = [await any_api.active(queue=queue) for queue in ("a", "b")]
    await any_api.post(f"/ojs/v1/jobs/{gone['id']}/cancel")
    reply = await any_api.post(BEAT, {"worker_id": "w1", "active_jobs": [kept["id"], gone["id"]]})
    assert reply.json["jobs_extended"] == [kept["id"]]
    assert reply.json["jobs_cancelled"] == [gone["id"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "worker_id"),
        ({"worker_id": ""}, "worker_id"),
        ({"worker_id": 5}, "worker_id"),
        ({"worker_id": "w", "active_jobs": "x"}, "active_jobs"),
        ({"worker_id": "w", "active_jobs": -1}, "active_jobs"),
        ({"worker_id": "w", "active_jobs": ["x"] * 1001}, "active_jobs"),
        ({"worker_id": "w", "labels": ["x" * 9000]}, "labels"),
    ],
)
async def test_heartbeat_refuses_bad_members(api: Api, body: Any, field: str) -> None:
    reply = await api.post(BEAT, body)
    assert (reply.status, reply.error["details"]["field"]) == (400, field)


@pytest.mark.parametrize("directive", ["quiet", "terminate"])
async def test_a_test_directive_is_returned_only_under_test_hooks(
    standalone: Embedded, directive: str
) -> None:
    for hooks, expected in ((True, directive), (False, "running")):
        async with open_app(standalone, test_hooks=hooks) as app:
            api = Api(app)
            job = await api.active(options={"metadata": {"test_directive": directive}})
            beat = {"worker_id": "w1", "active_jobs": [job["id"]]}
            assert (await api.post(BEAT, beat)).json["state"] == expected
            other = {"worker_id": "w9", "active_jobs": [job["id"]]}
            assert (await api.post(BEAT, other)).json["state"] == "running"
            await api.post(ACK, {"job_id": job["id"]})


@pytest.mark.parametrize(
    "members",
    [
        *({"state": word} for word in ("quiet", "drain", "draining", "shutting_down", "stopping")),
        {"state": "x", "shutdown": True},
    ],
)
async def test_a_draining_worker_gets_no_jobs_and_shows_it(
    any_api: Api, members: dict[str, Any]
) -> None:
    await any_api.enqueue()
    beat = {"worker_id": "w1", "active_jobs": 0, **members}
    assert (await any_api.post(BEAT, beat)).status == 200
    assert await any_api.fetch(worker_id="w1") == []
    health = await any_api.get("/ojs/v1/workers/w1/health")
    assert (health.status, health.json["state"]) == (503, "draining")
    assert len(await any_api.fetch(worker_id="w2")) == 1


async def test_workers_are_listed_with_their_own_description(any_api: Api) -> None:
    beat = {"worker_id": 'w"1', "active_jobs": 2, "hostname": "h", "pid": 7, "labels": ["a"]}
    await any_api.post(BEAT, beat)
    await any_api.fetch(worker_id="fetcher")
    reply = await any_api.get("/ojs/v1/workers")
    workers = {worker["id"]: worker for worker in reply.json["workers"]}
    assert workers.keys() == {'w"1', "fetcher"}
    assert reply.json["total"] == 2
    said = workers['w"1']
    assert (said["hostname"], said["pid"], said["labels"]) == ("h", 7, ["a"])
    assert (said["state"], said["active_jobs"]) == ("running", 2)
    assert (await any_api.get("/ojs/v1/workers/fetcher/health")).status == 200
    page = (await any_api.get("/ojs/v1/workers?limit=1")).json
    assert len(page["workers"]) == 1
    assert page["pagination"]["has_more"] is True


async def test_an_unknown_worker_has_no_health(api: Api) -> None:
    reply = await api.get("/ojs/v1/workers/unknown/health")
    assert (reply.status, reply.error["code"]) == (404, "not_found")


async def test_a_worker_that_has_terminated_removes_itself(any_api: Api) -> None:
    worker = "/ojs/v1/workers/host%2F1"
    await any_api.post(BEAT, {"worker_id": "host/1"})
    assert (await any_api.delete(worker)).status == 409
    await any_api.post(BEAT, {"worker_id": "host/1", "state": "terminate", "active_jobs": []})
    reply = await any_api.delete(worker)
    assert (reply.status, reply.json["worker_id"]) == (200, "host/1")
    assert (await any_api.get("/ojs/v1/workers")).json["workers"] == []
    assert (await any_api.delete(worker)).status == 404
