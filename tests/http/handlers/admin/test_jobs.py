"""Jobs in the admin API: search, read, retry, cancel."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.http.handlers.admin import jobs as admin_jobs
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.search import lists, sorted_jobs
from tests.http.api import Api, open_app

JOBS = "/ojs/v1/admin/jobs"
NACK = "/ojs/v1/workers/nack"
UNKNOWN_ID = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
SIX = {"total", "page", "per_page", "limit", "offset", "has_more"}


async def discarded(api: Api, queue: str = "default", **members: Any) -> dict[str, Any]:
    job = await api.active(queue, **members)
    error = {"code": "x", "message": "m", "retryable": False}
    await api.post(NACK, {"job_id": job["id"], "error": error})
    return job


async def found(api: Api, query: str = "") -> list[str]:
    """Read all pages by number, each with two jobs."""
    ids: list[str] = []
    for page in range(1, 50):
        reply = (await api.get(f"{JOBS}?per_page=2&page={page}&{query}")).json
        assert set(reply["pagination"]) >= SIX
        ids += [job["id"] for job in reply["items"]]
        if not reply["pagination"]["has_more"]:
            return ids
    raise AssertionError("the list does not end")


@pytest.mark.parametrize("path", [JOBS, "/ojs/v1/jobs"])
async def test_the_order_that_a_client_asks_for_holds(
    any_api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [{"queue": "one", "priority": 5}, {"queue": "two"}, {"queue": "one", "priority": -1}]
    jobs = [await any_api.enqueue(options=given) for given in options]
    first, second, third = [job["id"] for job in jobs]
    # Jobs of the same millisecond are in the order of their ids, which say nothing of their order.
    created = [job["id"] for job in sorted(jobs, key=lambda job: (job["created_at"], job["id"]))]

    async def listed(query: str) -> list[str]:
        page = (await any_api.get(f"{path}?limit=10&{query}")).json
        return [job["id"] for job in page.get("jobs", page.get("items"))]

    assert await listed("sort=created_at&order=asc") == created
    assert await listed("sort=created_at") == await listed("order=desc") == created[::-1]
    assert await listed("sort=priority") == [first, second, third]
    assert await listed("sort=priority&order=asc&queue=one") == [third, first]
    # Without a sort the id decides, which begins with the time of the process that made it.
    assert await listed("state=available") == sorted(created, reverse=True)
    second_page = (await any_api.get(f"{JOBS}?sort=priority&page=2&per_page=2")).json
    assert [job["id"] for job in second_page["items"]] == [third]
    assert (second_page["pagination"]["total"], second_page["pagination"]["has_more"]) == (3, False)
    beyond = (await any_api.get(f"{JOBS}?sort=priority&page=9&per_page=2")).json
    assert (beyond["items"], beyond["pagination"]["total"]) == ([], 3)
    monkeypatch.setattr(sorted_jobs, "MAX_ENTRIES", 2)
    for query, field in (
        ("sort=priority", "sort"),
        ("sort=type", "sort"),
        ("order=up", "order"),
        ("sort=scheduled_at", "sort"),
        ("sort=scheduled_at&state=available", "sort"),
        ("sort=started_at", "sort"),
        ("sort=started_at&state=completed", "sort"),
    ):
        reply = await any_api.get(f"{path}?{query}")
        assert reply.status == 400, query
        assert reply.json["error"]["details"]["field"] == field, query


@pytest.mark.parametrize("path", [JOBS, "/ojs/v1/jobs"])
async def test_active_jobs_are_sorted_by_their_start(any_api: Api, path: str) -> None:
    started: list[tuple[str, str]] = []
    for priority in (1, 3, 2):  # not the order of their ids or deadlines
        await any_api.enqueue(options={"priority": priority, "visibility_timeout_ms": 100_000})
    for _ in range(3):
        [job] = await any_api.fetch()
        started.append((job["started_at"], job["id"]))
    oldest = [job_id for _, job_id in sorted(started)]

    async def listed(query: str) -> list[str]:
        page = (await any_api.get(f"{path}?state=active&sort=started_at&{query}")).json
        return [job["id"] for job in page.get("jobs", page.get("items"))]

    assert await listed("order=asc") == oldest
    assert await listed("order=desc") == oldest[::-1]
    first = (await any_api.get(f"{JOBS}?state=active&sort=started_at&order=asc&per_page=2")).json
    cursor = first["pagination"]["next_cursor"]
    rest = await any_api.get(
        f"{JOBS}?state=active&sort=started_at&order=asc&per_page=2&cursor={cursor}"
    )
    assert [job["id"] for job in (*first["items"], *rest.json["items"])] == oldest


async def test_every_filter_holds_over_all_pages(any_api: Api) -> None:
    made: dict[tuple[str, str], str] = {}
    for queue in ("one", "two"):
        for kind in ("mail.send", "mail.sort", "report.run"):
            made[queue, kind] = (await any_api.enqueue(type=kind, options={"queue": queue}))["id"]
    held = (await any_api.fetch("one", worker_id="w1"))[0]["id"]

    async def expect(query: str, *wanted: str) -> None:
        assert sorted(await found(any_api, query)) == sorted(wanted), query

    everything = made.values()
    await expect("", *everything)
    await expect("queue=two", *(job for (queue, _), job in made.items() if queue == "two"))
    await expect("state=active", held)
    await expect("state=available", *(job for job in everything if job != held))
    await expect("type=report.run", made["one", "report.run"], made["two", "report.run"])
    await expect("type=mail.*&queue=two", made["two", "mail.send"], made["two", "mail.sort"])
    await expect("worker_id=w1", held)
    await expect("worker_id=w2")
    await expect("until=2020-01-01T00:00:00Z")
    await expect("since=2020-01-01T00:00:00Z&state=active", held)


async def test_the_total_is_that_of_the_counters_or_a_least_one(any_api: Api) -> None:
    for number in range(5):
        await any_api.enqueue(type=f"t.n{number % 2}", options={"queue": f"q{number % 2}"})
    for query, total, exact in (
        ("", 5, True),
        ("state=available", 5, True),
        ("queue=q0", 3, True),
        ("queue=q0&state=active", 0, True),
        ("type=t.n0&per_page=2", 3, False),
        ("type=t.n0", 3, True),
    ):
        pages = (await any_api.get(f"{JOBS}?per_page=2&{query}")).json["pagination"]
        if query == "type=t.n0":
            pages = (await any_api.get(f"{JOBS}?{query}")).json["pagination"]
        assert (pages["total"], pages["total_exact"]) == (total, exact), query


async def test_a_cursor_continues_where_a_page_ended(any_api: Api) -> None:
    made = {(await any_api.enqueue())["id"] for _ in range(5)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await any_api.get(f"{JOBS}?per_page=2&cursor={cursor}")).json
        seen += [job["id"] for job in page["items"]]
        if not page["pagination"]["has_more"]:
            break
        cursor = page["pagination"]["next_cursor"]
    assert sorted(seen) == sorted(made)


async def test_the_reads_to_fill_a_page_are_bounded(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "SCAN_BUDGET", 10)
    wanted = []
    for number in range(60):
        kind = "a.needle" if number in (1, 30, 59) else "some.hay"
        job = await api.enqueue(type=kind)
        if kind == "a.needle":
            wanted.append(job["id"])
    page = (await api.get(f"{JOBS}?type=a.needle&state=available")).json
    assert [job["id"] for job in page["items"]] == wanted[::-1]

    monkeypatch.setattr(lists, "SCAN_BUDGET", 2)
    page = (await api.get(f"{JOBS}?type=a.needle&queue=default&state=available")).json
    assert len(page["items"]) == 1
    assert (page["pagination"]["has_more"], page["pagination"]["total_exact"]) == (True, False)


async def test_a_page_of_large_jobs_is_not_filled_further(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "SCAN_BUDGET", 3)
    monkeypatch.setattr(admin_jobs, "_FULL_BYTES", 2000)
    for _ in range(6):
        await api.enqueue(args=["x" * 1000])
    page = (await api.get(f"{JOBS}?queue=default&state=available")).json
    assert 2 <= len(page["items"]) <= 3
    assert page["pagination"]["has_more"] is True


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=nonsense", "state"),
        ("queue=No", "queue"),
        ("since=yesterday", "since"),
        ("until=%2BPT5S", "until"),
        ("worker_id=w1&state=completed", "state"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_bad_filter_is_refused(api: Api, query: str, field: str) -> None:
    reply = await api.get(f"{JOBS}?{query}")
    assert (reply.status, reply.error["details"]["field"]) == (400, field)


async def test_a_job_is_shown_as_it_is(any_api: Api) -> None:
    job = await any_api.enqueue(
        type="test.admin.detail", args=[{"key": 1}], meta={"a": "b"}, options={"queue": "detail"}
    )
    shown = (await any_api.get(f"{JOBS}/{job['id']}")).json
    assert {name: shown[name] for name in job} == job
    assert (shown["errors"], set(shown) - set(job)) == ([], {"errors", "metadata", "retry_policy"})
    assert (shown["id"], shown["type"], shown["queue"]) == (
        *(job["id"], "test.admin.detail", "detail"),
    )
    assert (shown["state"], shown["args"], shown["meta"]) == ("available", [{"key": 1}], {"a": "b"})
    for unknown in (UNKNOWN_ID, "nonsense", "{{job_id}}"):
        reply = await any_api.get(f"{JOBS}/{unknown}")
        assert (reply.status, reply.error["code"]) == (404, "not_found")


async def test_a_job_is_shown_with_its_times_and_its_retry_policy(any_api: Api) -> None:
    given = {"max_attempts": 7, "initial_interval": "PT9S"}
    job = await discarded(any_api, options={"retry": given})
    shown = (await any_api.get(f"{JOBS}/{job['id']}")).json
    times = {name: shown[name] for name in ("created_at", "enqueued_at", "started_at")}
    ended = {"discarded_at": shown["discarded_at"], "completed_at": shown["completed_at"]}
    assert shown["metadata"] == {**times, "scheduled_at": None, "cancelled_at": None, **ended}
    assert shown["retry_policy"].items() >= given.items()
    plain = await any_api.enqueue(scheduled_at="2099-01-01T00:00:00Z")
    shown = (await any_api.post(f"{JOBS}/{plain['id']}/cancel")).json
    assert shown["retry_policy"]["max_attempts"] == shown["max_attempts"]
    assert shown["metadata"]["scheduled_at"] == "2099-01-01T00:00:00Z"
    assert shown["metadata"]["cancelled_at"] == shown["cancelled_at"]
    assert shown["metadata"]["started_at"] is None


async def test_attributes_of_a_client_stay_beside_the_times(api: Api) -> None:
    job = await api.enqueue(metadata="mine", surprise=[1e308])
    shown = (await api.get(f"{JOBS}/{job['id']}")).json
    assert (shown["surprise"], shown["metadata"]["created_at"]) == ([1e308], job["created_at"])
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"]["metadata"] == "mine"


@pytest.mark.parametrize("on_exhaustion", ["discard", "dead_letter"])
async def test_a_discarded_job_is_retried(any_api: Api, on_exhaustion: str) -> None:
    job = await discarded(any_api, options={"retry": {"on_exhaustion": on_exhaustion}})
    reply = await any_api.post(f"{JOBS}/{job['id']}/retry")
    assert reply.status == 200
    assert (reply.json["id"], reply.json["state"], reply.json["attempt"]) == (
        *(job["id"], "available", 0),
    )
    assert (await any_api.post(f"{JOBS}/{job['id']}/retry")).status == 409
    assert [job["attempt"] for job in await any_api.fetch()] == [1]


async def test_only_a_discarded_job_is_retried(api: Api) -> None:
    job = await api.enqueue()
    stopped = await api.enqueue()
    assert (await api.post(f"{JOBS}/{stopped['id']}/cancel")).json["state"] == "cancelled"
    for job_id, state in ((job["id"], "available"), (stopped["id"], "cancelled")):
        reply = await api.post(f"{JOBS}/{job_id}/retry")
        assert (reply.status, reply.error["details"]["state"]) == (409, state)
    assert (await api.post(f"{JOBS}/{UNKNOWN_ID}/retry")).status == 404


async def test_cancel_is_that_of_the_data_plane(any_api: Api) -> None:
    job = await any_api.active()
    reply = await any_api.post(f"{JOBS}/{job['id']}/cancel", {"reason": "ignored"})
    assert (reply.status, reply.json["id"], reply.json["state"]) == (200, job["id"], "cancelled")
    assert (await any_api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})).status == 409
    assert (await any_api.post(f"{JOBS}/{job['id']}/cancel")).status == 409
    assert (await any_api.post(f"{JOBS}/{UNKNOWN_ID}/cancel")).status == 404


async def test_a_list_needs_the_key(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",)) as app:
        for target in (JOBS, f"{JOBS}/{UNKNOWN_ID}"):
            assert (await Api(app).get(target)).status == 401


async def test_a_waiting_job_is_moved_to_another_queue(any_api: Api) -> None:
    job = await any_api.enqueue(options={"queue": "one"})
    path = f"{JOBS}/{job['id']}/move"
    for _ in range(2):  # a repetition changes nothing
        reply = await any_api.post(path, {"queue": "two"})
        assert (reply.status, reply.json["queue"], reply.json["state"]) == (200, "two", "available")
    [moved] = await any_api.fetch("two")
    assert moved["id"] == job["id"]
    refused = await any_api.post(path, {"queue": "one"})
    assert (refused.status, refused.json["error"]["details"]["state"]) == (409, "active")
    events = (await any_api.get(f"/ojs/v1/jobs/{job['id']}/history")).json["events"]
    [event] = [each["data"] for each in events if each["event_type"] == "job.moved"]
    assert (event["from"], event["to"]) == ("one", "two")
    for body, field in (({}, "queue"), ({"queue": "no queue!"}, "queue"), ({"queue": 7}, "queue")):
        wrong = await any_api.post(path, body)
        assert (wrong.status, wrong.json["error"]["details"]["field"]) == (400, field), body
    assert (await any_api.post(f"{JOBS}/{UNKNOWN_ID}/move", {"queue": "two"})).status == 404
