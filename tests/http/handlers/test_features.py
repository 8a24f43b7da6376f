"""Batch, queues, dead letters, results and events over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.http.api import Api

NACK = "/ojs/v1/workers/nack"
UNKNOWN_ID = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


async def test_a_batch_is_stored_in_order(any_api: Api) -> None:
    jobs = [{"type": "t", "args": [n], "options": {"queue": f"q{n % 2}"}} for n in range(5)]
    reply = await any_api.post("/ojs/v1/jobs/batch", {"jobs": jobs})
    assert reply.status == 201
    answer = reply.json
    assert [job["args"] for job in answer["jobs"]] == [[n] for n in range(5)]
    assert (answer["count"], answer["enqueued"], answer["failed"]) == (5, 5, 0)


async def test_one_bad_item_refuses_the_batch(api: Api) -> None:
    jobs: list[Any] = [{"type": "t", "args": []}, {"type": "t"}]
    reply = await api.post("/ojs/v1/jobs/batch", {"jobs": jobs})
    assert reply.status == 400
    assert reply.error["details"]["index"] == 1
    assert reply.error["details"]["field"] == "jobs[1].args"
    assert await api.fetch() == []


@pytest.mark.parametrize(("jobs", "status"), [([], 400), ([{"type": "t", "args": []}] * 1001, 413)])
async def test_a_batch_has_between_one_and_a_thousand_jobs(
    api: Api, jobs: list[Any], status: int
) -> None:
    assert (await api.post("/ojs/v1/jobs/batch", {"jobs": jobs})).status == status


async def test_queue_stats_have_the_keys_of_every_document(any_api: Api) -> None:
    for _ in range(3):
        await any_api.enqueue(options={"queue": "mail"})
    (job,) = await any_api.fetch("mail")
    await any_api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
    await any_api.fetch("mail")
    stats = (await any_api.get("/ojs/v1/queues/mail/stats")).json
    expected = {"available": 1, "active": 1, "completed": 1, "scheduled": 0, "cancelled": 0}
    for view in (stats, stats["queue"], stats["stats"]):
        assert {name: view[name] for name in expected} == expected
    assert stats["queue"]["name"] == stats["name"] == stats["stats"]["queue"] == "mail"
    assert stats["depth"] == stats["stats"]["depth"] == 1
    assert stats["stats"]["completed_last_hour"] == 1
    assert (stats["status"], stats["paused"]) == ("active", False)
    assert stats["computed_at"].endswith("Z")


async def test_an_unknown_queue_has_zeros_but_is_not_there(api: Api) -> None:
    stats = await api.get("/ojs/v1/queues/none/stats")
    assert (stats.status, stats.json["available"]) == (200, 0)
    assert (await api.get("/ojs/v1/queues/none")).status == 404


async def test_a_bad_queue_name_is_refused(api: Api) -> None:
    for path in ("", "/stats"):
        reply = await api.get(f"/ojs/v1/queues/No%20Queue{path}")
        assert (reply.status, reply.error["details"]["field"]) == (400, "name")


async def test_queues_are_listed_by_name_in_pages(any_api: Api) -> None:
    for name in ("b", "a", "c"):
        await any_api.enqueue(options={"queue": name})
    first = (await any_api.get("/ojs/v1/queues?limit=2")).json
    assert [queue["name"] for queue in first["queues"]] == ["a", "b"]
    assert first["queues"][0]["available"] == 1
    assert first["queues"][0]["created_at"].endswith("Z")
    assert first["pagination"]["total"] == 3
    cursor = first["pagination"]["next_cursor"]
    last = (await any_api.get(f"/ojs/v1/queues?limit=2&cursor={cursor}")).json
    assert [queue["name"] for queue in last["queues"]] == ["c"]
    assert last["pagination"]["has_more"] is False
    assert "next_cursor" not in last["pagination"]


async def test_a_paused_queue_accepts_jobs_and_returns_none(any_api: Api) -> None:
    paused = (await any_api.post("/ojs/v1/queues/default/pause")).json
    assert (paused["paused"], paused["status"]) == (True, "paused")
    assert paused["queue"]["paused"] is True
    assert paused["paused_at"].endswith("Z")
    assert (await any_api.enqueue())["state"] == "available"
    assert await any_api.fetch() == []
    assert (await any_api.get("/ojs/v1/queues/default")).json["queue"]["status"] == "paused"
    resumed = (await any_api.post("/ojs/v1/queues/default/resume", {})).json
    assert (resumed["paused"], resumed["status"]) == (False, "active")
    assert "resumed_at" in resumed
    assert len(await any_api.fetch()) == 1


async def test_purge_deletes_available_jobs_and_needs_a_confirmation(any_api: Api) -> None:
    path = "/ojs/v1/queues/default/purge"
    jobs = [await any_api.enqueue() for _ in range(3)]
    await any_api.fetch()
    assert (await any_api.post(path)).status == 400
    assert (await any_api.post(path, {"states": ["active"]})).status == 400
    reply = await any_api.post(path, {"states": ["available"]})
    assert (reply.json["purged"], reply.json["deleted"], reply.json["left"]) == (2, 2, 0)
    assert (await any_api.get(f"/ojs/v1/jobs/{jobs[0]['id']}")).json["state"] == "active"
    assert (await any_api.get(f"/ojs/v1/jobs/{jobs[1]['id']}")).status == 404
    assert (await any_api.post(path, {"confirm": True})).json["purged"] == 0


async def dead(api: Api, queue: str) -> dict[str, Any]:
    job = await api.active(queue, options={"retry": {"on_exhaustion": "dead_letter"}})
    error = {"code": "x", "message": "m", "retryable": False}
    await api.post(NACK, {"job_id": job["id"], "error": error})
    return job


async def test_dead_letters_are_listed_and_counted(any_api: Api) -> None:
    empty = (await any_api.get("/ojs/v1/dead-letter")).json
    assert (empty["jobs"], empty["total"]) == ([], 0)
    one, two = await dead(any_api, "one"), await dead(any_api, "two")
    listed = (await any_api.get("/ojs/v1/dead-letter")).json
    assert {job["id"] for job in listed["jobs"]} == {one["id"], two["id"]}
    assert all(len(job["errors"]) == 1 for job in listed["jobs"])
    of_one = (await any_api.get("/ojs/v1/dead-letter?queue=one")).json
    assert [job["id"] for job in of_one["jobs"]] == [one["id"]]
    stats = (await any_api.get("/ojs/v1/dead-letter/stats")).json
    assert (stats["total"], stats["by_queue"]) == (2, {"one": 1, "two": 1})
    assert (stats["by_type"], stats["by_type_counted"]) == ({"test.echo": 2}, 2)
    assert stats["oldest"] <= stats["newest"]
    shown = await any_api.get(f"/ojs/v1/dead-letter/{one['id']}")
    assert shown.json["job"]["state"] == "discarded"


async def test_a_dead_letter_is_retried_once(any_api: Api) -> None:
    job = await dead(any_api, "default")
    path = f"/ojs/v1/dead-letter/{job['id']}/retry"
    reply = await any_api.post(path)
    assert (reply.json["job"]["state"], reply.json["job"]["attempt"]) == ("available", 0)
    assert "error" not in reply.json["job"]
    assert (await any_api.post(path)).status == 404
    assert (await any_api.fetch())[0]["attempt"] == 1


async def test_a_deleted_dead_letter_is_gone(any_api: Api) -> None:
    job = await dead(any_api, "default")
    reply = await any_api.delete(f"/ojs/v1/dead-letter/{job['id']}")
    assert (reply.status, reply.json) == (200, {"deleted": True, "job_id": job["id"]})
    assert (await any_api.get(f"/ojs/v1/jobs/{job['id']}")).status == 404
    assert (await any_api.delete(f"/ojs/v1/dead-letter/{job['id']}")).status == 404


async def test_a_live_job_is_no_dead_letter(api: Api) -> None:
    job = await api.enqueue()
    assert (await api.get(f"/ojs/v1/dead-letter/{job['id']}")).status == 404
    assert (await api.delete(f"/ojs/v1/dead-letter/{job['id']}")).status == 404


async def test_a_result_is_answered_with_its_state(api: Api) -> None:
    job = await api.active()
    path = f"/ojs/v1/jobs/{job['id']}/result"
    waiting = (await api.get(path)).json
    assert (waiting["state"], waiting["result"]) == ("active", None)
    await api.post("/ojs/v1/workers/ack", {"job_id": job["id"], "result": {"a": [1]}})
    done = (await api.get(path)).json
    assert (done["job_id"], done["state"], done["result"]) == (job["id"], "completed", {"a": [1]})
    assert "completed_at" in done
    assert "error" not in done


async def test_a_failed_job_has_its_error_for_a_result(api: Api) -> None:
    job = await api.active()
    await api.post(NACK, {"job_id": job["id"], "error": {"code": "x", "retryable": False}})
    done = (await api.get(f"/ojs/v1/jobs/{job['id']}/result?wait=true")).json
    assert (done["state"], done["result"], done["error"]["code"]) == ("discarded", None, "x")
    assert "discarded_at" in done


async def test_waiting_for_a_result_returns_when_the_job_is_done(api: Api) -> None:
    job = await api.active()
    replies = []

    async def wait() -> None:
        replies.append(await api.get(f"/ojs/v1/jobs/{job['id']}/result?wait=true&timeout=20"))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await api.post("/ojs/v1/workers/ack", {"job_id": job["id"], "result": 5})
    assert replies[0].json["result"] == 5


async def test_a_wait_for_a_result_that_does_not_come_is_408(api: Api) -> None:
    job = await api.enqueue()
    reply = await api.get(f"/ojs/v1/jobs/{job['id']}/result?wait=true&timeout=0")
    assert (reply.status, reply.error["code"]) == (408, "result_pending")
    assert reply.error["details"]["state"] == "available"


async def test_a_drain_ends_the_wait_for_a_result(api: Api) -> None:
    job = await api.enqueue()
    replies = []

    async def wait() -> None:
        replies.append(await api.get(f"/ojs/v1/jobs/{job['id']}/result?wait=1&timeout=50"))

    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            api.app.drain()
    assert replies[0].status == 408


async def test_results_older_than_their_retention_are_gone(api: Api) -> None:
    old = await api.get(f"/ojs/v1/jobs/{UNKNOWN_ID}/result")
    assert (old.status, old.error["code"]) == (410, "result_expired")
    fresh = f"{(await api.enqueue())['id'][:-12]}000000000000"
    assert (await api.get(f"/ojs/v1/jobs/{fresh}/result")).status == 404


async def test_events_show_the_transitions_of_a_job(any_api: Api) -> None:
    job = await any_api.active("mail", type="email.send")
    await any_api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
    await any_api.enqueue(options={"queue": "other"})
    reply = await any_api.get("/ojs/v1/events?queues=mail&limit=10")
    events = reply.json["events"]
    assert [event["type"] for event in events] == ["job.enqueued", "job.started", "job.completed"]
    assert reply.json["items"] == events
    data = events[2]["data"]
    assert (data["job_id"], data["job_type"], data["queue"]) == (job["id"], "email.send", "mail")
    assert data["attempt"] == 1
    assert data["duration_ms"] >= 0
    only = (await any_api.get("/ojs/v1/events?types=job.enqueued,job.failed")).json["events"]
    assert [event["type"] for event in only] == ["job.enqueued"] * 2
    of_type = (await any_api.get("/ojs/v1/events?job_types=email.send")).json["events"]
    assert len(of_type) == 3


async def test_events_continue_after_the_cursor(any_api: Api) -> None:
    for n in range(5):
        await any_api.enqueue(options={"queue": f"q{n}"})
    seen: list[str] = []
    target = "/ojs/v1/events?limit=2"
    while True:
        page = (await any_api.get(target)).json
        seen += [event["id"] for event in page["events"]]
        if not page["has_more"]:
            break
        target = f"/ojs/v1/events?limit=2&after={page['cursor']}"
    assert len(seen) == len(set(seen)) == 5


async def test_events_refuse_a_foreign_cursor(api: Api) -> None:
    reply = await api.get("/ojs/v1/events?after=!!")
    assert (reply.status, reply.error["details"]["field"]) == (400, "after")


async def test_reset_empties_the_server(any_api: Api) -> None:
    await any_api.enqueue()
    await any_api.post("/ojs/v1/queues/default/pause")
    assert (await any_api.post("/ojs/v1/admin/reset")).status == 200
    assert (await any_api.get("/ojs/v1/jobs")).json["jobs"] == []
    assert (await any_api.get("/ojs/v1/queues")).json["queues"] == []
    await any_api.enqueue()
    assert len(await any_api.fetch()) == 1
    assert len((await any_api.get("/ojs/v1/queues")).json["queues"]) == 1
