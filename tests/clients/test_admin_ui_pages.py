"""The bytes of the pages of the admin UI that read members of workers, jobs and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.test_admin_ui import call
from tests.clients.wire import Wire


async def send(wire: Wire, method: str, path: str, body: Any = None) -> Any:
    """Send a request of the UI, and return the body of a successful response."""
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    answer = await call(wire, method, path, encoded)
    assert answer.status in (200, 201), answer.body
    return answer.json


# ojs-admin-ui, src/components/workers/WorkerTable.tsx:58: w.queues.join(', ') of every worker.
async def test_every_worker_has_a_list_of_queues(wire: Wire) -> None:
    beat = "/ojs/v1/workers/heartbeat"
    await send(wire, "POST", beat, {"worker_id": "silent", "active_jobs": []})
    await send(wire, "POST", beat, {"worker_id": "odd", "queues": "mail"})
    await send(wire, "POST", beat, {"worker_id": "listing", "queues": ["mail", "sms"]})
    await send(wire, "POST", "/ojs/v1/workers/fetch", {"queues": ["mail"], "worker_id": "fetching"})
    listed = await send(wire, "GET", "/ojs/v1/admin/workers?page=1&per_page=50")
    queues = {worker["id"]: worker["queues"] for worker in listed["items"]}
    assert queues.pop("fetching", []) == []  # its record is written in the background
    assert queues == {"silent": [], "odd": [], "listing": ["mail", "sms"]}
    assert (await send(wire, "GET", "/ojs/v1/admin/workers/silent"))["queues"] == []


# ojs-admin-ui, src/components/jobs/JobDetail.tsx:229: job.errors.length of every job.
async def test_a_job_without_failures_has_an_empty_list_of_errors(wire: Wire) -> None:
    job = {"type": "mail.send", "args": [1], "options": {"max_attempts": 2}}
    job_id = (await send(wire, "POST", "/ojs/v1/jobs", job))["job"]["id"]
    assert (await send(wire, "GET", f"/ojs/v1/admin/jobs/{job_id}"))["errors"] == []
    await send(wire, "POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
    nack = {"job_id": job_id, "error": {"code": "boom", "message": "no"}}
    await send(wire, "POST", "/ojs/v1/workers/nack", nack)
    [error] = (await send(wire, "GET", f"/ojs/v1/admin/jobs/{job_id}"))["errors"]
    assert (error["code"], error["attempt"]) == ("boom", 1)
    assert (await send(wire, "POST", f"/ojs/v1/admin/jobs/{job_id}/cancel"))["errors"] == [error]


# ojs-admin-ui, src/pages/EventsPage.tsx:20 (the request) and :55 (pagination of the response).
async def test_events_are_paged_newest_first_and_filtered_by_type(wire: Wire) -> None:
    ids = [
        (await send(wire, "POST", "/ojs/v1/jobs", {"type": "t", "args": [number]}))["job"]["id"]
        for number in range(5)
    ]
    await send(wire, "POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "count": 5})
    path = "/ojs/v1/events?type=job.enqueued&page={}&per_page=2"
    seen = []
    for page in (1, 2, 3):
        answer = await send(wire, "GET", path.format(page))
        assert answer["pagination"]["total"] == 5
        assert (answer["pagination"]["page"], answer["pagination"]["per_page"]) == (page, 2)
        assert answer["pagination"]["has_more"] is (page < 3)
        seen += answer["items"]
    assert {event["type"] for event in seen} == {"job.enqueued"}
    assert [event["data"]["job_id"] for event in seen] == ids[::-1]
    every = await send(wire, "GET", "/ojs/v1/events?page=1&per_page=50")
    assert every["pagination"]["total"] == len(every["items"]) == 10
    assert {event["type"] for event in every["items"][:5]} == {"job.started"}
    none = await send(wire, "GET", "/ojs/v1/events?type=worker.stale&page=1&per_page=50")
    assert (none["items"], none["pagination"]["total"]) == ([], 0)


# ojs-admin-ui, src/api/client.ts:280: a caller without a page gets the oldest events and a cursor,
# as before.
async def test_events_without_a_page_have_a_pagination_too(wire: Wire) -> None:
    for _ in range(3):
        await send(wire, "POST", "/ojs/v1/jobs", {"type": "t", "args": []})
    first = await send(wire, "GET", "/ojs/v1/events?limit=2&type=job.enqueued")
    assert first["pagination"]["has_more"] is first["has_more"] is True
    assert first["pagination"]["next_cursor"] == first["cursor"]
    rest = await send(wire, "GET", f"/ojs/v1/events?limit=2&after={first['cursor']}")
    assert (len(first["items"]), len(rest["items"]), rest["has_more"]) == (2, 1, False)
    assert "next_cursor" not in rest["pagination"]


# ojs-admin-ui, src/pages/EventsPage.tsx:20: the request, with a page that is too far.
async def test_numbered_pages_end(wire: Wire) -> None:
    answer = await call(wire, "GET", "/ojs/v1/events?page=1000&per_page=50")
    assert (answer.status, answer.json["error"]["details"]["field"]) == (400, "page")


# ojs-admin-ui, src/pages/EventsPage.tsx:55: the numbers that the page reads.
async def test_no_page_is_announced_after_the_last_numbered_one(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        await send(wire, "POST", "/ojs/v1/jobs", {"type": "t", "args": []})
    monkeypatch.setattr("ojs_cluster.http.handlers.events.MAX_NUMBERED", 4)
    pages = (await send(wire, "GET", "/ojs/v1/events?page=2&per_page=2"))["pagination"]
    assert (pages["total"], pages["has_more"]) == (4, False)


# ojs-admin-ui, src/pages/ScheduledJobsPage.tsx:12 (the request). The page shows the next due job at
# the top.
async def test_scheduled_jobs_come_in_the_order_in_which_they_are_due(wire: Wire) -> None:
    made = {}
    for hours in (3, 1, 2):
        options = {"scheduled_at": f"+PT{hours}H", "queue": f"q{hours}"}
        job = {"type": "t", "args": [], "options": options}
        made[hours] = (await send(wire, "POST", "/ojs/v1/jobs", job))["job"]["id"]
    path = "/ojs/v1/admin/jobs?state=scheduled&per_page=50&sort=scheduled_at&order="
    soonest = [job["id"] for job in (await send(wire, "GET", f"{path}asc"))["items"]]
    latest = [job["id"] for job in (await send(wire, "GET", f"{path}desc"))["items"]]
    assert soonest == latest[::-1] == [made[1], made[2], made[3]]


# ojs-admin-ui, src/pages/JobsPage.tsx:42 (the request, by page number).
async def test_available_jobs_of_all_queues_are_paged_newest_first(wire: Wire) -> None:
    made = []
    for number in range(7):
        job = {"type": "t", "args": [], "options": {"queue": f"q{number % 3}"}}
        made.append((await send(wire, "POST", "/ojs/v1/jobs", job))["job"]["id"])
    shown = []
    for page in (1, 2, 3):
        path = f"/ojs/v1/admin/jobs?state=available&page={page}&per_page=3"
        shown += [job["id"] for job in (await send(wire, "GET", path))["items"]]
    assert shown == sorted(made, reverse=True)  # an id begins with the time


# ojs-admin-ui, src/api/client.ts:292 (the request) and src/api/types.ts:289 (UniqueJobInfo).
async def test_unique_jobs_are_listed_while_they_hold_their_lock(wire: Wire) -> None:
    path = "/ojs/v1/unique-jobs?page=1&per_page=25"
    assert (await send(wire, "GET", path))["items"] == []
    made = {}
    for kind, period in (("a.b", "PT1H"), ("c.d", None)):
        unique = {"keys": ["type"], **({"period": period} if period else {})}
        job = {"type": kind, "args": [], "options": {"queue": kind[0], "unique": unique}}
        made[kind] = (await send(wire, "POST", "/ojs/v1/jobs", job))["job"]["id"]
    listed = await send(wire, "GET", path)
    shown = {item["type"]: item for item in listed["items"]}
    assert {kind: item["job_id"] for kind, item in shown.items()} == made
    assert (shown["a.b"]["queue"], shown["a.b"]["state"]) == ("a", "available")
    assert shown["a.b"]["locked_until"].endswith("Z")
    assert "locked_until" not in shown["c.d"]
    assert (listed["pagination"]["total"], listed["pagination"]["per_page"]) == (2, 25)
    second = await send(wire, "GET", "/ojs/v1/unique-jobs?page=2&per_page=1")
    assert [item["key"] for item in second["items"]] == [listed["items"][1]["key"]]
    await send(wire, "DELETE", f"/ojs/v1/jobs/{made['c.d']}")
    left = await send(wire, "GET", path)
    assert [item["job_id"] for item in left["items"]] == [made["a.b"]]
