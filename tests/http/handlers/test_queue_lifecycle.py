"""Creation, configuration and deletion of queues over HTTP (spec: ojs-queue-config 5 and 9)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.api import Api

QUEUES = "/ojs/v1/queues"


def job(queue: str, **options: Any) -> dict[str, Any]:
    return {"type": "t", "args": [], "options": {"queue": queue, **options}}


async def test_a_queue_is_created_once_with_its_configuration(api: Api) -> None:
    config = {"max_size": 2, "concurrency": 3, "on_exhaustion": "dead_letter"}
    made = await api.post(QUEUES, {"name": "mail", "config": config})
    assert made.status == 201
    assert made.headers["location"] == "/ojs/v1/queues/mail"
    assert (made.json["name"], made.json["state"]) == ("mail", "active")
    assert made.json["config"] == {
        "partitions": 1,
        "on_exhaustion": "dead_letter",
        "concurrency": 3,
        "backpressure": {"max_depth": 2, "strategy": "reject", "warning_threshold": 0.8},
    }
    assert (await api.get(f"{QUEUES}/mail")).status == 200
    again = await api.post(QUEUES, {"name": "mail"})
    assert (again.status, again.error["code"]) == (409, "conflict")
    await api.enqueue(options={"queue": "used"})
    assert (await api.post(QUEUES, {"name": "used"})).status == 409


async def test_the_command_line_client_sends_the_configuration_flat(api: Api) -> None:
    made = await api.post("/ojs/v1/admin/queues", {"name": "mail", "concurrency": 3, "max_size": 9})
    assert made.json["config"]["concurrency"] == 3
    assert made.json["config"]["backpressure"]["max_depth"] == 9


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "name"),
        ({"name": "Bad"}, 400, "name"),
        ({"name": "a", "color": 1}, 400, "color"),
        ({"name": "a", "config": {"color": 1}}, 400, "color"),
        ({"name": "a", "config": {}, "concurrency": 1}, 400, "config"),
        ({"name": "a", "config": {"producers": ["x"]}}, 422, "producers"),
        ({"name": "a", "config": {"concurrency": 0}}, 400, "concurrency"),
        ({"name": "a", "config": {"overflow_policy": "reject"}}, 400, "overflow_policy"),
        ({"name": "a", "max_size": 1, "backpressure": {"max_depth": 1}}, 400, "max_size"),
        ({"name": "a", "config": 3}, 400, "config"),
        ({"name": "a", "partitions": 0}, 400, "partitions"),
        ({"name": "a", "partitions": 10**6}, 400, "partitions"),
        ({"name": "a", "partitions": 3, "concurrency": 2}, 422, "concurrency"),
    ],
)
async def test_a_refused_creation_creates_nothing(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    refused = await api.post(QUEUES, body)
    assert (refused.status, refused.error["details"]["field"]) == (status, field)
    assert (await api.get(QUEUES)).json["total"] == 0


async def test_a_refused_put_creates_nothing(api: Api) -> None:
    wrong = {"partitions": 3, "concurrency": 2}
    assert (await api.call("PUT", f"{QUEUES}/a", wrong)).status == 422
    assert (await api.get(QUEUES)).json["total"] == 0


async def test_put_creates_a_queue_and_changes_one_without_touching_its_jobs(api: Api) -> None:
    assert (await api.call("PUT", f"{QUEUES}/mail", {"name": "mail"})).status == 201
    for _ in range(3):
        await api.enqueue(options={"queue": "mail"})
    changed = await api.call("PUT", f"{QUEUES}/mail", {"config": {"max_size": 1}})
    assert (changed.status, changed.json["config"]["backpressure"]["max_depth"]) == (200, 1)
    assert (await api.get(f"{QUEUES}/mail")).json["available"] == 3
    assert (await api.post("/ojs/v1/jobs", job("mail"))).status == 429
    alias = await api.call("PUT", f"{QUEUES}/mail/config", {"max_size": None})
    assert "backpressure" not in alias.json["config"]
    assert (await api.get(f"{QUEUES}/mail/config")).json["config"] == alias.json["config"]
    wrong = await api.call("PUT", f"{QUEUES}/mail", {"name": "other"})
    assert (wrong.status, wrong.error["details"]["field"]) == (400, "name")


async def test_only_a_queue_without_jobs_is_deleted(api: Api) -> None:
    assert (await api.delete(f"{QUEUES}/mail")).status == 404
    await api.post(QUEUES, {"name": "mail", "config": {"max_size": 5}})
    await api.enqueue(options={"queue": "mail"})
    refused = await api.delete(f"{QUEUES}/mail", body={"strategy": "reject"})
    assert (refused.status, refused.error["details"]["jobs"]) == (409, 1)
    assert (await api.get(f"{QUEUES}/mail")).json["status"] == "active"
    [held] = await api.fetch("mail")
    assert (await api.delete(f"{QUEUES}/mail")).status == 409
    await api.post("/ojs/v1/workers/ack", {"job_id": held["id"], "result": {}})

    gone = await api.delete(f"{QUEUES}/mail")
    assert (gone.status, gone.json["state"], gone.json["deleted"]) == (200, "deleted", True)
    assert (await api.get(f"{QUEUES}/mail")).status == 404
    assert (await api.get(QUEUES)).json["queues"] == []
    assert (await api.delete(f"{QUEUES}/mail")).status == 404
    assert (await api.get(f"/ojs/v1/jobs/{held['id']}")).json["job"]["state"] == "completed"

    for _ in range(6):  # the next job creates the queue again, without the bound
        await api.enqueue(options={"queue": "mail"})
    assert (await api.get(f"{QUEUES}/mail")).json["available"] == 6


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"strategy": "burn"}, "strategy"),
        ({"strategy": 7}, "strategy"),
        ({"strategy": "move"}, "target_queue"),
        ({"strategy": "move", "target_queue": "mail"}, "target_queue"),
        ({"strategy": "discard", "target_queue": "other"}, "target_queue"),
    ],
)
async def test_a_wrong_deletion_is_refused(api: Api, body: dict[str, Any], field: str) -> None:
    await api.post(QUEUES, {"name": "mail"})
    refused = await api.delete(f"{QUEUES}/mail", body=body)
    assert (refused.status, refused.error["details"]["field"]) == (400, field)
    assert (await api.get(f"{QUEUES}/mail")).json["status"] == "active"


async def test_a_queue_is_deleted_with_its_jobs(api: Api) -> None:
    for _ in range(2):
        await api.enqueue(options={"queue": "old"})
    moved = await api.delete(f"{QUEUES}/old", body={"strategy": "move", "target_queue": "new"})
    assert (moved.status, moved.json["state"], moved.json["jobs_affected"]) == (200, "deleted", 2)
    assert (await api.get(f"{QUEUES}/old")).status == 404
    operation = (await api.get(f"/ojs/v1/admin/bulk/{moved.json['operation_id']}")).json
    assert (operation["action"], operation["target_queue"]) == ("move", "new")

    [held] = await api.fetch("new")
    history = (await api.get(f"/ojs/v1/jobs/{held['id']}/history")).json["events"]
    assert history[0]["data"]["queue"] == "old"
    [event] = [each for each in history if each["event_type"] == "job.moved"]
    assert (event["data"]["from"], event["data"]["to"]) == ("old", "new")

    waits = await api.delete(f"{QUEUES}/new", body={"strategy": "move", "target_queue": "old"})
    assert (waits.status, waits.json["state"], waits.json["jobs_affected"]) == (202, "draining", 1)
    gone = await api.delete(f"{QUEUES}/new", body={"strategy": "discard"})
    assert (gone.status, gone.json["deleted"], gone.json["jobs_affected"]) == (200, True, 1)
    late = await api.post("/ojs/v1/workers/ack", {"job_id": held["id"], "result": {}})
    assert late.status == 409
    job = (await api.get(f"/ojs/v1/jobs/{held['id']}")).json["job"]
    assert (job["state"], job["error"]["type"]) == ("discarded", "queue_deleted")
