"""Rate limits over HTTP."""

from __future__ import annotations

import pytest

from tests.http.api import Api


async def test_the_limits_of_a_queue_are_set_shown_and_removed(api: Api) -> None:
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


async def test_a_throttle_shows_when_the_next_job_may_start(api: Api) -> None:
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

    reply = await api.call("DELETE", "/ojs/v1/admin/queues/fast/rate-limit")
    assert (reply.status, reply.json) == (200, {"queue": "fast", "name": "fast"})
    assert "max_per_second" not in (await api.get("/ojs/v1/admin/queues/fast/rate-limit")).json
    taken = await api.post("/ojs/v1/workers/fetch", {"queues": ["fast"], "count": 2})
    assert len(taken.json["jobs"]) == 1


KEY = "tenant:acme"
PATH = "/ojs/v1/rate-limits/tenant%3Aacme"


def limited(key: str = KEY, **policy: object) -> dict[str, object]:
    return {"queue": "limited", "rate_limit": {"key": key, **policy}}


async def test_a_key_is_seen_before_and_while_its_jobs_run(api: Api) -> None:
    assert (await api.get(PATH)).status == 404
    policy = limited(concurrency=1, rate={"limit": 9, "period": "PT1H"}, on_limit="wait")
    first = await api.enqueue(options=policy)
    second = await api.enqueue(options=policy)
    assert first["rate_limit"] == policy["rate_limit"]
    seen = (await api.get(PATH)).json
    assert seen["key"] == KEY
    assert seen["concurrency"] == {"limit": 1, "active": 0, "available": 1}
    assert seen["holders"] == []

    taken = await api.post("/ojs/v1/workers/fetch", {"queues": ["limited"], "count": 2})
    assert [job["id"] for job in taken.json["jobs"]] == [first["id"]]
    seen = (await api.get(PATH)).json
    assert seen["concurrency"] == {"limit": 1, "active": 1, "available": 0}
    assert seen["rate"]["current_count"] == 1
    assert seen["waiting_count"] == 1
    assert seen["holders"] == [first["id"]]
    waiting = await api.get(f"/ojs/v1/jobs/{second['id']}")
    assert waiting.json["job"]["state"] == "available"
    assert (await api.get("/ojs/v1/rate-limits/tenant:acme")).json == seen


async def test_keys_are_listed_page_by_page(api: Api) -> None:
    names = {f"key-{number}" for number in range(7)}
    for name in names:
        await api.enqueue(options=limited(name, concurrency=1))

    whole = (await api.get("/ojs/v1/rate-limits")).json
    assert {found["key"] for found in whole["rate_limits"]} == names
    assert whole["items"] == whole["rate_limits"]
    assert whole["pagination"]["total"] == 7
    paged: list[str] = []
    for page in (1, 2, 3):
        reply = (await api.get(f"/ojs/v1/rate-limits?page={page}&per_page=3")).json
        paged += [found["key"] for found in reply["items"]]
    assert paged == [found["key"] for found in whole["items"]]


@pytest.mark.parametrize("path", [PATH, f"{PATH}/override"])
async def test_an_override_applies_until_it_is_removed(api: Api, path: str) -> None:
    await api.enqueue(options=limited(concurrency=1))
    body = {"concurrency": 0, "expires_at": "2999-01-01T00:00:00Z"}
    reply = await api.call("PUT", path, body)
    assert reply.status == 200
    assert reply.json["concurrency"]["limit"] == 0
    assert reply.json["override"] == {
        "limit": 0,
        "period": "",
        "concurrency": 0,
        "expires_at": "2999-01-01T00:00:00.000Z",
    }
    fetch = {"queues": ["limited"]}
    assert (await api.post("/ojs/v1/workers/fetch", fetch)).json["jobs"] == []

    reply = await api.delete(f"{PATH}/override")
    assert reply.status == 200
    assert "override" not in reply.json
    assert len((await api.post("/ojs/v1/workers/fetch", fetch)).json["jobs"]) == 1


@pytest.mark.parametrize(
    ("key", "body", "status", "field"),
    [
        ("a%2Fb", {"concurrency": 1}, 422, "key"),
        ("k", {}, 400, "concurrency"),
        ("k", {"concurrency": "1"}, 422, "concurrency"),
        ("k", {"concurrency": 1, "expires_at": "2001-01-01T00:00:00Z"}, 400, "expires_at"),
        ("k", {"concurrency": 1, "expires_at": "+PT1H"}, 400, "expires_at"),
        ("k", {"concurrency": 1, "expires_at": "soon"}, 400, "expires_at"),
        ("k", {"concurrency": 1, "expires_at": 7}, 400, "expires_at"),
    ],
    ids=str,
)
async def test_a_wrong_override_is_refused(
    api: Api, key: str, body: dict[str, object], status: int, field: str
) -> None:
    reply = await api.call("PUT", f"/ojs/v1/rate-limits/{key}", body)
    assert reply.status == status
    assert reply.error["details"]["field"] == field
    assert (await api.get("/ojs/v1/rate-limits")).json["items"] == []


async def test_a_missing_override_is_not_found(api: Api) -> None:
    assert (await api.delete("/ojs/v1/rate-limits/k/override")).status == 404


async def test_an_enqueue_returns_the_remaining_capacity(api: Api) -> None:
    options = limited(rate=2, period="hour")
    body = {"type": "t", "args": [], "options": options}
    reply = await api.post("/ojs/v1/jobs", body)
    assert reply.headers["x-ratelimit-limit"] == "2"
    assert reply.headers["x-ratelimit-remaining"] == "2"
    await api.post("/ojs/v1/workers/fetch", {"queues": ["limited"]})
    reply = await api.post("/ojs/v1/jobs", body)
    assert reply.headers["x-ratelimit-remaining"] == "1"
    assert int(reply.headers["x-ratelimit-reset"]) > 1_700_000_000
    body["options"] = {"queue": "limited"}
    assert "x-ratelimit-limit" not in (await api.post("/ojs/v1/jobs", body)).headers


async def test_a_worker_may_block_its_rate_limit_key(api: Api) -> None:
    for _ in range(2):
        await api.enqueue(options=limited(concurrency=5))
    fetch = {"queues": ["limited"], "worker_id": "w"}
    [job] = (await api.post("/ojs/v1/workers/fetch", fetch)).json["jobs"]
    error = {"message": "429", "rate_limit_until": "2999-01-01T00:00:00Z"}
    nack = {"job_id": job["id"], "worker_id": "w", "error": error}
    assert (await api.post("/ojs/v1/workers/nack", nack)).status == 200

    assert (await api.post("/ojs/v1/workers/fetch", fetch)).json["jobs"] == []
    assert (await api.get(PATH)).json["held_until"].endswith("Z")
