"""Enqueue, read, cancel, activate and list jobs over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.http.handlers import jobs
from ojs_cluster.store.features.search import lists
from tests.http.api import Api

UNKNOWN = "/ojs/v1/jobs/01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


async def test_enqueue_answers_the_whole_job_and_where_it_is(any_api: Api) -> None:
    reply = await any_api.post("/ojs/v1/jobs", {"type": "email.send", "args": ["a", 1]})
    assert reply.status == 201
    job = reply.json["job"]
    assert job["state"] == "available"
    assert job["args"] == ["a", 1]
    assert job["meta"] == {}
    assert (job["queue"], job["attempt"], job["max_attempts"]) == ("default", 0, 3)
    assert reply.headers["location"] == f"/ojs/v1/jobs/{job['id']}"
    flat = {name: reply.json[name] for name in ("id", "type", "state", "queue")}
    assert flat == {name: job[name] for name in flat}


async def test_user_json_comes_back_byte_for_byte(api: Api) -> None:
    args = b'[1.0, 1e400, 123456789012345678901234567890, {"b":1,"a":"\\u00e9\xc3\xa9"}]'
    sent = b'{"type":"t","args":' + args + b',"meta":{"ojs.codec.key":1.50},"x_own":{ "k" : [ ] }}'
    reply = await api.post("/ojs/v1/jobs", sent)
    assert reply.status == 201
    path = "/ojs/v1/jobs/" + reply.json["id"]
    for body in (reply.body, (await api.get(path)).body):
        assert b'"args":' + args in body
        assert b'"meta":{"ojs.codec.key":1.50}' in body
        assert b'"x_own":{ "k" : [ ] }' in body


async def test_get_answers_wrapped_and_flat(api: Api) -> None:
    job = await api.enqueue()
    reply = await api.get(f"/ojs/v1/jobs/{job['id']}")
    assert reply.status == 200
    assert reply.json["job"] == job
    assert reply.json["state"] == "available"
    assert reply.json["created_at"] == job["created_at"]
    assert {name: value for name, value in reply.json.items() if name != "job"} == job


async def test_a_member_named_job_does_not_hide_the_job(api: Api) -> None:
    job = await api.enqueue(job="mine")
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"] == job
    assert job["job"] == "mine"


async def test_a_malformed_job_is_named_by_its_id_and_removed_by_cancel(api: Api) -> None:
    bad, odd, well = [await api.enqueue() for _ in range(3)]
    shard, store = api.app.store.keys.shard_of_queue("default"), api.app.store
    await store.redis.call(shard.slot, "HDEL", shard.job(bad["id"]), "q")
    # Lua takes it for a number.
    await store.redis.call(shard.slot, "HSET", shard.job(odd["id"]), "c", "0x10")

    assert [job["id"] for job in await api.fetch(count=3)] == [well["id"]]
    for call in (api.get(f"/ojs/v1/jobs/{bad['id']}"), api.post(f"/ojs/v1/jobs/{bad['id']}/nack")):
        reply = await call
        assert (reply.status, reply.error["code"]) == (500, "malformed_job")
        assert reply.error["retryable"] is False
        assert reply.error["details"]["job_id"] == bad["id"]
    reply = await api.delete(f"/ojs/v1/jobs/{bad['id']}")
    assert (reply.status, reply.json["state"]) == (200, "cancelled")
    assert (await api.get(f"/ojs/v1/jobs/{bad['id']}")).status == 404


@pytest.mark.parametrize("path", [UNKNOWN, "/ojs/v1/jobs/%7B%7Bjob_id%7D%7D", "/ojs/v1/jobs/x"])
async def test_an_unknown_job_is_404_with_hint_and_docs(api: Api, path: str) -> None:
    reply = await api.get(path)
    assert reply.status == 404
    error = reply.error
    assert (error["code"], error["retryable"]) == ("not_found", False)
    assert error["hint"]
    assert error["docs_url"] == error["doc_url"]
    assert error["details"]["resource"] == "job"


async def test_a_taken_id_is_a_duplicate(api: Api) -> None:
    job_id = "019539a4-aaaa-7bbb-8ccc-ddddeeee0001"
    await api.enqueue(id=job_id)
    reply = await api.post("/ojs/v1/jobs", {"id": job_id, "type": "t", "args": []})
    assert reply.status == 409
    assert reply.error["code"] == "duplicate"
    assert reply.error["retryable"] is False


@pytest.mark.parametrize("name", ["scheduled_at", "expires_at"])
@pytest.mark.parametrize("moment", ["9999-12-31T23:59:60Z", "0001-01-01T00:00:00+23:59"])
async def test_a_time_that_does_not_exist_is_refused(api: Api, name: str, moment: str) -> None:
    reply = await api.post("/ojs/v1/jobs", {"type": "t", "args": [], "options": {name: moment}})
    assert (reply.status, reply.error["code"]) == (400, "invalid_request")
    assert reply.error["details"]["field"] == f"options.{name}"
    assert (await api.get("/ojs/v1/events")).status == 200


@pytest.mark.parametrize("how", ["DELETE", "POST"])
async def test_cancel_ends_a_waiting_job_once(api: Api, how: str) -> None:
    path = f"/ojs/v1/jobs/{(await api.enqueue())['id']}"
    target = path if how == "DELETE" else f"{path}/cancel"
    reply = await api.call(how, target, {})
    assert reply.status == 200
    assert reply.json["job"]["state"] == "cancelled"
    assert "cancelled_at" in reply.json["job"]
    again = await api.call(how, target)
    assert (again.status, again.error["code"]) == (409, "conflict")


async def test_cancel_of_an_unknown_job_is_404(api: Api) -> None:
    assert (await api.delete(UNKNOWN)).status == 404


async def test_a_pending_job_waits_for_activation(api: Api) -> None:
    job = await api.enqueue(options={"pending": True})
    assert job["state"] == "pending"
    assert await api.fetch() == []
    reply = await api.post(f"/ojs/v1/jobs/{job['id']}/activate")
    assert (reply.status, reply.json["job"]["state"]) == (200, "available")
    assert (await api.post(f"/ojs/v1/jobs/{job['id']}/activate")).status == 409


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_payload", "body"),
        (b"{", 400, "invalid_payload", "body"),
        (b"[]", 400, "invalid_payload", "body"),
        (b'{"type":"t","args":[\xff]}', 400, "invalid_payload", "body"),
        (b'{"args":[]}', 400, "invalid_request", "type"),
        (b'{"type":"t"}', 400, "invalid_request", "args"),
        (b'{"type":"t","args":[],"id":""}', 400, "invalid_request", "id"),
        (
            b'{"type":"t","args":[],"options":{"retry":{"max_attempts":-1}}}',
            422,
            "validation_error",
            "options.retry.max_attempts",
        ),
    ],
)
async def test_a_bad_job_is_refused_with_its_field(
    api: Api, body: bytes, status: int, code: str, field: str
) -> None:
    reply = await api.post("/ojs/v1/jobs", body, headers={"Content-Type": "application/json"})
    error = reply.error
    assert (reply.status, error["code"], error["details"]["field"]) == (status, code, field)
    assert error["type"] == code
    assert error["retryable"] is False
    assert (await api.get("/ojs/v1/jobs")).json["jobs"] == []


async def test_list_walks_all_jobs_by_cursor(any_api: Api) -> None:
    sent = {(await any_api.enqueue(options={"queue": f"q{n % 3}"}))["id"] for n in range(7)}
    seen: list[str] = []
    target = "/ojs/v1/jobs?limit=3"
    while True:
        reply = await any_api.get(target)
        assert reply.status == 200
        assert len(reply.json["jobs"]) <= 3
        seen += [job["id"] for job in reply.json["jobs"]]
        cursor = reply.json["pagination"].get("next_cursor")
        assert reply.json["pagination"]["has_more"] is (cursor is not None)
        if cursor is None:
            break
        target = f"/ojs/v1/jobs?limit=3&cursor={cursor}"
    assert sorted(seen) == sorted(sent)


async def test_list_with_offset_skips_jobs_and_counts_them(api: Api) -> None:
    for _ in range(5):
        await api.enqueue()
    reply = await api.get("/ojs/v1/jobs?queue=default&limit=2&offset=2")
    assert len(reply.json["jobs"]) == 2
    assert reply.json["total"] == 5
    assert reply.json["pagination"]["offset"] == 2
    beyond = (await api.get("/ojs/v1/jobs?limit=2&offset=9")).json
    assert (beyond["jobs"], beyond["total"]) == ([], 5)


async def test_a_read_skips_many_jobs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    read = lists.list_jobs

    async def count(*args: Any, limit: int, **options: Any) -> Any:
        limits.append(limit)
        return await read(*args, limit=limit, **options)

    monkeypatch.setattr(lists, "list_jobs", count)
    batch = [{"type": "t", "args": [], "queue": f"q{number}"} for number in range(410)]
    assert (await api.post("/ojs/v1/jobs/bulk", {"jobs": batch})).status == 201
    page = (await api.get("/ojs/v1/jobs?offset=400&limit=5")).json
    assert (len(page["jobs"]), limits) == (5, [400, 5])


async def test_list_refuses_an_offset_that_costs_too_much(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_SKIPPED_AT_ONCE", 1)
    monkeypatch.setattr(jobs, "_MAX_SKIP_READS", 2)
    for _ in range(5):
        await api.enqueue()
    assert (await api.get("/ojs/v1/jobs?offset=2")).status == 200
    reply = await api.get("/ojs/v1/jobs?offset=3")
    assert (reply.status, reply.error["details"]["field"]) == (400, "offset")


async def test_list_filters_by_state_queue_and_type(api: Api) -> None:
    wanted = await api.enqueue(type="a.b", options={"queue": "one"})
    await api.enqueue(type="a.c", options={"queue": "one"})
    await api.enqueue(type="a.b", options={"queue": "two"})
    await api.delete(f"/ojs/v1/jobs/{(await api.enqueue(type='a.b'))['id']}")
    reply = await api.get("/ojs/v1/jobs?queue=one&type=a.b&state=available")
    assert [job["id"] for job in reply.json["jobs"]] == [wanted["id"]]
    assert reply.json["total"] == 1
    assert len((await api.get("/ojs/v1/jobs?state=cancelled")).json["jobs"]) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=gone", "state"),
        ("limit=0", "limit"),
        ("limit=ten", "limit"),
        ("offset=-1", "offset"),
        ("cursor=%21", "cursor"),
        ("queue=No%20Queue", "queue"),
    ],
)
async def test_list_refuses_bad_parameters(api: Api, query: str, field: str) -> None:
    reply = await api.get(f"/ojs/v1/jobs?{query}")
    assert (reply.status, reply.error["details"]["field"]) == (400, field)
