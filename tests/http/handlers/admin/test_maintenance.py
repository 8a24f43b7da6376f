"""Maintenance mode refuses classes of requests, and everything else is served."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import OJSError
from ojs_cluster.http import maintenance
from ojs_cluster.http.app import App
from ojs_cluster.keys import Meta
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.fetch.long_poll import _Kind
from ojs_cluster.store.features.cron import cron
from ojs_scheduler.loops import cron as cron_loop
from tests.http.api import Api, Reply, open_app, until
from tests.http.handlers.bulk.test_operations import enqueue
from tests.support.servers import observer
from tests.support.timeshift import age_cron

MODE = "/ojs/v1/admin/system/maintenance"
FETCH = {"queues": ["mail"], "worker_id": "w"}
JOB: dict[str, Any] = {"type": "t", "args": [], "options": {"queue": "mail"}}
ENQUEUES = (
    ("/ojs/v1/jobs", JOB),
    ("/ojs/v1/jobs/batch", {"jobs": [JOB]}),
    ("/ojs/v1/jobs/bulk", {"jobs": [JOB]}),
    ("/ojs/v1/workflows", {"type": "group", "name": "n", "jobs": [JOB]}),
)


async def test_fetches_are_refused_and_everything_else_is_served(any_api: Api) -> None:
    job_id = await enqueue(any_api)
    await any_api.post("/ojs/v1/workers/fetch", FETCH)
    body = {"enabled": True, "reason": "move", "estimated_duration": "PT30M"}
    reply = await any_api.post(MODE, body)
    assert (reply.status, reply.json["maintenance"], reply.json["refused"]) == (
        200,
        True,
        ["fetch"],
    )
    assert reply.json["enabled_at"] < reply.json["estimated_end"]

    for path in ("/ojs/v1/workers/fetch", "/ojs/v1/jobs/fetch"):
        refused = await any_api.post(path, FETCH)
        assert (refused.status, refused.error["code"]) == (503, "maintenance")
        assert (refused.headers["retry-after"], refused.error["retryable"]) == ("10", True)
        assert "move" in refused.error["message"]
    for path, sent in ENQUEUES:
        assert (await any_api.post(path, sent)).status == 201
    beat = {"worker_id": "w", "active_jobs": [job_id]}
    assert (await any_api.post("/ojs/v1/workers/heartbeat", beat)).status == 200
    assert (await any_api.post("/ojs/v1/workers/ack", {"job_id": job_id})).status == 200

    reply = await any_api.post(MODE, {"enabled": False})
    assert (reply.status, reply.json["enabled"]) == (200, False)
    assert (await any_api.post("/ojs/v1/workers/fetch", FETCH)).json["jobs"]


async def test_fetches_that_wait_already_are_refused(any_api: Api) -> None:
    replies: list[Reply] = []

    async def fetch() -> None:
        body = {**FETCH, "wait_ms": 30_000}
        replies.append(await any_api.post("/ojs/v1/workers/fetch", body))

    async def all_wait() -> bool:
        waiting = any_api.app.waiters._waiting.get("mail", {}).get(_Kind("", ""), {})
        return sum(one._event.statistics().tasks_waiting for one in waiting) == 3

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch)
            await until(all_wait)
            await any_api.post(MODE, {"enabled": True, "refuse": ["enqueue"]})
            assert replies == []
            await any_api.post(MODE, {"enabled": True, "reason": "move"})
            job_id = await enqueue(any_api)
    assert [(one.status, one.error["code"]) for one in replies] == [(503, "maintenance")] * 3
    assert replies[0].headers["retry-after"] == "10"
    job = (await any_api.get(f"/ojs/v1/jobs/{job_id}")).json["job"]
    assert job["state"] == "available"
    assert len(any_api.app.waiters) == 0
    await any_api.post(MODE, {"enabled": False})
    assert (await any_api.post("/ojs/v1/workers/fetch", FETCH)).json["jobs"]


async def test_enqueues_are_refused_if_the_operator_says_so(api: Api) -> None:
    body = {"enabled": True, "refuse": ["enqueue", "fetch"]}
    assert (await api.post(MODE, body)).json["refused"] == ["enqueue", "fetch"]
    for path, sent in ENQUEUES:
        refused = await api.post(path, sent)
        assert (refused.status, refused.error["details"]["outcome"]) == (503, "not_applied")
    assert (await api.get("/ojs/v1/jobs")).json["jobs"] == []
    assert (await api.post(MODE, {"enabled": True, "refuse": ["enqueue"]})).status == 200
    assert (await api.post("/ojs/v1/workers/fetch", FETCH)).status == 200


async def test_the_mode_is_shown_everywhere(api: Api) -> None:
    async def views() -> list[Any]:
        stats = (await api.get("/ojs/v1/admin/stats")).json["maintenance"]["enabled"]
        found = [(await api.get(path)).json for path in ("/ojs/v1/health", "/ojs/manifest")]
        scrape = (await api.get("/metrics")).body.decode()
        return [
            *(view.get("maintenance", {}).get("refused") for view in found),
            stats,
            'ojs_maintenance{refused="fetch"} 1.0' in scrape,
        ]

    assert await views() == [None, None, False, False]
    await api.post(MODE, {"enabled": True, "reason": "secret"})
    assert await views() == [["fetch"], ["fetch"], True, True]
    assert "secret" not in (await api.get("/ojs/v1/health")).body.decode()
    assert (await api.get("/ojs/v1/health")).status == 200
    assert (await api.get("/ready")).status == 200
    reply = await api.get("/ojs/v1/admin/maintenance")
    assert (reply.json["reason"], reply.json["enabled_by"]) == ("secret", "anonymous")


async def test_another_process_learns_of_the_mode_and_keeps_it_without_redis(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "REFRESH_S", 0.01)
    async with open_app(standalone) as one, open_app(standalone) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.maintenance.run, other.store)
            await Api(one).post(MODE, {"enabled": True, "reason": "why"})

            async def refuses() -> bool:
                return (await Api(other).post("/ojs/v1/workers/fetch", FETCH)).status == 503

            await until(refuses)
            nursery.cancel_scope.cancel()
        since = await _since(one)
        # A repetition keeps the time; a later change is noted.
        await Api(one).post(MODE, {"enabled": True, "reason": "other"})
        assert await _since(one) == since


async def _since(app: App) -> str:
    return str((await Api(app).get(MODE)).json["started_at"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"enabled": True, "refuse": []},
        {"enabled": True, "refuse": ["ack"]},
        {"enabled": True, "reason": "x" * 501},
        {"enabled": True, "reason": "a\nb"},
        {"enabled": True, "estimated_duration": "soon"},
        {"enabled": True, "colour": "red"},
    ],
)
async def test_an_invalid_request_changes_nothing(api: Api, body: dict[str, Any]) -> None:
    assert (await api.post(MODE, body)).status == 400
    assert (await api.get(MODE)).json["enabled"] is False


async def test_a_damaged_record_counts_as_off_and_can_be_replaced(
    api: Api, standalone: Embedded
) -> None:
    key = Meta().maintenance
    with observer(standalone) as db:
        for damage in ("set", "hset"):
            db.delete(key)
            if damage == "set":
                db.set(key, "x")
            else:
                db.hset(key, mapping={"refused": b"\xff,all", "since": "x", "ends": "y"})
            assert (await api.get(MODE)).json["enabled"] is False
            assert (await api.post("/ojs/v1/workers/fetch", FETCH)).status == 200
            assert (await api.post(MODE, {"enabled": True})).status == 200
            assert (await api.get(MODE)).json["refused"] == ["fetch"]
            assert (await api.post(MODE, {"enabled": False})).status == 200


async def test_cron_jobs_do_not_fire_while_the_mode_is_on(api: Api, standalone: Embedded) -> None:
    store = api.app.store
    await cron.register(store, parse_cron(b'{"name":"c","cron":"@hourly","type":"t"}'))
    fire = cron_loop.step(store, 10)
    await api.post(MODE, {"enabled": True})
    with observer(standalone) as db:
        age_cron(db, store.keys.meta, "c", 2 * 3_600_000)
    paused = await fire(0)
    assert (paused.done, paused.next_ms) == (0, 2000)
    assert (await cron.get(store, "c")).runs == 0
    await api.post(MODE, {"enabled": False})
    await fire(0)
    assert (await cron.get(store, "c")).runs == 1


async def test_a_refusal_costs_no_call_of_redis(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.post(MODE, {"enabled": True})

    async def fails(*_args: Any, **_options: Any) -> None:
        raise OJSError("called")

    monkeypatch.setattr(type(api.app.store.redis), "call", fails)
    monkeypatch.setattr(type(api.app.store.redis), "script", fails)
    assert (await api.post("/ojs/v1/workers/fetch", FETCH)).error["code"] == "maintenance"
