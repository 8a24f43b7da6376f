"""Statistics in the admin API: the whole cluster, and its queues."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.operators.operations import overview as store_overview
from tests.http.api import SHARDS, Api, open_app, until

STATS = "/ojs/v1/admin/stats"
QUEUES = "/ojs/v1/admin/queues"
NACK = "/ojs/v1/workers/nack"
STATES = (
    *("available", "active", "scheduled", "retryable", "pending"),
    *("completed", "discarded", "cancelled"),
)


async def a_job_in_every_state(api: Api, queue: str) -> None:
    completed = await api.active(queue)
    await api.post("/ojs/v1/workers/ack", {"job_id": completed["id"]})
    retry = {"initial_interval": "PT5M", "on_exhaustion": "dead_letter"}
    for retryable in (True, False):
        failed = await api.active(queue, options={"retry": retry})
        error = {"code": "x", "retryable": retryable}
        await api.post(NACK, {"job_id": failed["id"], "error": error})
    stopped = await api.enqueue(options={"queue": queue})
    await api.delete(f"/ojs/v1/jobs/{stopped['id']}")
    await api.active(queue)
    await api.enqueue(options={"queue": queue, "scheduled_at": "2099-01-01T00:00:00Z"})
    await api.enqueue(options={"queue": queue, "pending": True})
    await api.enqueue(options={"queue": queue})


async def test_the_sums_cover_all_queues_and_every_state(any_api: Api) -> None:
    names = ("one", "two", "hot")
    await any_api.call("PUT", f"{QUEUES}/hot/config", {"partitions": SHARDS})
    for name in names:
        await a_job_in_every_state(any_api, name)
    await any_api.post("/ojs/v1/workers/heartbeat", {"worker_id": "w2"})

    stats = (await any_api.get(STATS)).json

    assert stats["jobs"] == dict.fromkeys(STATES, len(names))
    assert (stats["queues"], stats["queues_counted"], stats["workers"]) == (3, 3, 2)
    assert stats["dead_letters"] == len(names)
    # The queues are younger than an hour, so the numbers are divided by less than 60 minutes.
    assert round(3 / 60, 3) < stats["throughput"]["completed_per_minute"] <= 3
    assert round(6 / 60, 3) < stats["throughput"]["failed_per_minute"] <= 6
    assert isinstance(stats["uptime_seconds"], int)


async def test_the_sums_of_nothing_are_zeros(any_api: Api) -> None:
    stats = (await any_api.get(STATS)).json
    assert stats["jobs"] == dict.fromkeys(STATES, 0)
    assert (stats["queues"], stats["workers"], stats["dead_letters"]) == (0, 0, 0)
    assert set(stats["throughput"].values()) == {0}


async def test_the_numbers_of_one_queue_are_its_own(any_api: Api) -> None:
    for _ in range(2):
        await any_api.enqueue(options={"queue": "one"})
    await any_api.enqueue(options={"queue": "two"})
    stats = (await any_api.get(f"{STATS}?queue=one")).json
    assert (stats["queues"], stats["jobs"]["available"]) == (1, 2)
    assert (await any_api.get(f"{STATS}?queue=none")).status == 404
    assert (await any_api.get(f"{STATS}?queue=No")).status == 400


async def test_the_sums_follow_what_happens(api: Api) -> None:
    assert (await api.get(STATS)).json["jobs"]["available"] == 0
    await api.enqueue()

    async def seen() -> Any:
        return (await api.get(STATS)).json["jobs"]["available"]

    assert await until(seen) == 1


async def test_the_number_of_counted_queues_is_shown_if_there_are_too_many(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_overview, "MAX_QUEUES", 2)
    for name in ("a", "b", "c"):
        await api.enqueue(options={"queue": name})
    stats = (await api.get(STATS)).json
    assert (stats["queues"], stats["queues_counted"], stats["jobs"]["available"]) == (3, 2, 2)


async def test_queues_are_listed_by_page_with_their_counts(any_api: Api) -> None:
    await a_job_in_every_state(any_api, "full")
    for name in ("a", "z"):
        await any_api.enqueue(options={"queue": name})
    await any_api.post(f"{QUEUES}/z/pause")

    pages = [(await any_api.get(f"{QUEUES}?per_page=2&page={page}")).json for page in (1, 2, 3)]

    items = [item for page in pages for item in page["items"]]
    assert [item["name"] for item in items] == ["a", "full", "z"]
    assert items[1]["counts"] == dict.fromkeys(STATES, 1)
    assert (items[1]["state"], items[1]["paused"], items[1]["dead_letters"]) == ("active", False, 1)
    assert items[1]["created_at"].endswith("Z")
    assert round(1 / 60, 3) < items[1]["throughput"]["completed_per_minute"] <= 1
    assert (items[2]["state"], items[2]["paused"]) == ("paused", True)
    for number, page in enumerate(pages, start=1):
        assert (
            page["pagination"].items()
            >= {
                "total": 3,
                "page": number,
                "per_page": 2,
                "limit": 2,
                "offset": 2 * (number - 1),
                "has_more": number == 1,
            }.items()
        )
    default = (await any_api.get(QUEUES)).json["pagination"]
    assert (default["page"], default["per_page"]) == (1, 20)


async def test_a_queue_is_shown_with_its_configuration(any_api: Api) -> None:
    await any_api.enqueue(options={"queue": "mail"})
    rate = {"limit": 100, "period": "PT1M"}
    await any_api.call("PUT", f"{QUEUES}/mail/rate-limit", {"concurrency": 5, "rate": rate})
    shown = (await any_api.get(f"{QUEUES}/mail")).json
    assert (shown["name"], shown["state"], shown["counts"]["available"]) == ("mail", "active", 1)
    assert shown["configuration"].items() >= {"partitions": 1, "concurrency": 5}.items()
    assert shown["configuration"]["rate_limit"]["limit"] == 100
    missing = await any_api.get(f"{QUEUES}/none")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    assert (await any_api.get(f"{QUEUES}/No")).error["details"]["field"] == "name"


async def test_a_queue_is_shown_with_its_waits_and_its_oldest_job(any_api: Api) -> None:
    store = any_api.app.store
    recorder, now = MinuteRecorder(store), store.clock.now_ms() // 60_000
    first = await any_api.enqueue(options={"queue": "mail", "priority": -5})
    await any_api.enqueue(options={"queue": "mail"})
    shown = (await any_api.get(f"{QUEUES}/mail")).json
    assert shown["oldest_available_at"] == first["enqueued_at"]
    assert "latency_ms" not in shown
    await recorder.record(now - 1)
    assert len(await any_api.fetch("mail", count=2)) == 2
    await store.job_counts.flush(store)
    await recorder.record(now)
    shown = (await any_api.get(f"{QUEUES}/mail")).json
    latency = shown["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert "oldest_available_at" not in shown


async def test_a_pause_is_the_same_as_that_of_the_data_plane(any_api: Api) -> None:
    paused = await any_api.post(f"{QUEUES}/default/pause")
    assert (paused.status, paused.json["paused"]) == (200, True)
    assert (await any_api.enqueue())["state"] == "available"
    assert await any_api.fetch() == []
    assert (await any_api.get("/ojs/v1/queues/default")).json["queue"]["status"] == "paused"
    resumed = await any_api.post(f"{QUEUES}/default/resume")
    assert (resumed.status, resumed.json["paused"]) == (200, False)
    assert len(await any_api.fetch()) == 1


@pytest.mark.parametrize(
    "target",
    [
        f"{QUEUES}?page=0",
        f"{QUEUES}?per_page=x",
        f"{QUEUES}?page=1000000",
        "/ojs/v1/admin/jobs?page=100000",
        "/ojs/v1/admin/workers?page=-1",
        "/ojs/v1/admin/dead-letter?per_page=0",
    ],
)
async def test_an_invalid_page_is_refused(api: Api, target: str) -> None:
    reply = await api.get(target)
    assert reply.status == 400
    assert reply.error["details"]["field"] in ("page", "per_page")


async def test_the_admin_plane_needs_the_key(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",)) as app:
        api = Api(app)
        assert (await api.get(STATS)).status == 401
        reply = await api.get(STATS, headers={"Authorization": "Bearer one"})
        assert reply.status == 200
