"""Statistics over time in the admin API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ojs_cluster.core.histograms import FINE_BOUNDS_MS, FineTimes, WaitsAndRuns
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import replies
from ojs_cluster.http.handlers.admin import history
from ojs_cluster.http.messages import Response
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics import series
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.records import STATES, TOTALS
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from tests.http.api import Api

HISTORY = "/ojs/v1/admin/stats/history"


async def recorded(api: Api) -> int:
    """Record three minutes with jobs; return the last of them."""
    now = int(time.time()) // 60
    recorder = MinuteRecorder(api.app.store)
    await recorder.record(now - 2)
    for queue in ("mail", "other"):
        job = await api.active(queue)
        await api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
    await recorder.record(now - 1)
    await api.enqueue(options={"queue": "mail"})
    await recorder.record(now)
    return now


async def points(api: Api, query: str) -> list[dict[str, Any]]:
    reply = await api.get(f"{HISTORY}?{query}")
    assert reply.status == 200, reply.body
    assert reply.json["data"] == reply.json["data_points"]
    found: list[dict[str, Any]] = reply.json["data"]
    return found


async def test_the_series_has_the_growth_of_each_minute(any_api: Api) -> None:
    now = await recorded(any_api)
    first, second = await points(any_api, "period=1m")
    assert first["timestamp"] == format_ms((now - 2) * 60_000).decode()
    assert (first["enqueued"], first["processed"], first["completed"]) == (2, 2, 2)
    assert (second["enqueued"], second["processed"], second["failed"]) == (1, 0, 0)
    assert second["recorded"] is True
    assert second["depth"]["available"] == 1
    assert second["complete"] is True


async def test_the_series_has_quantiles(any_api: Api) -> None:
    store, now = any_api.app.store, int(time.time()) // 60
    recorder = MinuteRecorder(store)
    await recorder.record(now - 1)
    await any_api.active()
    for _ in range(3):
        store.job_counts.count_completed(b"default", b"t", 40)
    await store.job_counts.flush(store)
    await recorder.record(now)
    [point] = await points(any_api, "period=1m")
    assert (point["duration_p50_ms"], point["duration_p95_ms"]) == (37.5, 48.75)
    assert 0 < point["latency_p50_ms"] <= point["latency_p95_ms"] <= point["latency_p99_ms"]


async def test_failed_attempts_count_as_processed(api: Api) -> None:
    recorder, now = MinuteRecorder(api.app.store), int(time.time()) // 60
    await recorder.record(now - 1)
    for path in ("ack", "nack"):
        body: dict[str, Any] = {"job_id": (await api.active())["id"]}
        if path == "nack":
            body["error"] = {"message": "no"}
        reply = await api.post(f"/ojs/v1/workers/{path}", body)
        assert reply.status == 200, reply.body
    await recorder.record(now)
    [point] = await points(api, "period=1m")
    assert (point["processed"], point["completed"], point["failed"]) == (2, 1, 1)
    throughput = (await api.get("/ojs/v1/admin/stats")).json["throughput"]
    assert throughput["processed_per_minute"] == 2 * throughput["completed_per_minute"] > 0


async def test_one_queue_has_a_series(any_api: Api) -> None:
    await recorded(any_api)
    found = await points(any_api, "period=1m&queue=other&since=3m")
    assert [point["enqueued"] for point in found][-2:] == [1, 0]
    assert (await any_api.get(f"{HISTORY}?queue=unknown")).status == 404
    assert (await any_api.get(f"{HISTORY}?queue=A+B")).status == 400


async def test_longer_periods_have_their_sums(api: Api) -> None:
    now = await recorded(api)
    for period, minutes in (("1h", 60), ("1d", 1440)):
        reply = await api.get(f"{HISTORY}?period={period}")
        assert reply.json["period"] == period
        assert sum(point["enqueued"] for point in reply.json["data"]) == 3
        # The newest record, at the start of a minute, may be the one that ends the period.
        assert reply.json["data"][-1]["complete"] is (now % minutes == 0)


@pytest.mark.parametrize(
    "query",
    [
        "period=2m",
        "since=yesterday",
        "since=%2BPT1H",
        "until=1",
        "since=1h&until=2h",
        "since=2026-01-01",
    ],
)
async def test_invalid_parameters_are_refused(api: Api, query: str) -> None:
    assert (await api.get(f"{HISTORY}?{query}")).status == 400


@pytest.mark.parametrize(
    "query",
    [
        "since=0001-01-01T00:00:00Z",
        "since=999999d",
        "until=9999-12-31T23:59:59Z&since=2099-01-01T00:00:00Z",
        "since=2026-01-01T00:00:00+01:00&until=2026-01-02T00:00:00Z",
        "until=0001-01-01T00:00:00Z&since=0001-01-01T00:00:00Z",
    ],
)
async def test_any_time_is_answered_in_bounded_space(api: Api, query: str) -> None:
    await recorded(api)
    for period in ("1m", "1d"):
        reply = await api.get(f"{HISTORY}?period={period}&{query}")
        assert reply.status == 200 or "2099" in query
        assert len(reply.json.get("data", [])) <= 1500


async def test_nothing_recorded_is_no_data(api: Api) -> None:
    assert await points(api, "") == []


async def test_a_day_by_the_minute_blocks_no_other_request(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop spends little processor time on the fullest histograms of 1440 minutes."""
    answered = replies.json_response
    began = took_s = 0.0
    full = FineTimes(dict.fromkeys(range(len(FINE_BOUNDS_MS) + 1), 2), 10**9)
    minutes = {minute: WaitsAndRuns(full, full) for minute in range(1441)}

    async def cluster_series(_store: Store, _periods: Any) -> list[series.Point]:
        nonlocal began
        zeros, began = [0] * (len(TOTALS) + WIDTH), time.thread_time()
        return await series._points(
            *(series.Periods(0, 1, 1440), 0, 1440),
            *(lambda _begin, _end: zeros, lambda _minute: [0] * len(STATES)),
            series._between(minutes),
        )

    def json_response(status: int, members: Any) -> Response:
        nonlocal took_s
        took_s = time.thread_time() - began
        return answered(status, members)

    monkeypatch.setattr(history, "cluster_series", cluster_series)
    monkeypatch.setattr(replies, "json_response", json_response)
    answer = await api.get("/ojs/v1/admin/stats/history?period=1m&since=24h")
    assert len(answer.json["data"]) == 1440
    assert answer.json["data"][0]["latency_p95_ms"] > 0
    assert 0 < took_s < 0.05
