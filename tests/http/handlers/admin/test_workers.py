"""Workers in the admin API: list, counts, and directives."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api
from tests.support.servers import observer
from tests.support.timeshift import age_worker

WORKERS = "/ojs/v1/admin/workers"
BEAT = "/ojs/v1/workers/heartbeat"


async def beat(api: Api, name: str, **members: Any) -> Any:
    return (await api.post(BEAT, {"worker_id": name, **members})).json


async def listed(api: Api) -> tuple[dict[str, str], Any]:
    reply = (await api.get(WORKERS)).json
    return {item["id"]: item["state"] for item in reply["items"]}, reply["summary"]


async def test_workers_are_listed_and_summed_up(any_api: Api, backend: Embedded) -> None:
    await beat(any_api, "runs", hostname="h", queues=["mail"], concurrency=5, active_jobs=2)
    await beat(any_api, "says", state="quiet")
    await beat(any_api, "told")
    await any_api.post(f"{WORKERS}/told/quiet")
    await beat(any_api, "gone")
    with observer(backend) as db:
        age_worker(db, any_api.app.store.keys.shard_of_worker("gone"), "gone", 60_000)

    reply = (await any_api.get(WORKERS)).json

    items = {item["id"]: item for item in reply["items"]}
    states = {name: item["state"] for name, item in items.items()}
    assert states == {"runs": "running", "says": "quiet", "told": "quiet", "gone": "stale"}
    assert reply["summary"] == {
        "total": 4,
        "running": 1,
        "quiet": 2,
        "terminate": 0,
        "stale": 1,
    }
    assert (items["runs"]["hostname"], items["runs"]["queues"]) == ("h", ["mail"])
    assert (items["runs"]["concurrency"], items["runs"]["active_jobs"]) == (5, 2)
    assert items["runs"]["last_heartbeat_at"].endswith("Z")
    assert items["told"]["directive"] == "quiet"
    assert reply["pagination"] == {
        "total": 4,
        "page": 1,
        "per_page": 20,
        "limit": 20,
        "offset": 0,
        "has_more": False,
    }
    second = (await any_api.get(f"{WORKERS}?per_page=3&page=2")).json
    assert [item["id"] for item in second["items"]] == ["gone"]


async def test_workers_are_sorted_by_id_if_asked(any_api: Api) -> None:
    for name in ("b", "c", "a"):
        await beat(any_api, name)
    path = "/ojs/v1/admin/workers?sort=id"
    items = (await any_api.get(path)).json["items"]
    assert [item["id"] for item in items] == ["a", "b", "c"]
    second = (await any_api.get(f"{path}&per_page=2&page=2")).json
    assert [item["id"] for item in second["items"]] == ["c"]
    refused = await any_api.get("/ojs/v1/admin/workers?sort=age")
    assert (refused.status, refused.json["error"]["details"]["field"]) == (400, "sort")


async def test_without_workers_the_summary_is_zeros(any_api: Api) -> None:
    assert await listed(any_api) == (
        {},
        {"total": 0, "running": 0, "quiet": 0, "terminate": 0, "stale": 0},
    )


async def test_a_worker_is_shown_with_the_jobs_it_holds(any_api: Api) -> None:
    for queue in ("one", "two"):
        await any_api.active(queue)
    await any_api.enqueue(options={"queue": "one"})
    await any_api.fetch("one", worker_id="w2")
    await beat(any_api, "w1", hostname="h")
    shown = (await any_api.get(f"{WORKERS}/w1")).json
    assert (shown["id"], shown["state"], shown["hostname"]) == ("w1", "running", "h")
    assert {job["queue"] for job in shown["jobs"]} == {"one", "two"}
    assert all(job["state"] == "active" and job["started_at"] for job in shown["jobs"])
    assert shown["jobs_complete"] is True
    missing = await any_api.get(f"{WORKERS}/unknown")
    assert (missing.status, missing.error["code"]) == (404, "not_found")


async def test_a_quiet_worker_finishes_what_it_has_and_gets_no_more(any_api: Api) -> None:
    job = await any_api.active()
    await any_api.enqueue()
    reply = await any_api.post(f"{WORKERS}/w1/quiet")
    assert (reply.status, reply.json["worker_id"], reply.json["state"]) == (200, "w1", "quiet")
    assert await any_api.fetch(worker_id="w1") == []
    told = await beat(any_api, "w1", active_jobs=[job["id"]])
    assert (told["state"], told["directive"], told["jobs_extended"]) == (
        *("quiet", "quiet", [job["id"]]),
    )
    done = {"job_id": job["id"], "worker_id": "w1"}
    assert (await any_api.post("/ojs/v1/workers/ack", done)).status == 200
    assert (await any_api.post(f"{WORKERS}/unknown/quiet")).status == 404

    body = {"directive": "resume", "worker_ids": ["w1"]}
    resumed = await any_api.post(f"{WORKERS}/directive", body)
    assert resumed.json["affected_workers"] == 1
    assert (await beat(any_api, "w1"))["state"] == "running"
    assert len(await any_api.fetch(worker_id="w1")) == 1


async def test_a_directive_without_names_is_for_all(any_api: Api) -> None:
    for name in ("w1", "w2", "w3"):
        await beat(any_api, name)
    reply = await any_api.post(f"{WORKERS}/directive", {"directive": "quiet"})
    assert reply.json == {"directive": "quiet", "affected_workers": 3, "left": 0}
    assert set((await listed(any_api))[0].values()) == {"quiet"}
    reply = await any_api.post(f"{WORKERS}/directive", {"directive": "resume"})
    assert (await listed(any_api))[1]["running"] == 3


async def test_terminating_all_workers_needs_a_confirmation(any_api: Api) -> None:
    for name in ("w1", "w2"):
        await beat(any_api, name)
    path = f"{WORKERS}/directive"
    for confirm in (None, False, 1, "true"):
        reply = await any_api.post(path, {"directive": "terminate", "confirm": confirm})
        assert (reply.status, reply.error["details"]["field"]) == (400, "confirm")
    assert (await beat(any_api, "w1"))["state"] == "running"

    one = await any_api.post(path, {"directive": "terminate", "worker_ids": ["w1", "w9", "\x00"]})
    assert one.json["affected_workers"] == 1
    assert sorted(one.json["not_found"]) == ["\x00", "w9"]
    assert (await beat(any_api, "w1"))["state"] == "terminate"
    assert (await beat(any_api, "w2"))["state"] == "running"
    await any_api.post(path, {"directive": "terminate", "confirm": True})
    assert (await beat(any_api, "w2"))["directive"] == "terminate"
    assert (await listed(any_api))[1]["terminate"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "directive"),
        ({"directive": "dance"}, "directive"),
        ({"directive": "quiet", "worker_id": "w1"}, "worker_id"),
        ({"directive": "quiet", "worker_ids": "w1"}, "worker_ids"),
        ({"directive": "quiet", "worker_ids": ["w"] * 1001}, "worker_ids"),
    ],
)
async def test_an_invalid_directive_is_sent_to_no_worker(api: Api, body: Any, field: str) -> None:
    await beat(api, "w1")
    reply = await api.post(f"{WORKERS}/directive", body)
    assert (reply.status, reply.error["details"]["field"]) == (400, field)
    assert (await beat(api, "w1"))["state"] == "running"
