"""``OJS_REQUIRE_LEASE``: a worker that does not name its lease is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving

WORKER = {"worker_id": "w1"}


@pytest.fixture
async def strict(standalone: Embedded) -> AsyncIterator[Api]:
    """The API with leases required."""
    async with open_app(standalone, require_lease=True) as app:
        yield Api(app)


async def fetched(api: Api) -> dict[str, Any]:
    """Return a job that a worker has fetched."""
    await api.enqueue()
    reply = await api.post("/ojs/v1/workers/fetch", {"queues": ["default"], **WORKER})
    job: dict[str, Any] = reply.json["jobs"][0]
    return job


def reports(job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return all requests that report on a job without its lease."""
    return [
        ("/ojs/v1/workers/ack", {"job_id": job_id, **WORKER}),
        ("/ojs/v1/workers/ack", {"job_id": job_id, "lease_id": "", **WORKER}),
        ("/ojs/v1/workers/nack", {"job_id": job_id, "error": {"message": "m"}, **WORKER}),
        (f"/ojs/v1/jobs/{job_id}/ack", WORKER),
        (f"/ojs/v1/jobs/{job_id}/nack", WORKER),
        ("/ojs/v1/workers/heartbeat", {"job_id": job_id, **WORKER}),
        ("/ojs/v1/workers/beat", {"active_jobs": [job_id], "leases": {}, **WORKER}),
    ]


async def test_a_report_without_a_lease_is_refused_and_changes_nothing(strict: Api) -> None:
    job = await fetched(strict)
    for path, body in reports(job["id"]):
        reply = await strict.post(path, body)
        assert reply.status == 400, path
        assert reply.error["code"] == "invalid_request"
        assert reply.error["details"]["field"] in ("lease_id", "leases")
    assert (await strict.get(f"/ojs/v1/jobs/{job['id']}")).json["job"]["state"] == "active"


@pytest.mark.parametrize("kind", ["ack", "nack"])
async def test_of_a_batch_only_items_with_a_lease_are_done(strict: Api, kind: str) -> None:
    first, second = await fetched(strict), await fetched(strict)
    items = [{"job_id": first["id"]}, {"job_id": second["id"], "lease_id": second["lease_id"]}]
    reply = await strict.post(f"/ojs/v1/workers/{kind}/batch", {f"{kind}s": items, **WORKER})

    assert [item["status"] for item in reply.json["results"]] == [400, 200]
    assert reply.json["results"][0]["error"]["details"]["field"] == "lease_id"


async def test_reports_with_a_lease_are_served(strict: Api) -> None:
    job = await fetched(strict)
    beat = {"active_jobs": [job["id"]], "leases": {job["id"]: job["lease_id"]}, **WORKER}
    reply = await strict.post("/ojs/v1/workers/heartbeat", beat)
    assert reply.json["jobs_extended"] == [job["id"]]
    assert (await strict.post("/ojs/v1/workers/heartbeat", WORKER)).status == 200
    body = {"job_id": job["id"], "lease_id": job["lease_id"]}
    assert (await strict.post("/ojs/v1/workers/ack", body)).status == 200


async def test_without_the_setting_a_worker_need_not_name_its_lease(api: Api) -> None:
    for number in range(7):
        job = await fetched(api)
        path, body = reports(job["id"])[number]
        assert (await api.post(path, body)).status == 200, path


@pytest.mark.parametrize("lane", [True, False], ids=["fast lane", "hypercorn"])
async def test_both_entry_points_refuse(strict: Api, lane: bool) -> None:
    job = await fetched(strict)
    async with serving(strict.app, lane=lane) as port, httpx.AsyncClient(timeout=60) as client:
        for path, body in reports(job["id"]):
            reply = await client.post(f"http://127.0.0.1:{port}{path}", json=body)
            assert reply.status_code == 400, path
            assert "lease" in reply.json()["error"]["message"]
