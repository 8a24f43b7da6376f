"""The occurrences of a past interval are enqueued, once each."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.features.cron.backfill import MAX_OCCURRENCES
from tests.http.api import Api

CRON = "/ojs/v1/cron"
DAY = {"from": "2024-03-01T00:00:00Z", "to": "2024-03-02T00:00:00Z"}


async def register(api: Api, expression: str = "0 */6 * * *", **members: Any) -> None:
    job = {"type": "report.make", "args": ["x"], "options": {"queue": "reports"}}
    body = {"name": "six-hourly", "cron": expression, "job_template": job, **members}
    assert (await api.post(CRON, body)).status == 201


async def backfill(api: Api, **body: Any) -> dict[str, Any]:
    reply = await api.post(f"{CRON}/six-hourly/backfill", {**DAY, **body})
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def jobs_of(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get("/ojs/v1/jobs?queue=reports&limit=200")).json[
        "jobs"
    ]
    return found


async def test_occurrences_are_counted_first_and_enqueued_once(any_api: Api) -> None:
    await register(any_api, enabled=False)
    counted = await backfill(any_api)
    assert (counted["count"], counted["confirmed"]) == (4, False)
    assert counted["first"] == "2024-03-01T00:00:00.000Z"
    assert counted["last"] == "2024-03-01T18:00:00.000Z"
    assert await jobs_of(any_api) == []
    done = await backfill(any_api, confirm=True)
    assert (done["enqueued"], done["existing"], done["failed"]) == (4, 0, 0)
    made = await jobs_of(any_api)
    assert sorted(job["meta"]["cron_triggered_at"] for job in made) == [
        f"2024-03-01T{hour:02}:00:00.000Z" for hour in (0, 6, 12, 18)
    ]
    assert {job["meta"]["cron_name"] for job in made} == {"six-hourly"}
    again = await backfill(any_api, confirm=True, to="2024-03-02T00:00:00.001Z")
    assert (again["enqueued"], again["existing"], again["failed"]) == (1, 4, 0)
    assert len(await jobs_of(any_api)) == 5
    assert (await any_api.get(f"{CRON}/six-hourly")).json["run_count"] == 0


async def test_an_interval_without_occurrences_enqueues_nothing(api: Api) -> None:
    await register(api, "0 0 1 1 *")
    done = await backfill(api, confirm=True)
    assert (done["count"], done["enqueued"], done["first"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"from": "2024-03-02T00:00:00Z"}, 400, "from"),
        ({"from": "0001-01-01T00:00:00Z"}, 400, "from"),
        ({"from": "1969-12-31T23:59:59.999Z"}, 400, "from"),
        ({"to": "2999-01-01T00:00:00Z"}, 400, "to"),
        ({"to": "+PT1H"}, 400, "to"),
        ({"from": "yesterday"}, 400, "from"),
        ({"from": 5}, 400, "from"),
        ({"until": "x"}, 400, "until"),
        ({"from": "2023-01-01T00:00:00Z"}, 422, "to"),
    ],
)
async def test_a_wrong_interval_names_its_member(
    api: Api, change: dict[str, Any], status: int, field: str
) -> None:
    await register(api)
    body = {**DAY, "confirm": True, **change}
    reply = await api.post(f"{CRON}/six-hourly/backfill", body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert await jobs_of(api) == []


async def test_an_interval_begins_in_1970_at_the_earliest(api: Api) -> None:
    await register(api, timezone="America/New_York")
    found = await backfill(api, **{"from": "1970-01-01T00:00:00Z", "to": "1970-01-01T06:00:00Z"})
    assert (found["count"], found["first"]) == (1, "1970-01-01T05:00:00.000Z")


async def test_a_backfill_has_a_maximum(api: Api) -> None:
    await register(api, "* * * * *")
    last = f"2024-03-01T{MAX_OCCURRENCES // 60:02}:{MAX_OCCURRENCES % 60:02}:00Z"
    assert (await backfill(api, to=last))["count"] == MAX_OCCURRENCES
    reply = await api.post(f"{CRON}/six-hourly/backfill", DAY)
    assert (reply.status, reply.error["details"]["limit"]) == (422, MAX_OCCURRENCES)


async def test_large_jobs_bound_the_interval(api: Api) -> None:
    job = {"type": "report.make", "args": ["x" * 500_000], "options": {"queue": "reports"}}
    await register(api, "* * * * *", job_template=job)
    reply = await api.post(
        f"{CRON}/six-hourly/backfill", {**DAY, "to": "2024-03-01T01:00:00Z", "confirm": True}
    )
    assert reply.status == 413
    assert await jobs_of(api) == []


async def test_an_unknown_cron_job_has_no_occurrences(api: Api) -> None:
    assert (await api.post(f"{CRON}/none/backfill", DAY)).status == 404
