"""The rights of each key: scopes of routes, expiry, and requests per second."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator

import pytest
import trio

from ojs_cluster.core.access.scopes import (
    ALL_SCOPES,
    PRESETS,
    Keyring,
    Principal,
    QueuePatterns,
    Scope,
    digest,
)
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import QueueAccess
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving

MAIL = QueuePatterns(["mail-*"])
PRINCIPALS = {
    **{f"key-{name}": Principal(name, scopes) for name, scopes in PRESETS.items()},
    **{f"only-{scope}": Principal(scope.name, frozenset({scope})) for scope in Scope},
    "no-more": Principal("old", expires_at_s=1.0),
    "not-yet": Principal("new", expires_at_s=time.time() + 3600),
    "slow": Principal("slow", requests_per_second=0.01),
    "mail": Principal("mail", queues=MAIL),
}


def access_of(*principals: str) -> AccessControl:
    named = principals or tuple(PRINCIPALS)
    return AccessControl(Keyring({digest(name): PRINCIPALS[name] for name in named}, {}))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def keyed(standalone: Embedded) -> AsyncIterator[Api]:
    """An API with every key of ``PRINCIPALS``, and the test hooks."""
    async with open_app(standalone, access=access_of(), test_hooks=True) as app:
        yield Api(app)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_every_route_names_its_scope_unless_it_is_open(route: object) -> None:
    (found,) = [each for each in ROUTES if each is route]
    assert (found.scope is None) == found.open


def test_scopes_follow_the_admin_specification() -> None:
    """Spec: ojs-admin-api 13.1. Purges need a scope of their own."""
    for route in ROUTES:
        purges = route.template.endswith(("/purge", "/reset", "/bulk/delete"))
        purges |= route.method == "DELETE" and route.template.endswith(("/dead-letter", "/jobs"))
        if purges:
            assert route.scope is Scope.ADMIN_PURGE, route
        elif "/admin/" in route.template and not route.test_hook:
            expected = Scope.ADMIN_READ if route.method == "GET" else Scope.ADMIN_WRITE
            assert route.scope is expected, route
        if route.method == "GET" and route.scope is not None:
            assert route.scope in (Scope.DATA_READ, Scope.ADMIN_READ), route
    workers = {r.template for r in ROUTES if r.scope is Scope.WORKER}
    assert {re.sub(r".*/", "", template) for template in workers} == {
        *("fetch", "ack", "nack", "batch", "heartbeat", "beat", "progress"),
        *("checkpoint", "{id}"),  # /checkpoints/{id}, a path of the SDKs
        *("pause", "fork", "merge", "tool-retry"),  # by the agent that runs as a job
    }
    assert "/ojs/v1/jobs/batch" not in workers


async def test_a_key_without_the_scope_gets_the_name_of_the_missing_scope(keyed: Api) -> None:
    for route in ROUTES:
        if route.scope is None:
            continue
        target = re.sub(r"{\w+}", "x", route.template)
        for scope in Scope:
            reply = await keyed.call(route.method, target, headers=bearer(f"only-{scope}"))
            if scope is route.scope:
                assert reply.status not in (401, 403), route
                continue
            assert (reply.status, reply.error["code"]) == (403, "permission_denied"), route
            assert route.scope.value in reply.error["message"]
            assert reply.error["details"]["required_scope"] == route.scope.value
            assert reply.error["details"]["principal"] == scope.name
            assert reply.error["details"]["ojs_code"] == "OJS-5001"


async def test_presets_can_do_their_work_and_no_more(keyed: Api) -> None:
    can = {
        "producer": ("POST", "/ojs/v1/jobs"),
        "worker": ("POST", "/ojs/v1/workers/fetch"),
        "viewer": ("GET", "/ojs/v1/admin/stats"),
        "operator": ("POST", "/ojs/v1/queues/q/pause"),
        "admin": ("POST", "/ojs/v1/queues/q/purge"),
    }
    allowed = {
        name: [
            preset
            for preset in PRESETS
            if (await keyed.call(*request, headers=bearer(f"key-{preset}"))).status != 403
        ]
        for name, request in can.items()
    }
    assert allowed == {
        "producer": ["producer", "operator", "admin"],
        "worker": ["worker", "admin"],
        "viewer": ["viewer", "operator", "admin"],
        "operator": ["operator", "admin"],
        "admin": ["admin"],
    }


async def test_an_expired_key_is_no_key(keyed: Api) -> None:
    reply = await keyed.get("/ojs/manifest", headers=bearer("no-more"))
    assert (reply.status, reply.error["code"]) == (401, "unauthenticated")
    assert "expired" in reply.error["message"]
    assert (await keyed.get("/ojs/manifest", headers=bearer("not-yet"))).status == 200


async def test_too_many_requests_are_refused_with_retry_after(keyed: Api) -> None:
    assert (await keyed.get("/ojs/manifest", headers=bearer("slow"))).status == 200
    reply = await keyed.get("/ojs/manifest", headers=bearer("slow"))
    assert (reply.status, reply.error["code"]) == (429, "rate_limited")
    assert reply.error["retryable"] is True
    assert reply.error["details"]["ojs_code"] == "OJS-6000"
    assert 90 <= int(reply.headers["retry-after"]) <= 100
    # The others' requests, and those that need no key, are not counted.
    assert (await keyed.get("/ojs/manifest", headers=bearer("key-viewer"))).status == 200
    assert (await keyed.get("/live", headers=bearer("slow"))).status == 200


def test_a_rate_lets_so_many_requests_through_and_refills() -> None:
    from ojs_cluster.http.access.keys_and_scopes import _TokenBucket

    bucket = _TokenBucket(4)
    began = time.monotonic()
    assert [bucket.take_token(began) for _ in range(6)] == [0, 0, 0, 0, 0.25, 0.25]
    assert bucket.take_token(began + 0.25) == 0
    assert bucket.take_token(began + 0.25) == 0.25
    assert [bucket.take_token(began + 60) for _ in range(5)][3:] == [0, 0.25]


async def test_a_replaced_keyring_holds_from_the_next_request_on(standalone: Embedded) -> None:
    access = access_of("key-admin", "key-viewer")
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        assert (await api.get("/ojs/manifest", headers=bearer("key-admin"))).status == 200
        access.replace(Keyring({digest("new"): Principal("new", ALL_SCOPES)}, {}))
        assert (await api.get("/ojs/manifest", headers=bearer("key-admin"))).status == 401
        assert (await api.get("/ojs/manifest", headers=bearer("new"))).status == 200
        with pytest.raises(ValueError, match="no API key is left"):
            access.replace(Keyring({}, {}))
        assert (await api.get("/ojs/manifest")).status == 401


async def test_a_restricted_key_cannot_use_cluster_wide_routes(keyed: Api) -> None:
    for route in ROUTES:
        if route.queue_access is QueueAccess.CLUSTER and not route.open:
            target = re.sub(r"{\w+}", "x", route.template)
            reply = await keyed.call(route.method, target, headers=bearer("mail"))
            assert (reply.status, reply.error["code"]) == (403, "permission_denied"), route
    assert (await keyed.get("/ojs/manifest", headers=bearer("mail"))).status == 200


async def test_a_restricted_key_does_not_see_the_marks_of_all_queues(keyed: Api) -> None:
    marks = "/ojs/v1/admin/marks"
    mark = {"label": "payroll v2"}
    assert (await keyed.post(marks, mark, headers=bearer("key-admin"))).status == 201
    reply = await keyed.get(marks, headers=bearer("mail"))
    assert (reply.status, b"payroll" in reply.body) == (403, False)
    assert (await keyed.get(marks, headers=bearer("key-viewer"))).json["total"] == 1


async def test_a_step_that_is_moved_takes_its_workflow_along(keyed: Api) -> None:
    """Otherwise a key of the plan's queues reads the step's result in a queue that it lacks."""
    steps = [{"type": "t", "args": [], "options": {"queue": "mail-a"}} for _ in range(2)]
    made = await keyed.post(
        "/ojs/v1/workflows", {"type": "group", "jobs": steps}, headers=bearer("mail")
    )
    flow = f"/ojs/v1/workflows/{made.json['workflow']['id']}"
    moved, other = (each["job_id"] for each in made.json["workflow"]["steps"])

    async def move(job_id: str, queue: str) -> None:
        path = f"/ojs/v1/admin/jobs/{job_id}/move"
        assert (await keyed.post(path, {"queue": queue}, headers=bearer("key-admin"))).status == 200

    async def seen(path: str) -> int:
        return (await keyed.get(path, headers=bearer("mail"))).status

    await move(other, "mail-b")
    assert await seen(flow) == 200
    await move(moved, "secret")
    assert {await seen(flow), await seen(f"{flow}/progress")} == {404}
    assert await seen(f"/ojs/v1/jobs/{moved}") == 404
    listed = await keyed.get("/ojs/v1/workflows", headers=bearer("mail"))
    assert listed.json["workflows"] == []
    assert (await keyed.delete(flow, headers=bearer("mail"))).status == 404
    assert (await keyed.get(flow, headers=bearer("key-admin"))).status == 200


async def _raw(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        data = b""
        with trio.fail_after(30):
            while piece := await stream.receive_some():
                data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_both_entry_points_enforce_scope_expiry_and_rate(
    standalone: Embedded, lane: bool
) -> None:
    job = b'{"type":"t","args":[]}'

    async def enqueue(port: int, secret: str) -> tuple[int, dict[str, str], str]:
        status, headers, body = await _raw(
            port,
            b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (secret.encode(), len(job), job),
        )
        return status, headers, json.loads(body).get("error", {}).get("code", "")

    async with (
        open_app(standalone, access=access_of()) as app,
        serving(app, lane=lane) as port,
    ):
        assert (await enqueue(port, "key-producer"))[0] == 201
        assert (await enqueue(port, "key-worker"))[::2] == (403, "permission_denied")
        assert (await enqueue(port, "no-more"))[::2] == (401, "unauthenticated")
        assert (await enqueue(port, "unknown"))[::2] == (401, "unauthenticated")
        assert (await enqueue(port, "slow"))[0] == 201
        status, headers, code = await enqueue(port, "slow")
        assert (status, code) == (429, "rate_limited")
        assert int(headers["retry-after"]) > 0
