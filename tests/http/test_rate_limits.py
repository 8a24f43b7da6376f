"""Rate limits over HTTP."""

from __future__ import annotations

import pytest

from tests.http.api import Api


async def test_a_queues_limits_are_set_seen_and_taken_back(api: Api) -> None:
    path = "/ojs/v1/admin/queues/mail/rate-limit"
    assert (await api.get(path)).json == {"queue": "mail", "name": "mail"}

    body = {"concurrency": 20, "rate": {"limit": 2, "period": "PT1H"}}
    reply = await api.call("PUT", path, body)
    assert reply.status == 200
    assert reply.json["concurrency"] == {"limit": 20, "active": 0, "available": 20}
    for _ in range(3):
        await api.enqueue(options={"queue": "mail"})
    fetch = {"queues": ["mail"], "count": 9}
    taken = await api.post("/ojs/v1/workers/fetch", fetch)
    assert len(taken.json["jobs"]) == 2
    seen = (await api.get(path)).json
    assert seen["concurrency"] == {"limit": 20, "active": 2, "available": 18}
    assert seen["rate"]["current_count"] == 2
    assert seen["rate"]["period"] == "PT1H"
    assert seen["rate"]["window_resets_at"].endswith("Z")

    assert (await api.delete(path)).json == {"queue": "mail", "name": "mail"}
    assert len((await api.post("/ojs/v1/workers/fetch", fetch)).json["jobs"]) == 1


async def test_a_throttle_says_when_the_next_may_start(api: Api) -> None:
    path = "/ojs/v1/admin/queues/paced/rate-limit"
    await api.call("PUT", path, {"throttle": {"limit": 1, "period": "hour"}})
    await api.enqueue(options={"queue": "paced"})
    await api.post("/ojs/v1/workers/fetch", {"queues": ["paced"]})

    throttle = (await api.get(path)).json["throttle"]
    assert throttle["limit"] == 1
    assert throttle["next_allowed_at"].endswith("Z")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "concurrency"),
        ({"concurrency": None}, 400, "concurrency"),
        ({"concurrency": -1}, 422, "concurrency"),
        ({"rate": {"limit": 1}}, 422, "rate.period"),
        ({"throttle": {"limit": 0, "period": "PT1S"}}, 422, "throttle.limit"),
    ],
    ids=str,
)
async def test_wrong_limits_are_refused(
    api: Api, body: dict[str, object], status: int, field: str
) -> None:
    reply = await api.call("PUT", "/ojs/v1/admin/queues/mail/rate-limit", body)
    assert reply.status == status
    assert reply.error["details"]["field"] == field


async def test_a_declared_limit_is_echoed_and_obeyed(api: Api) -> None:
    options = {"queue": "fast", "rate_limit": {"max_per_second": 1}}
    job = await api.enqueue(options=options)
    await api.enqueue(options=options)
    assert job["rate_limit"] == {"max_per_second": 1}

    taken = await api.post("/ojs/v1/workers/fetch", {"queues": ["fast"], "count": 2})
    assert len(taken.json["jobs"]) == 1
    shown = (await api.get("/ojs/v1/admin/queues/fast/rate-limit")).json
    assert shown["max_per_second"] == 1
