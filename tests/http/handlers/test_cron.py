"""Cron jobs over HTTP: forms of requests, responses, and errors."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing_store import OccurrenceDecision
from tests.http.api import Api

CRON = "/ojs/v1/cron"
BODY: dict[str, Any] = {
    "name": "daily-report",
    "cron": "0 9 * * *",
    "timezone": "America/New_York",
    "type": "report.generate",
    "args": [{"report": 1.0}],
    "options": {"queue": "reports", "priority": 5},
    "description": "every morning",
}


async def register(api: Api, **members: Any) -> dict[str, Any]:
    reply = await api.post(CRON, {**BODY, **members})
    assert reply.status == 201, reply.body
    cron: dict[str, Any] = reply.json["cron"]
    return cron


async def test_a_registration_has_the_keys_of_every_document(any_api: Api) -> None:
    reply = await any_api.post(CRON, BODY)

    assert reply.status == 201
    assert reply.headers["location"] == f"{CRON}/daily-report"
    cron = reply.json["cron"]
    assert reply.json["cron_job"] == cron
    assert cron["expression"] == cron["cron"] == cron["schedule"] == "0 9 * * *"
    assert cron["name"] == "daily-report"
    assert (cron["enabled"], cron["status"]) == (True, "active")
    assert cron["overlap_policy"] == "skip"
    assert cron["description"] == "every morning"
    assert (cron["type"], cron["args"], cron["queue"]) == (
        "report.generate",
        [{"report": 1.0}],
        "reports",
    )
    assert cron["options"] == {"queue": "reports", "priority": 5}
    assert cron["job_template"]["options"] == cron["options"]
    assert (cron["last_run_at"], cron["run_count"]) == (None, 0)
    local = datetime.fromisoformat(cron["next_run_at"]).astimezone(ZoneInfo("America/New_York"))
    assert (local.hour, local.minute, local.second) == (9, 0, 0)
    assert b'"args":[{"report":1.0}]' in reply.body.replace(b" ", b"")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "expression": "@daily", "job_template": {"type": "a.b", "args": [1]}},
        {"name": "x", "cron": "@daily", "type": "a.b", "args": [1], "meta": {}},
        {"name": "x", "schedule": "@daily", "type": "a.b", "args": [1], "timezone": None},
    ],
)
async def test_every_form_of_a_registration_has_the_same_result(
    api: Api, body: dict[str, Any]
) -> None:
    reply = await api.post(CRON, body)

    assert reply.status == 201, reply.body
    cron = reply.json["cron"]
    assert (cron["expression"], cron["type"], cron["args"]) == ("@daily", "a.b", [1])
    assert (cron["timezone"], cron["queue"]) == ("UTC", "default")


async def test_args_may_be_left_out_and_the_queue_may_stand_alone(api: Api) -> None:
    await api.post(CRON, {"name": "x", "schedule": "@daily", "type": "a.b", "queue": "etl"})

    reply = await api.post(f"{CRON}/x/trigger")

    assert reply.status == 201
    [job] = await api.fetch("etl")
    assert (job["id"], job["args"]) == (reply.json["job"]["id"], [])
    assert reply.headers["location"] == f"/ojs/v1/jobs/{job['id']}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"),
        ({"name": "Has Space"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"cron": None}, "cron"),
        ({"cron": ""}, "cron"),
        ({"cron": "99 25 32 13 8"}, "cron"),
        ({"cron": 5}, "cron"),
        ({"timezone": "EST"}, "timezone"),
        ({"timezone": 1}, "timezone"),
        ({"overlap_policy": "often"}, "overlap_policy"),
        ({"enabled": "yes"}, "enabled"),
        ({"type": "No Type"}, "type"),
        ({"args": {}}, "args"),
        ({"meta": 5}, "meta"),
        ({"options": {"queue": "NO"}}, "options.queue"),
        ({"options": {"retry": {"max_attempts": -1}}}, "options.retry.max_attempts"),
        ({"job_template": []}, "job_template"),
        ({"job_template": {"args": []}}, "type"),
        ({"description": 5}, "description"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, change: dict[str, Any], field: str) -> None:
    reply = await api.post(CRON, {**BODY, **change})

    assert reply.status in (400, 422)
    assert reply.error["details"]["field"] == field
    assert (await api.get(CRON)).json["crons"] == []


async def test_a_name_may_be_registered_again(api: Api) -> None:
    first = await register(api)

    reply = await api.post(CRON, {**BODY, "cron": "@hourly", "run_count": 99, "created_at": "x"})

    assert reply.status == 201
    cron = reply.json["cron"]
    assert (cron["cron"], cron["created_at"], cron["run_count"]) == (
        "@hourly",
        first["created_at"],
        0,
    )
    assert (await api.get(CRON)).json["count"] == 1


async def test_lists_have_the_keys_of_every_document(any_api: Api) -> None:
    empty = (await any_api.get(CRON)).json
    assert empty["crons"] == empty["cron_jobs"] == empty["items"] == []
    for name in ("a", "b", "c"):
        await register(any_api, name=name, enabled=name != "b")

    reply = (await any_api.get("/ojs/v1/crons?limit=2")).json

    assert [cron["name"] for cron in reply["crons"]] == ["a", "c"]
    assert reply["crons"] == reply["items"] == reply["cron_jobs"]
    assert (reply["count"], reply["total"], reply["pagination"]["has_more"]) == (2, 3, True)
    rest = await any_api.get(f"{CRON}?limit=2&cursor={reply['pagination']['next_cursor']}")
    assert [cron["name"] for cron in rest.json["crons"]] == ["b"]
    off = (await any_api.get(f"{CRON}?enabled=false")).json
    assert [cron["name"] for cron in off["crons"]] == ["b"]
    assert (await any_api.get(f"{CRON}?enabled=maybe")).status == 400


async def test_pausing_removes_the_next_run_and_resuming_sets_one(api: Api) -> None:
    await register(api)

    paused = (await api.post(f"{CRON}/daily-report/pause")).json["cron"]
    resumed = (await api.post(f"{CRON}/daily-report/resume")).json["cron"]

    assert (paused["enabled"], paused["status"], paused["next_run_at"]) == (False, "paused", None)
    assert resumed["enabled"] is True
    assert resumed["next_run_at"] is not None


async def test_a_patch_changes_what_it_names_only(api: Api) -> None:
    await register(api, meta={"k": 1e2})

    reply = await api.call(
        "PATCH",
        "/ojs/v1/crons/daily-report",
        {"schedule": "@weekly", "enabled": False, "name": "other", "args": [2]},
    )

    assert reply.status == 200
    cron = reply.json["cron"]
    assert (cron["name"], cron["cron"], cron["enabled"]) == ("daily-report", "@weekly", False)
    assert (cron["timezone"], cron["args"], cron["meta"]) == (BODY["timezone"], [2], {"k": 1e2})
    assert cron["options"] == BODY["options"]
    assert (await api.call("PATCH", f"{CRON}/daily-report", {"cron": "x"})).status == 400


async def test_a_delete_returns_the_deleted_cron_job(api: Api) -> None:
    await register(api)

    reply = await api.delete(f"{CRON}/daily-report")

    assert reply.status == 200
    assert (reply.json["deleted"], reply.json["name"]) == (True, "daily-report")
    assert reply.json["cron"]["name"] == "daily-report"
    assert (await api.get(CRON)).json["crons"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/trigger"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/history"),
    ],
)
@pytest.mark.parametrize("name", ["missing", "Bad%20Name", "x" * 300])
async def test_an_unknown_name_is_not_found(api: Api, method: str, path: str, name: str) -> None:
    reply = await api.call(method, f"{CRON}/{name}{path}", {} if method == "PATCH" else None)

    assert reply.status == 404
    assert reply.error["code"] == "not_found"


async def test_history_and_events_show_runs(any_api: Api) -> None:
    await register(any_api)
    job = (await any_api.post(f"{CRON}/daily-report/trigger")).json["job"]

    [past] = (await any_api.get(f"{CRON}/daily-report/history")).json["history"]
    events = (await any_api.get("/ojs/v1/events?types=cron.triggered&queues=reports")).json

    assert (past["outcome"], past["reason"], past["job_id"]) == ("triggered", "manual", job["id"])
    assert [event["data"]["job_id"] for event in events["events"]] == [job["id"]]
    assert job["meta"]["cron_name"] == "daily-report"
    assert (await any_api.get(f"{CRON}/daily-report")).json["cron"]["run_count"] == 1


async def test_history_has_the_reason_of_a_failed_occurrence(any_api: Api) -> None:
    await register(any_api)
    store = any_api.app.store
    record = await cron.get(store, "daily-report")
    claim = OccurrenceDecision(False, "", "args must be an array", occurrence_ms=record.next_ms)
    assert await RedisCronStore(store).claim(record, claim) is not None

    [past] = (await any_api.get(f"{CRON}/daily-report/history")).json["history"]

    assert (past["outcome"], past["reason"]) == ("failed", "unusable_job")
    assert past["error"] == "args must be an array"
    assert "job_id" not in past


async def test_a_trigger_returns_an_existing_unique_job(any_api: Api) -> None:
    await register(any_api, options={"queue": "reports", "unique": {}})
    first = (await any_api.post(f"{CRON}/daily-report/trigger")).json["job"]

    refused = await any_api.post(f"{CRON}/daily-report/trigger")

    assert (refused.status, refused.error["code"]) == (409, "duplicate")
    assert refused.error["details"]["existing_job_id"] == first["id"]
    change = {"options": {"queue": "reports", "unique": {"on_conflict": "ignore"}}}
    assert (await any_api.call("PATCH", f"{CRON}/daily-report", change)).status == 200
    ignored = await any_api.post(f"{CRON}/daily-report/trigger")
    assert (ignored.status, ignored.json["deduplicated"]) == (200, True)
    assert ignored.json["job"]["id"] == first["id"]
    assert "location" not in ignored.headers


async def test_the_manifest_declares_the_feature(api: Api) -> None:
    assert (await api.get("/ojs/manifest")).json["capabilities"]["cron_jobs"] is True
