"""The bytes of browsers whose page has another origin: the admin UI elsewhere, the WASM SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.clients.wire import Answer, Wire
from tests.http.api import open_app, serving

KEY = "k" * 40
UI = "https://admin.example.com"
_BROWSER = {
    "Connection": "keep-alive",
    "Accept": "*/*",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "cross-site",
    "Accept-Encoding": "gzip, deflate, br, zstd",
}


@pytest.fixture(params=["hypercorn", "lane"])
async def wire(request: pytest.FixtureRequest, standalone: Embedded) -> AsyncIterator[Wire]:
    async with (
        open_app(standalone, api_keys=(KEY,), cors_origins=(UI, "http://localhost:5173")) as app,
        serving(app, lane=request.param == "lane") as port,
    ):
        yield Wire(port)


# fetch.spec.whatwg.org, "CORS-preflight fetch": no key, names in lower case, sorted, no spaces.
async def preflight(wire: Wire, method: str, path: str, origin: str = UI) -> Answer:
    asked = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,ojs-version",
        "Origin": origin,
    }
    return await wire.send("OPTIONS", path, {**_BROWSER, **asked})


async def send(wire: Wire, method: str, path: str, body: bytes | None = None) -> Answer:
    # ojs-admin-ui, src/api/client.ts:39 (request): Content-Type with every request.
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Origin": UI}
    return await wire.send(method, path, {**_BROWSER, **headers}, body)


# No client: the Fetch standard, "CORS-preflight fetch".
@pytest.mark.parametrize("path", ["/ojs/v1/jobs", "/ojs/v1/admin/queues/q/pause", "/nowhere"])
async def test_a_preflight_needs_no_key_and_tells_nothing_of_paths(wire: Wire, path: str) -> None:
    answer = await preflight(wire, "POST", path)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == UI
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"]
    assert allowed == "authorization,content-type,ojs-version"
    assert answer.headers["access-control-max-age"] == "86400"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


# No client: the Fetch standard; an origin that OJS_CORS_ORIGINS does not name.
@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", f"{UI}.evil", f"{UI}/"])
async def test_other_origins_are_not_allowed(wire: Wire, origin: str) -> None:
    answer = await preflight(wire, "POST", "/ojs/v1/jobs", origin)
    assert answer.status == 401
    assert "access-control-allow-origin" not in answer.headers
    headers = {**_BROWSER, "Authorization": f"Bearer {KEY}", "Origin": origin}
    answer = await wire.send("GET", "/ojs/v1/health", headers)
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


# ojs-admin-ui, src/api/client.ts:39: the request of a page whose origin is another one.
# The first is a fast route, the second is not.
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/ojs/v1/jobs", b'{"type":"t","args":[]}', 201),
        ("GET", "/ojs/v1/admin/queues", None, 200),
        ("GET", "/nowhere", None, 404),
        ("POST", "/ojs/v1/jobs", b"no JSON", 400),
    ],
)
async def test_a_page_may_read_responses_and_errors(
    wire: Wire, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = await send(wire, method, path, body)
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == UI
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


# ojs-admin-ui, src/api/client.ts:39: the request of a page whose origin is another one.
async def test_a_page_may_read_that_its_key_is_refused(wire: Wire) -> None:
    headers = {**_BROWSER, "Authorization": "Bearer wrong", "Origin": UI}
    answer = await wire.send("GET", "/ojs/v1/queues", headers)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, UI)


# No client: the Fetch standard; without OJS_CORS_ORIGINS.
@pytest.mark.parametrize("lane", [False, True])
async def test_without_the_variable_no_page_may_use_the_api(
    standalone: Embedded, lane: bool
) -> None:
    async with open_app(standalone) as app, serving(app, lane=lane) as port:
        wire = Wire(port)
        asked = await preflight(wire, "POST", "/ojs/v1/jobs")
        sent = await send(wire, "POST", "/ojs/v1/jobs", b'{"type":"t","args":[]}')
    assert (asked.status, asked.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    for answer in (asked, sent):
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "vary" not in answer.headers
