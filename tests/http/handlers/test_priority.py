"""Change a priority, list retries, remove a worker, and read the metrics as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.api import Api
from tests.http.handlers.bulk.test_operations import carry_out, enqueue


async def test_a_priority_is_changed_in_both_planes(any_api: Api) -> None:
    first, second = await enqueue(any_api), await enqueue(any_api)
    reply = await any_api.call("PATCH", f"/ojs/v1/jobs/{second}", {"priority": 10})
    assert (reply.status, reply.json["job"]["priority"]) == (200, 10)
    reply = await any_api.call("PATCH", f"/ojs/v1/admin/jobs/{second}", {"priority": 20})
    assert (reply.status, reply.json["priority"]) == (200, 20)
    body = {"queues": ["mail"], "count": 2, "worker_id": "w"}
    fetched = (await any_api.post("/ojs/v1/workers/fetch", body)).json["jobs"]
    assert [job["id"] for job in fetched] == [second, first]
    reply = await any_api.call("PATCH", f"/ojs/v1/jobs/{first}", {"priority": 1})
    assert (reply.status, reply.error["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "body", [{}, {"priority": 101}, {"priority": True}, {"priority": "1"}, {"state": "active"}]
)
async def test_only_a_valid_priority_is_accepted(api: Api, body: dict[str, Any]) -> None:
    job_id = await enqueue(api)
    assert (await api.call("PATCH", f"/ojs/v1/jobs/{job_id}", body)).status == 400


async def test_a_job_is_edited_in_both_planes(any_api: Api) -> None:
    job_id = await enqueue(any_api)
    path = f"jobs/{job_id}"
    reply = await any_api.call("PATCH", f"/ojs/v1/{path}", {"args": [1], "max_attempts": 8})
    job = reply.json["job"]
    assert (reply.status, job["args"], job["max_attempts"]) == (200, [1], 8)
    reply = await any_api.call("PATCH", f"/ojs/v1/admin/{path}", {"meta": {"a": 1}, "priority": 2})
    assert (reply.status, reply.json["meta"], reply.json["priority"]) == (200, {"a": 1}, 2)
    shown = (await any_api.get(f"/ojs/v1/{path}")).json["job"]
    assert (shown["args"], shown["meta"], shown["max_attempts"]) == ([1], {"a": 1}, 8)
    later = {"scheduled_at": "+PT1H"}
    refused = await any_api.call("PATCH", f"/ojs/v1/{path}", later)
    assert (refused.status, refused.error["details"]["reason"]) == (409, "scheduled")


async def test_a_bulk_operation_changes_priorities(api: Api) -> None:
    job_id = await enqueue(api)
    body = {"action": "priority", "filter": {"queue": "mail"}, "confirm": True}
    assert (await api.post("/ojs/v1/admin/bulk", body)).error["details"]["field"] == "priority"
    wrong = {**body, "action": "cancel", "priority": 3}
    assert (await api.post("/ojs/v1/admin/bulk", wrong)).error["details"]["field"] == "priority"
    reply = await api.post("/ojs/v1/admin/bulk", {**body, "priority": 3})
    assert (reply.status, reply.json["priority"]) == (202, 3)
    await carry_out(api)
    assert (await api.get(f"/ojs/v1/jobs/{job_id}")).json["job"]["priority"] == 3


async def test_the_retries_of_a_job_are_listed(api: Api) -> None:
    retry = {"initial_interval": "PT5M", "backoff_strategy": "linear", "max_attempts": 4}
    job_id = await enqueue(api, retry=retry)
    path = f"/ojs/v1/jobs/{job_id}/retries"
    assert (await api.get(path)).json["retries"] == []
    await api.post("/ojs/v1/workers/fetch", {"queues": ["mail"], "worker_id": "w"})
    nack = {"job_id": job_id, "error": {"code": "broken", "message": "no"}}
    await api.post("/ojs/v1/workers/nack", nack)
    found = (await api.get(path)).json
    [entry] = found["retries"]
    assert (found["job_id"], found["attempt"], found["max_attempts"]) == (job_id, 1, 4)
    assert (entry["attempt"], entry["state"], entry["error"]) == (1, "failed", "no")
    assert entry["started_at"] <= entry["failed_at"] < entry["next_retry_at"]
    assert found["policy"] == {
        "max_attempts": 4,
        "backoff_strategy": "linear",
        "initial_interval": "PT5M",
        "max_interval": "PT5M",
    }


async def test_only_a_silent_worker_is_removed(api: Api) -> None:
    path = "/ojs/v1/admin/workers/w1"
    assert (await api.call("DELETE", path)).status == 404
    await api.post("/ojs/v1/workers/heartbeat", {"worker_id": "w1"})
    assert (await api.call("DELETE", path)).error["code"] == "conflict"
    shard = api.app.store.keys.shard_of_worker("w1")
    await api.app.store.redis.call(shard.slot, "HSET", shard.worker("w1"), "last_seen", 1)
    reply = await api.call("DELETE", path)
    assert (reply.status, reply.json["deregistered"]) == (200, True)
    assert (await api.get(path)).status == 404


async def test_the_metrics_are_also_json(api: Api) -> None:
    await enqueue(api)
    found = (await api.get("/ojs/v1/metrics")).json
    assert found["jobs_enqueued_total"] == 1
    assert found["jobs_active"] == 0
    assert (await api.get("/ojs/v1/metrics?format=prometheus")).body.startswith(b"# ")
