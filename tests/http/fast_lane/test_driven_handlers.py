"""Every handler of a fast route, run without a task: none uses trio before it has asked for one.

All other tests that use `Api` run these handlers so, too. Here is shown that no route is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.http.messages import Request
from ojs_cluster.http.routes.all_routes import ROUTES
from tests.http.api import OJS_TYPE, Api, Reply, dispatch
from tests.support.driven import driven

Walk = Callable[[Api], Awaitable[list[Reply]]]
FAST = sorted((route.method, route.template) for route in ROUTES if route.fast)
V1 = "/ojs/v1"


def _job(**options: Any) -> dict[str, Any]:
    return {"type": "t", "args": [], "options": options}


async def _enqueue(api: Api) -> list[Reply]:
    own_id = new_job_id(3, 8, 1_700_000_000_000)
    limit = {"rate_limit": {"key": "k", "concurrency": 1}}
    unique = {"unique": {"keys": ["type"], "on_conflict": "ignore"}}
    bodies: list[Any] = [
        *(_job(), _job(queue="other"), _job(queue="spread"), {**_job(), "id": own_id}),
        *({**_job(), "id": own_id}, _job(**limit), _job(delay_until="+PT1H")),
        *(_job(**unique), _job(**unique), b"{", {"type": "t"}),
        {"type": "t", "args": ["x" * 300_000]},
    ]
    return [await api.post(f"{V1}/jobs", body) for body in bodies]


async def _enqueue_many(api: Api) -> list[Reply]:
    many = [_job(queue=f"q{number}") for number in range(20)]
    return [
        await api.post(f"{V1}/jobs/batch", {"jobs": [_job()]}),
        await api.post(f"{V1}/jobs/batch", {"jobs": many}),
        await api.post(f"{V1}/jobs/batch", {"jobs": [_job() for _ in range(300)]}),
    ]


def _fetch(path: str) -> Walk:
    async def walk(api: Api) -> list[Reply]:
        await _enqueue(api)
        asked: list[dict[str, Any]] = [
            {"queues": ["default"]},
            {"queues": ["default"], "worker_id": "w", "count": 3},
            {"queues": ["other", "default", "third"], "count": 50},
            {"queues": [f"q{number}" for number in range(20)]},
            {"queues": ["spread"]},
            {"queues": ["empty"], "wait_ms": 30},
            {"queues": []},
        ]
        return [await api.post(path, body) for body in asked]

    return walk


async def _get(api: Api) -> list[Reply]:
    job = await api.enqueue()
    unknown = new_job_id(0, 8, 1_700_000_000_000)
    return [await api.get(f"{V1}/jobs/{name}") for name in (job["id"], unknown, "nothing")]


def _settle(how: str, *, by_path: bool) -> Walk:
    async def walk(api: Api) -> list[Reply]:
        replies = []
        options: list[dict[str, Any]] = [
            *({}, {"unique": {"keys": ["args"]}}),
            {"rate_limit": {"key": "k", "concurrency": 1}},
        ]
        for number, chosen in enumerate(options):
            job = await api.active(args=[number], options=chosen)
            body = {"worker_id": "w1", "error": {"type": "E", "message": "m"}}
            path = f"{V1}/workers/{how}"
            if by_path:
                path = f"{V1}/jobs/{job['id']}/{how}"
            else:
                body["job_id"] = job["id"]
            replies += [await api.post(path, body) for _ in range(2)]
        return replies

    return walk


def _settle_many(how: str, items: str) -> Walk:
    async def walk(api: Api) -> list[Reply]:
        jobs = [await api.active(f"q{number}") for number in range(6)]
        named = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]
        if how == "nack":
            named = [{**one, "error": {"type": "E", "message": "m"}} for one in named]
        path = f"{V1}/workers/{how}/batch"
        return [await api.post(path, {items: part}) for part in (named[:1], named[1:], [])]

    return walk


def _beat(path: str) -> Walk:
    async def walk(api: Api) -> list[Reply]:
        jobs = [await api.active(f"q{number}") for number in range(6)]
        ids = [job["id"] for job in jobs]
        return [
            await api.post(path, {"worker_id": "w1", "active_jobs": part})
            for part in ([], ids[:1], ids)
        ]

    return walk


def _probe(path: str) -> Walk:
    async def walk(api: Api) -> list[Reply]:
        return [await api.get(path) for _ in range(2)]

    return walk


WALKS: dict[tuple[str, str], Walk] = {
    ("GET", "/health"): _probe("/health"),
    ("GET", "/live"): _probe("/live"),
    ("GET", "/ready"): _probe("/ready"),
    ("GET", "/healthz"): _probe("/healthz"),
    ("GET", "/readyz"): _probe("/readyz"),
    ("GET", f"{V1}/health"): _probe(f"{V1}/health"),
    ("GET", f"{V1}/jobs/{{id}}"): _get,
    ("POST", f"{V1}/jobs"): _enqueue,
    ("POST", f"{V1}/jobs/batch"): _enqueue_many,
    ("POST", f"{V1}/jobs/fetch"): _fetch(f"{V1}/jobs/fetch"),
    ("POST", f"{V1}/workers/fetch"): _fetch(f"{V1}/workers/fetch"),
    ("POST", f"{V1}/jobs/{{id}}/ack"): _settle("ack", by_path=True),
    ("POST", f"{V1}/jobs/{{id}}/nack"): _settle("nack", by_path=True),
    ("POST", f"{V1}/workers/ack"): _settle("ack", by_path=False),
    ("POST", f"{V1}/workers/nack"): _settle("nack", by_path=False),
    ("POST", f"{V1}/workers/ack/batch"): _settle_many("ack", "acks"),
    ("POST", f"{V1}/workers/nack/batch"): _settle_many("nack", "nacks"),
    ("POST", f"{V1}/workers/heartbeat"): _beat(f"{V1}/workers/heartbeat"),
    ("POST", f"{V1}/workers/beat"): _beat(f"{V1}/workers/beat"),
}


def test_every_fast_route_is_walked() -> None:
    assert sorted(WALKS) == FAST


@pytest.mark.parametrize("route", FAST, ids=lambda route: re.sub(r"\W+", "-", " ".join(route)))
async def test_no_handler_of_a_fast_route_uses_trio_before_it_has_a_task(
    any_api: Api, route: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    reply = await any_api.call("PUT", f"{V1}/admin/queues/spread/config", {"partitions": 4})
    assert reply.status == 200, reply.body
    await any_api.app.store.partitions.read(any_api.app.store)
    replies = await WALKS[route](any_api)
    assert replies[0].status in (200, 201), replies[0].body
    assert all(reply.status < 500 for reply in replies), [reply.body for reply in replies]
    assert "async context" not in caplog.text


@pytest.mark.parametrize("name", ["enqueue", "fetch", "ack", "get"])
async def test_plain_jobs_ask_for_no_task(
    api: Api, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast lane exists for these four routes."""
    job = await api.enqueue()
    for _ in range(2):  # Redis knows the scripts, and the process what there is to learn
        warm = await api.active()
        await api.post(f"{V1}/workers/ack", {"job_id": warm["id"]})
    fetched = await api.active()
    moves: list[str] = []
    lease = {"job_id": fetched["id"], "lease_id": fetched["lease_id"]}
    asked = {
        "enqueue": ("POST", f"{V1}/jobs", b'{"type":"t","args":[]}'),
        "fetch": ("POST", f"{V1}/workers/fetch", b'{"queues":["default"]}'),
        "ack": (
            *("POST", f"{V1}/workers/ack"),
            b'{"job_id":"%(job_id)b","lease_id":"%(lease_id)b"}'
            % {key.encode(): value.encode() for key, value in lease.items()},
        ),
        "get": ("GET", f"{V1}/jobs/{job['id']}", b""),
    }
    method, path, body = asked[name]
    # Every two seconds a request has the partition table read again, which takes a task.
    monkeypatch.setattr(api.app.store.partitions, "_next_read_at", math.inf)
    monkeypatch.setattr(api.app.store.partitions, "_unreadable", True)
    request = Request(method, path, "", {"content-type": OJS_TYPE}, body)
    response = await driven(dispatch(api.app, request), lambda: moves.append("moved"))
    assert response.status in (200, 201), response.body
    assert moves == []
