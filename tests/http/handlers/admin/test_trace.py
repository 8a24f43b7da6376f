"""The phases of a job's life."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.jobs.ids import new_job_id
from tests.http.api import Api

NACK = "/ojs/v1/workers/nack"


async def trace(api: Api, job_id: str) -> dict[str, Any]:
    reply = await api.get(f"/ojs/v1/admin/jobs/{job_id}/trace")
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    times = [snapshot["at"] for snapshot in found["snapshots"]]
    assert times == sorted(times)
    return found


def phases(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(snap["phase"], snap["state"], snap["error"]) for snap in found["snapshots"]]


async def test_the_trace_of_a_job_that_fails_twice(any_api: Api) -> None:
    retry = {"max_attempts": 2, "initial_interval": "PT0.001S", "jitter": False}
    job_id = (await any_api.active(options={"retry": retry}))["id"]
    first = phases(await trace(any_api, job_id))
    assert first == [("created", "available", ""), ("attempt 1", "active", "")]
    await any_api.post(NACK, {"job_id": job_id, "error": {"code": "x", "message": "one"}})
    waiting = phases(await trace(any_api, job_id))
    assert waiting[2:] == [("attempt 1 failed", "retryable", "one")]
    again: list[dict[str, Any]] = []
    while not again:  # until the retry is due
        again = await any_api.fetch(worker_id="w1")
    await any_api.post(NACK, {"job_id": job_id, "error": {"code": "x", "message": "two"}})

    found = await trace(any_api, job_id)

    assert phases(found) == [
        ("created", "available", ""),
        ("attempt 1 failed", "retryable", "one"),
        ("available", "available", ""),
        ("attempt 2", "active", ""),
        ("ended", "discarded", "two"),
    ]
    assert (found["state"], found["attempt"], found["errors_omitted"]) == ("discarded", 2, 0)
    last = found["snapshots"][-1]
    assert (last["duration_ms"], last["duration"]) == (0, "0.000s")


async def test_the_trace_of_jobs_that_wait(any_api: Api) -> None:
    for options, state in (
        ({"scheduled_at": "+PT1H"}, "scheduled"),
        ({"pending": True}, "pending"),
    ):
        job = await any_api.enqueue(options=options)
        assert phases(await trace(any_api, job["id"])) == [("created", state, "")]
        cancelled = await any_api.post(f"/ojs/v1/admin/jobs/{job['id']}/cancel")
        assert cancelled.status == 200
        assert phases(await trace(any_api, job["id"]))[-1] == ("ended", "cancelled", "")


async def test_an_unknown_job_has_no_trace(api: Api) -> None:
    job_id = new_job_id(0, 8, 1_700_000_000_000)
    assert (await api.get(f"/ojs/v1/admin/jobs/{job_id}/trace")).status == 404
