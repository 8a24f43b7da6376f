"""Heartbeats that wait for news: a cancelled job, or another directive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, Reply, open_app, until

BEAT = "/ojs/v1/workers/heartbeat"
DIRECTIVE = "/ojs/v1/admin/workers/directive"
WAIT_MS = 300_000
LIMIT_S = 120


async def news_during(
    api: Api, send_news: Callable[[], Awaitable[Any]], **members: Any
) -> dict[str, Any]:
    """Send a heartbeat of ``w1`` that waits, and send the news when it is recorded."""
    replies: list[Reply] = []
    body = {"worker_id": "w1", "queues": ["default"], "wait_ms": WAIT_MS, **members}

    async def beat() -> None:
        replies.append(await api.post(BEAT, body))

    async def has_sent_heartbeat() -> bool:
        reply = await api.get("/ojs/v1/admin/workers/w1")
        return reply.status == 200 and reply.json["last_heartbeat_at"] not in (None, before)

    before = (await api.get("/ojs/v1/admin/workers/w1")).json.get("last_heartbeat_at")
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            await until(has_sent_heartbeat)
            assert replies == []
            reply = await send_news()
            assert reply is None or reply.status == 200, reply.body
    assert replies[0].status == 200, replies[0].body
    answer: dict[str, Any] = replies[0].json
    return answer


@pytest.fixture
async def waiting_api(backend: Embedded) -> Any:
    async with open_app(backend, max_wait_ms=WAIT_MS) as app:
        yield Api(app)


async def test_a_cancelled_job_ends_the_wait(waiting_api: Api) -> None:
    api = waiting_api
    job, kept, ended = [await api.active() for _ in range(3)]
    await api.post("/ojs/v1/workers/ack", {"job_id": ended["id"]})  # it is listed, and no news
    answer = await news_during(
        api,
        lambda: api.delete(f"/ojs/v1/jobs/{job['id']}"),
        active_jobs=[job["id"], kept["id"], ended["id"]],
        leases={one["id"]: one["lease_id"] for one in (job, kept)},
    )
    assert answer["jobs_cancelled"] == [job["id"]]
    assert answer["jobs_extended"] == [kept["id"]]


async def test_a_job_that_was_fetched_during_the_wait_is_named_too(waiting_api: Api) -> None:
    api = waiting_api

    async def fetch_and_cancel() -> None:
        job = await api.active()
        ids.append(job["id"])
        await api.delete(f"/ojs/v1/jobs/{job['id']}")

    ids: list[str] = []
    answer = await news_during(api, fetch_and_cancel)
    assert answer["jobs_cancelled"] == ids


async def test_a_directive_ends_the_wait(waiting_api: Api) -> None:
    api = waiting_api
    answer = await news_during(api, lambda: api.post("/ojs/v1/admin/workers/w1/quiet"))
    assert answer["state"] == "quiet"
    # The worker knows the state now. Its next heartbeat waits until the directive is removed.
    answer = await news_during(
        api, lambda: api.post(DIRECTIVE, {"directive": "resume"}), known_state="quiet"
    )
    assert answer["state"] == "running"


async def test_what_is_known_at_once_is_told_at_once(waiting_api: Api) -> None:
    api = waiting_api
    job = await api.active()
    await api.delete(f"/ojs/v1/jobs/{job['id']}")
    body = {"worker_id": "w1", "active_jobs": [job["id"]], "wait_ms": WAIT_MS}
    with trio.fail_after(LIMIT_S):
        reply = await api.post(BEAT, body)
    assert reply.json["jobs_cancelled"] == [job["id"]]


async def test_a_cancel_between_two_waits_is_told_and_no_lease_is_extended(
    waiting_api: Api,
) -> None:
    api = waiting_api
    job, kept = await api.active(), await api.active()
    before = (await api.get(f"/ojs/v1/jobs/{kept['id']}")).json["job"]
    await api.delete(f"/ojs/v1/jobs/{job['id']}")
    leases = {one["id"]: one["lease_id"] for one in (job, kept)}
    body = {"worker_id": "w1", "active_jobs": 2, "leases": leases, "wait_ms": WAIT_MS}
    with trio.fail_after(LIMIT_S):
        reply = await api.post(BEAT, body)
    assert (reply.json["jobs_cancelled"], reply.json["jobs_extended"]) == ([job["id"]], [])
    assert (await api.get(f"/ojs/v1/jobs/{kept['id']}")).json["job"] == before


async def test_the_wait_ends_without_news_and_in_a_drain(backend: Embedded) -> None:
    async with open_app(backend, max_wait_ms=50) as app:
        reply = await Api(app).post(BEAT, {"worker_id": "w1", "wait_ms": WAIT_MS})
        assert (reply.status, reply.json["state"]) == (200, "running")
    async with open_app(backend, max_wait_ms=WAIT_MS) as app:
        api = Api(app)

        async def drain() -> None:
            app.waiters.drain()

        assert (await news_during(api, drain))["state"] == "running"
