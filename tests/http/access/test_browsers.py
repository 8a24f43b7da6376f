"""Pages of other sites cannot use the rights that their visitor's browser has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import OJS_TYPE, Api, dial, open_app, serving
from tests.http.push.sockets import websocket

KEY = "k" * 40
ADMIN = "https://admin.example.com"
JOB = {"type": "t", "args": []}


@pytest.fixture
async def keyless(standalone: Embedded) -> AsyncIterator[Api]:
    allowed = ("jobs.example.com", "*.corp.example")
    async with open_app(standalone, cors_origins=(ADMIN,), allowed_hosts=allowed) as app:
        yield Api(app)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "Same-Origin"},
    ],
)
async def test_a_page_of_another_origin_changes_nothing(
    keyless: Api, headers: dict[str, str]
) -> None:
    headers = {"host": "localhost:8080", **headers}
    queue = "of-pages"
    job = {**JOB, "options": {"queue": queue}}
    calls = [
        ("POST", "/ojs/v1/jobs", job),
        ("POST", f"/ojs/v1/queues/{queue}/pause", None),
        ("POST", "/ojs/v1/jobs/bulk/cancel", {"filter": {"queue": queue}}),
        ("POST", "/ojs/v1/dead-letter/purge", None),
        ("PUT", f"/ojs/v1/admin/queues/{queue}/config", {"max_depth": 1}),
        ("PATCH", "/ojs/v1/cron/c", {"queue": queue}),
        ("DELETE", "/ojs/v1/cron/c", None),
    ]
    for method, path, body in calls:
        reply = await keyless.call(method, path, body, headers=headers)
        assert (reply.status, reply.error["code"]) == (403, "permission_denied"), path
        assert "OJS_CORS_ORIGINS" in reply.error["hint"]
    reply = await keyless.get(f"/ojs/v1/jobs?queue={queue}")
    assert reply.json["jobs"] == []
    # It may ask, because the browser lets it read no answer.
    assert (await keyless.get("/ojs/v1/queues", headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": ADMIN},
        {"origin": ADMIN, "sec-fetch-site": "cross-site"},
        {"origin": "http://LOCALHOST:8080"},
        {"origin": "https://localhost:8080"},
        {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"},
        {"origin": "https://behind-a-proxy.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_other_clients_and_own_pages_are_served(
    keyless: Api, headers: dict[str, str]
) -> None:
    headers = {"host": "localhost:8080", **headers}
    assert (await keyless.post("/ojs/v1/jobs", JOB, headers=headers)).status == 201


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LocalHost:8080", True),
        ("localhost.", True),
        ("app.localhost:1", True),
        ("127.0.0.1:8080", True),
        ("192.0.2.7", True),
        ("[::1]:8080", True),
        ("[fe80::1]", True),
        ("api:8080", True),
        ("my_compose-api-1", True),
        ("host.docker.internal:8080", True),
        ("laptop.local", True),
        ("ojs.default.svc", True),
        ("ojs.default.svc.cluster.local:8080", True),
        ("jobs.example.com:443", True),
        ("JOBS.example.com.", True),
        ("a.corp.example", True),
        ("", True),
        ("evil.example", False),
        ("corp.example", False),
        ("internal.evil.example", False),
        ("evil-internal", True),
        ("xcorp.example", False),
        ("jobs.example.com.evil.example", False),
        ("evil.example:80:80", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1, evil.example", False),
        ("evil.example@localhost", False),
        ("localhost@evil.example", False),
        ("[evil.example]", False),
        ("[::1", False),
        ("1.2.3", False),
        ("1.2.3.4.5", False),
        ("localhost..", False),
        ("ä", False),
    ],
)
async def test_without_keys_only_names_that_no_page_can_have_are_served(
    keyless: Api, host: str, allowed: bool
) -> None:
    expected = 200 if allowed else 403
    for path in ("/ojs/v1/queues", "/ojs/v1/admin/queues"):
        reply = await keyless.get(path, headers={"host": host})
        assert reply.status == expected
        assert allowed or "OJS_ALLOWED_HOSTS" in reply.error["message"]
    job = await keyless.post("/ojs/v1/jobs", JOB, headers={"host": host})
    assert job.status == (201 if allowed else 403)
    # Probes of load balancers use any name, and disclose nothing.
    assert (await keyless.get("/live", headers={"host": host})).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_without_keys_a_body_must_be_declared_as_json(keyless: Api, method: str) -> None:
    path = {
        "POST": "/ojs/v1/dead-letter/purge",
        "PUT": "/ojs/v1/admin/queues/q/config",
    }.get(method, "/ojs/v1/cron/c")
    app = keyless.app
    async with serving(app, lane=True) as port:
        status, text = await send(port, method, path, b"{}")
        assert status == 400
        assert b"the body must be application/openjobspec+json" in text
        plain = await send(port, method, path, b"{}", "Content-Type: text/plain")
        assert plain[0] == 400
        status, _ = await send(port, method, path, b"")
        assert status != 400 or method in ("PUT", "PATCH")


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_an_enqueue_without_a_media_type_needs_an_api_key(
    standalone: Embedded, lane: bool
) -> None:
    body = b'{"type":"t","args":[]}'
    key = f"Authorization: Bearer {KEY}"
    async with (
        open_app(standalone) as keyless,
        open_app(standalone, api_keys=(KEY,)) as app,
        serving(keyless, lane=lane) as port,
        serving(app, lane=lane) as keyed,
    ):
        assert (await send(port, "POST", "/ojs/v1/jobs", body))[0] == 400
        typed = await send(port, "POST", "/ojs/v1/jobs", body, f"Content-Type: {OJS_TYPE}")
        assert typed[0] == 201
        assert (await send(keyed, "POST", "/ojs/v1/jobs", body, key))[0] == 201


async def test_with_keys_neither_the_name_nor_the_page_matters(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=(KEY,)) as app:
        headers = {
            "authorization": f"Bearer {KEY}",
            "host": "evil.example",
            "origin": "https://evil.example",
            "sec-fetch-site": "cross-site",
        }
        assert (await Api(app).post("/ojs/v1/jobs", JOB, headers=headers)).status == 201
        del headers["authorization"]
        assert (await Api(app).post("/ojs/v1/jobs", JOB, headers=headers)).status == 401


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_a_page_that_has_rebound_its_name_opens_no_stream(
    standalone: Embedded, lane: bool
) -> None:
    async with open_app(standalone) as app, serving(app, lane=lane) as port:
        name = f"evil.example:{port}"
        async with websocket(port, {"Origin": f"http://{name}"}, host=name) as socket:
            assert socket.status == 403
        status, _ = await send(port, "GET", "/ojs/v1/events/stream", b"", host=name)
        assert status == 403
        assert app.push.count == 0


async def send(
    port: int, method: str, path: str, body: bytes, *lines: str, host: str = "localhost"
) -> tuple[int, bytes]:
    """Send a request with exactly these header lines; return the status and the response."""
    length = (f"Content-Length: {len(body)}",) if body else ()
    head = (f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *length, *lines)
    received = b""
    async with await dial(port) as stream:
        await stream.send_all("\r\n".join((*head, "", "")).encode() + body)
        while piece := await stream.receive_some():
            received += piece
    return int(received.split(b" ", 2)[1]), received
