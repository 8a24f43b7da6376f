"""Unique jobs and batches over HTTP: statuses, bodies and headers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.api import Api

JOBS = "/ojs/v1/jobs"


def body(queue: str = "q", **unique: Any) -> dict[str, Any]:
    return {"type": "t", "args": [{"n": 1}], "options": {"queue": queue, "unique": unique}}


async def test_a_duplicate_is_409_and_names_the_job_that_is_there(any_api: Api) -> None:
    first = (await any_api.post(JOBS, body())).json["job"]

    reply = await any_api.post(JOBS, body())

    assert (reply.status, reply.error["code"], reply.error["retryable"]) == (
        409,
        "duplicate",
        False,
    )
    details = reply.error["details"]
    assert (details["existing_job_id"], details["existing_job_state"]) == (first["id"], "available")


@pytest.mark.parametrize("spelling", ["ignore", "use_existing"])
async def test_an_ignored_duplicate_is_200_with_the_job_that_is_there(
    any_api: Api, spelling: str
) -> None:
    first = await any_api.post(JOBS, body(on_conflict=spelling))
    again = await any_api.post(JOBS, body(on_conflict=spelling))

    assert (first.status, again.status) == (201, 200)
    assert again.json["job"]["id"] == again.json["id"] == first.json["job"]["id"]
    assert again.json["deduplicated"] is True
    assert "deduplicated" not in first.json
    assert "location" in first.headers
    assert "location" not in again.headers


async def test_a_replaced_job_is_cancelled(any_api: Api) -> None:
    first = (await any_api.post(JOBS, body())).json["job"]

    reply = await any_api.post(JOBS, body("other", on_conflict="replace"))

    assert reply.status == 201
    old = (await any_api.get(f"{JOBS}/{first['id']}")).json["job"]
    assert old["state"] == "cancelled"
    assert [job["id"] for job in await any_api.fetch("other")] == [reply.json["job"]["id"]]
    assert await any_api.fetch("q") == []


async def test_a_dead_letter_is_not_retried_beside_a_job_of_its_uniqueness(any_api: Api) -> None:
    wanted = body()
    wanted["options"]["retry"] = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    dead = (await any_api.post(JOBS, wanted)).json["job"]
    await any_api.fetch("q")
    failed = {"job_id": dead["id"], "error": {"message": "boom"}}
    assert (await any_api.post("/ojs/v1/workers/nack", failed)).json["state"] == "discarded"
    live = (await any_api.post(JOBS, body())).json["job"]
    retry = f"/ojs/v1/dead-letter/{dead['id']}/retry"

    reply = await any_api.post(retry)

    assert (reply.status, reply.error["code"]) == (409, "duplicate")
    assert reply.error["details"]["existing_job_id"] == live["id"]
    await any_api.fetch("q")
    await any_api.post("/ojs/v1/workers/ack", {"job_id": live["id"]})
    assert (await any_api.post(retry)).json["job"]["state"] == "available"


async def test_a_batch_returns_the_number_of_new_jobs(any_api: Api) -> None:
    first = (await any_api.post(JOBS, body())).json["job"]

    reply = await any_api.post(
        f"{JOBS}/batch", {"jobs": [body(on_conflict="ignore"), {"type": "u", "args": []}]}
    )

    assert reply.status == 201
    assert [job["type"] for job in reply.json["jobs"]] == ["t", "u"]
    assert reply.json["jobs"][0]["id"] == first["id"]
    assert (reply.json["count"], reply.json["enqueued"]) == (2, 1)
    assert reply.json["deduplicated"] == [0]


async def test_a_duplicate_in_a_batch_refuses_it_and_names_the_item(any_api: Api) -> None:
    await any_api.post(JOBS, body())

    reply = await any_api.post(
        f"{JOBS}/batch", {"jobs": [{"type": "u", "args": []}, body("another")]}
    )

    assert reply.status == 409
    assert reply.error["details"]["index"] == 1
    assert await any_api.fetch("default") == []


async def test_keys_that_args_do_not_have_are_422(api: Api) -> None:
    reply = await api.post(JOBS, body(keys=["args"], args_keys=["missing"]))
    assert reply.status == 422
    assert reply.error["details"]["field"] == "options.unique.args_keys"


async def test_the_manifest_declares_how_strong_uniqueness_is(api: Api) -> None:
    manifest = (await api.get("/ojs/manifest")).json
    assert manifest["unique_job_strength"] == "strong"
    assert manifest["capabilities"]["unique_jobs"] is True
