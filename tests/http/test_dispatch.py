"""Common headers of responses, authentication, and errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core import errors as e
from ojs_cluster.http import routes as route_tables
from ojs_cluster.http.errors import TABLE, error_response
from ojs_cluster.http.hypercorn.asgi import read_head
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.request_ids import request_id_for
from ojs_cluster.http.routes.all_routes import DOCUMENT_ROUTE, ROUTES
from ojs_cluster.http.routing.router import HttpRouter, Route
from ojs_cluster.http.starting import starting_response
from ojs_cluster.redis.errors import MalformedKey, RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import OJS_TYPE, Api, dispatch, open_app
from tests.support.access import accepts
from tests.support.servers import own_server

OPEN = ["/live", "/health", "/ojs/v1/health", "/ready", "/healthz", "/readyz"]


@pytest.mark.parametrize(
    "target",
    ["/ojs/manifest", "/ojs/v1/queues", "/ojs/v1/jobs/x", "/nowhere", "/health", "/"],
)
async def test_every_response_has_the_three_headers(api: Api, target: str) -> None:
    reply = await api.get(target, headers={"Accept": "text/html"})
    assert reply.headers["content-type"] == OJS_TYPE
    assert reply.headers["ojs-version"] == "1.0"
    assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])


@pytest.mark.parametrize("headers", [{"OJS-Version": "1.0"}, {"Accept": "*/*"}], ids=str)
async def test_sdks_get_a_type_that_they_read(api: Api, headers: dict[str, str]) -> None:
    for target in ("/ojs/manifest", "/nowhere"):
        reply = await api.get(target, headers=headers)
        assert reply.headers["content-type"] == f'{OJS_TYPE}; alt="application/json"'


@pytest.mark.parametrize("version", ["1", "1.0", "1.2", "1.0.0-rc.1"])
async def test_versions_of_the_same_major_are_served(api: Api, version: str) -> None:
    assert (await api.get("/ojs/manifest", headers={"OJS-Version": version})).status == 200


@pytest.mark.parametrize("version", ["2.0", "0.9", "10", "one", "1.\n", ""])
async def test_other_versions_are_unsupported(api: Api, version: str) -> None:
    reply = await api.get("/ojs/manifest", headers={"OJS-Version": version})
    assert (reply.status, reply.error["code"]) == (422, "unsupported")


@pytest.mark.parametrize("given", ["my-id-1", "a b", "~" * 200, "!"])
async def test_a_clients_request_id_is_echoed(api: Api, given: str) -> None:
    reply = await api.get("/nowhere", headers={"X-Request-Id": given})
    assert reply.headers["x-request-id"] == given
    assert reply.error["request_id"] == given


@pytest.mark.parametrize("given", ["", "~" * 201, "a\r\nSet-Cookie: x", "é", " a", "a\t", "a\n"])
def test_a_request_id_that_could_split_a_header_is_replaced(given: str) -> None:
    assert re.fullmatch(r"req_[0-9a-f]{32}", request_id_for(given))


@pytest.mark.parametrize(
    "path",
    ["/", "", "*", "/ojs", "/ojs/v1", "/ojs/v1/", "/ojs/v1/jobs/", "//", "/ojs/v1/jobs/a/b/c", "x"],
)
async def test_unknown_paths_are_json_404(api: Api, path: str) -> None:
    reply = await api.get(path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert reply.error["hint"]


@pytest.mark.parametrize("method", ["ASSERT", "PUSH", "get", "PATCH", "M" * 5000])
async def test_unknown_methods_are_json_405_with_the_allowed_methods(api: Api, method: str) -> None:
    reply = await api.call(method, "/ojs/v1/jobs")
    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert len(reply.body) < 2000
    assert (await api.call(method, "/")).status == 404


async def test_options_lists_the_allowed_methods(api: Api) -> None:
    reply = await api.call("OPTIONS", "/ojs/v1/jobs/some-id")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert "content-type" not in reply.headers
    assert (await api.call("OPTIONS", "/nowhere")).status == 404


async def test_head_is_get_without_its_body(api: Api) -> None:
    got = await api.get("/ojs/manifest")
    head = await api.call("HEAD", "/ojs/manifest")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(got.body))
    assert (await api.call("HEAD", "/ojs/v1/workers/fetch")).status == 405


async def test_an_encoded_slash_stays_inside_its_segment(api: Api) -> None:
    reply = await api.get("/ojs/v1/queues/a%2Fstats")
    assert (reply.status, reply.error["details"]["field"]) == (400, "name")
    await api.enqueue(options={"queue": "mail.out"})
    assert (await api.get("/ojs/v1/queues/mail%2Eout")).status == 200
    assert (await api.get("/ojs/v1/jobs/%ff")).status == 400


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/openjobspec+json", 201),
        ("application/json", 201),
        ("Application/JSON; charset=utf-8", 201),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
        ("", 400),
    ],
)
async def test_bodies_are_json_by_declaration(
    standalone: Embedded, content_type: str, status: int
) -> None:
    body = {"type": "t", "args": []}
    for keys in (None, ("k",)):
        async with open_app(standalone, api_keys=keys) as app:
            headers = {"Content-Type": content_type, "Authorization": "Bearer k"}
            reply = await Api(app).post("/ojs/v1/jobs", body, headers=headers)
        assert reply.status == status


async def test_with_a_key_a_body_without_a_content_type_counts_as_json(
    standalone: Embedded,
) -> None:
    body = b'{"type":"t","args":[]}'
    async with open_app(standalone, api_keys=("k",)) as app:
        headers = {"authorization": "Bearer k"}
        reply = await dispatch(app, Request("POST", "/ojs/v1/jobs", headers=headers, body=body))
    assert reply.status == 201


async def test_compressed_bodies_are_refused(api: Api) -> None:
    reply = await api.post("/ojs/v1/jobs", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert reply.error["details"]["field"] == "headers.content-encoding"


async def test_bodyless_posts_need_no_type(api: Api) -> None:
    for action in ("pause", "resume"):
        given = {"Content-Type": "text/plain"}
        assert (await api.post(f"/ojs/v1/queues/a/{action}", headers=given)).status == 200


def test_a_repeated_header_is_one_list_in_the_order_sent() -> None:
    names = [(b"X-A", b"1"), (b"x-b", b"2"), (b"X-a", b"3"), (b"x-A", b"4")]
    scope: Any = {"headers": names, "raw_path": b"/", "query_string": b"", "method": "GET"}
    assert read_head(scope).headers == {"x-a": "1, 3, 4", "x-b": "2"}


async def test_a_head_above_the_limit_is_431(standalone: Embedded) -> None:
    async with open_app(standalone, max_head=1024) as app:
        api = Api(app)
        assert (await api.get("/ojs/v1/queues", headers={"X-Long": "x" * 900})).status == 200
        for target, headers in (("/ojs/v1/queues", {"X": "x" * 1024}), (f"/{'x' * 1024}", {})):
            reply = await api.get(target, headers=headers)
            assert (reply.status, reply.error["code"]) == (431, "header_too_large")


async def test_a_body_above_the_limit_is_413(standalone: Embedded) -> None:
    async with open_app(standalone, bodies=BodyLimits(max_bytes=1000, max_batch_bytes=3000)) as app:
        api = Api(app)
        job = {"type": "t", "args": ["x" * 1200]}
        single = await api.post("/ojs/v1/jobs", job)
        assert (single.status, single.error["details"]["limit"]) == (413, 1000)
        assert (await api.post("/ojs/v1/jobs/batch", {"jobs": [job, job]})).status == 201
        assert (await api.post("/ojs/v1/jobs/batch", {"jobs": [job] * 3})).status == 413


@pytest.mark.parametrize(("size", "status"), [(1000, 201), (1001, 413)])
async def test_a_body_of_exactly_the_limit_is_accepted(
    standalone: Embedded, size: int, status: int
) -> None:
    body = b'{"type":"t","args":[]}'
    async with open_app(standalone, bodies=BodyLimits(max_bytes=1000)) as app:
        assert (await Api(app).post("/ojs/v1/jobs", body.ljust(size))).status == status


async def test_an_envelope_above_its_own_limit_says_so(api: Api) -> None:
    reply = await api.post("/ojs/v1/jobs", {"type": "t", "args": ["x" * 1024 * 1024]})
    assert (reply.status, reply.error["code"]) == (413, "payload_too_large")
    assert "envelope" in reply.error["message"]


# --- keys ---


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer no", "Basic one", "one"])
async def test_without_a_valid_key_no_path_is_revealed(
    standalone: Embedded, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with open_app(standalone, api_keys=("one", "two"), test_hooks=True) as app:
        api = Api(app)
        for method, target in (
            ("GET", "/ojs/manifest"),
            ("GET", "/ojs/v1/jobs"),
            ("POST", "/ojs/v1/jobs"),
            ("GET", "/nowhere"),
            ("ASSERT", "/ojs/v1/jobs"),
            ("OPTIONS", "/ojs/v1/jobs"),
            ("POST", "/ojs/v1/admin/reset"),
        ):
            reply = await api.call(method, target, headers=headers)
            assert (reply.status, reply.error["code"]) == (401, "unauthenticated")
            assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_each_key_opens_every_endpoint(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one", "schlüssel")) as app:
        api = Api(app)
        for value in ("Bearer one", "bearer one", "Bearer  one", "Bearer schlüssel"):
            reply = await api.get("/ojs/manifest", headers={"Authorization": value})
            assert reply.status == 200


async def test_probes_need_no_key(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",)) as app:
        for target in OPEN:
            assert (await Api(app).get(target)).status == 200


async def test_a_probe_takes_no_large_body(standalone: Embedded) -> None:
    """A probe needs no key, so its body must not cost memory."""
    async with open_app(standalone) as app:
        api = Api(app)
        for target in OPEN:
            assert (await api.call("GET", target, body=b" " * 1024)).status in (200, 503)
            assert (await api.call("GET", target, body=b" " * 1025)).status == 413


async def test_only_the_probes_are_open(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",), test_hooks=True) as app:
        for route in ROUTES:
            reply = await Api(app).call(route.method, re.sub(r"{\w+}", "x", route.template))
            expected = 200 if route.template in OPEN else 401
            assert reply.status == expected, route


def test_serving_without_a_key_must_be_allowed_explicitly() -> None:
    with pytest.raises(ValueError, match="no API key"):
        accepts([])
    with pytest.raises(ValueError, match="empty"):
        accepts([""])
    accepts([], allow_insecure=True)


# --- system ---


async def test_the_manifest_declares_only_what_is_implemented(api: Api) -> None:
    manifest = (await api.get("/ojs/manifest")).json
    assert manifest["specversion"] == manifest["ojs_version"] == "1.0"
    assert manifest["implementation"]["name"] == "ojs-cluster"
    assert manifest["implementation"]["homepage"].startswith("https://")
    assert manifest["conformance_level"] == 4
    assert "http" in manifest["protocols"]
    assert manifest["endpoints"]["health"] == "/ojs/v1/health"
    capabilities = manifest["capabilities"]
    assert len(capabilities) == 24
    routed = {route.template for route in ROUTES}
    for capability, template in (
        ("batch_enqueue", "/ojs/v1/jobs/batch"),
        ("cron_jobs", "/ojs/v1/cron"),
        ("cron", "/ojs/v1/cron"),
        ("workflows", "/ojs/v1/workflows"),
        ("dead_letter", "/ojs/v1/dead-letter"),
        ("events", "/ojs/v1/events"),
        ("realtime", "/ojs/v1/events/stream"),
        ("pause_resume", "/ojs/v1/queues/{name}/pause"),
        ("progress", "/ojs/v1/jobs/{id}/progress"),
        ("webhooks", "/ojs/v1/webhooks/deliveries"),
        ("checkpoints", "/ojs/v1/jobs/{id}/checkpoint"),
        ("bulk_actions", "/ojs/v1/admin/bulk"),
        ("maintenance_mode", "/ojs/v1/admin/maintenance"),
        ("fair_scheduling", "/ojs/v1/admin/pools/{name}"),
        ("agents", "/ojs/v1/agents/{id}/pause"),
        ("backpressure", "/ojs/v1/admin/queues/{name}/config"),
    ):
        assert capabilities[capability] is (template in routed)
    extensions = [extension["name"] for extension in manifest["extensions"]["official"]]
    assert extensions == ["admin-api", "backpressure"]
    assert routed >= {
        f"/ojs/v1/admin/{path}"
        for path in (
            *("queues", "queues/{name}/pause", "queues/{name}/resume", "jobs", "jobs/{id}"),
            *("stats", "workers", "jobs/bulk/retry"),
        )
    }


async def test_health_shows_the_state_of_the_backend(any_api: Api) -> None:
    for target in ("/health", "/ojs/v1/health"):
        health = (await any_api.get(target)).json
        assert health["status"] == "ok"
        assert health["version"]
        assert health["uptime_seconds"] >= 0
        assert (health["backend"]["type"], health["backend"]["status"]) == ("redis", "ok")
        assert health["backend"]["latency_ms"] >= 1
    assert (await any_api.get("/ready")).json["status"] == "ready"


async def test_a_draining_process_is_alive_and_not_ready(api: Api) -> None:
    api.app.drain()
    ready = await api.get("/ready")
    assert (ready.status, ready.json["status"]) == (503, "draining")
    assert (await api.get("/health")).status == 200
    assert (await api.get("/live")).status == 200


async def test_without_redis_the_process_is_alive_and_reports_degraded(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server:
        quick = {"call_timeout_s": 4.0, "connect_timeout_s": 3.0}
        async with open_app(server, redis=quick, health_timeout_s=0.5) as app:
            api = Api(app)
            await api.enqueue()
            server.kill(server.nodes[0])
            live, alive, health, ready, *aliases = [await api.get(path) for path in OPEN]
            assert (live.status, live.json) == (200, {"status": "ok"})
            assert (alive.status, health.status, ready.status) == (200, 503, 503)
            assert [alias.status for alias in aliases] == [200, 503]
            assert alive.json["status"] == health.json["status"] == "degraded"
            assert health.json["backend"]["status"] == "unhealthy"
            for method, target, body in (
                ("POST", "/ojs/v1/jobs", {"type": "t", "args": []}),
                ("POST", "/ojs/v1/workers/fetch", {"queues": ["a"], "worker_id": "w"}),
                ("POST", "/ojs/v1/workers/fetch", {"queues": ["a"], "wait_ms": 500}),
                ("GET", "/ojs/v1/queues", None),
                ("GET", "/ojs/v1/dead-letter", None),
            ):
                reply = await api.call(method, target, body)
                assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.error["retryable"] is True
                assert reply.error["details"]["outcome"] in ("not_applied", "unknown")


async def test_probes_do_not_wait_for_a_redis_that_hangs(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server:
        async with open_app(server, redis={"call_timeout_s": 600.0}, health_timeout_s=0.3) as app:
            pid = server.nodes[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                with trio.fail_after(60):  # the client itself would try for ten minutes
                    statuses = [(await Api(app).get(path)).status for path in OPEN]
            finally:
                os.kill(pid, signal.SIGCONT)
            assert statuses == [200, 200, 503, 503, 200, 503]


async def test_an_answer_too_large_for_redis_is_no_server_error(standalone: Embedded) -> None:
    async with open_app(standalone, redis={"max_reply_bytes": 64 * 1024}) as app:
        api = Api(app)
        job = await api.enqueue(args=["x" * 500_000])
        reply = await api.get(f"/ojs/v1/jobs/{job['id']}")
        assert (reply.status, reply.error["code"]) == (413, "answer_too_large")
        assert reply.error["retryable"] is False
        assert (await api.get("/ojs/v1/queues")).status == 200


async def test_the_reset_hook_does_not_exist_without_test_hooks(standalone: Embedded) -> None:
    async with open_app(standalone) as app:
        api = Api(app)
        await api.enqueue()
        assert (await api.post("/ojs/v1/admin/reset")).status == 404
        assert len(await api.fetch()) == 1


async def test_the_validation_hook_is_off_in_production(standalone: Embedded) -> None:
    job = {"type": "t", "args": [], "meta": {"ojs_validate": True}}
    for hooks, status in ((True, 422), (False, 201)):
        async with open_app(standalone, test_hooks=hooks) as app:
            api = Api(app)
            assert (await api.post("/ojs/v1/jobs", job)).status == status
            assert (await api.post("/ojs/v1/jobs/batch", {"jobs": [job]})).status == status
            assert (await api.post("/ojs/v1/jobs", {**job, "args": [1]})).status == 201


@pytest.mark.parametrize(
    ("path", "status", "state"),
    [
        ("/health", 200, "degraded"),
        ("/ojs/v1/health", 503, "degraded"),
        ("/live", 200, "ok"),
        ("/ready", 503, "starting"),
        ("/healthz", 200, "ok"),
        ("/readyz", 503, "starting"),
    ],
)
def test_probes_are_answered_before_redis_is_reached(path: str, status: int, state: str) -> None:
    response = starting_response(Request("GET", path))
    assert (response.status, json.loads(response.body)["status"]) == (status, state)
    assert ("Content-Type", OJS_TYPE) in response.headers


def test_pages_of_allowed_origins_can_read_responses_before_redis_is_reached() -> None:
    origins, headers = ("https://ui.example.com",), {"origin": "https://ui.example.com"}
    response = starting_response(Request("GET", "/ojs/v1/jobs", headers=headers), origins)
    assert response.status == 503
    assert ("Access-Control-Allow-Origin", origins[0]) in response.headers
    asked = {**headers, "access-control-request-method": "POST"}
    preflight = Request("OPTIONS", "/ojs/v1/jobs", headers=asked)
    assert starting_response(preflight, origins).status == 204
    assert starting_response(preflight).status == 503
    other = Request("OPTIONS", "/ojs/v1/jobs", headers={**asked, "origin": "https://evil.example"})
    response = starting_response(other, origins)
    assert response.status == 503
    assert "Access-Control-Allow-Origin" not in dict(response.headers)


def test_requests_have_to_wait_before_redis_is_reached() -> None:
    response = starting_response(Request("POST", "/ojs/v1/jobs", headers={"x-request-id": "me"}))
    error = json.loads(response.body)["error"]
    assert (response.status, error["code"], error["request_id"]) == (
        503,
        "backend_unavailable",
        "me",
    )
    assert error["details"]["outcome"] == "not_applied"
    assert ("Retry-After", "1") in response.headers


async def test_a_request_is_one_log_line_at_debug_only(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for level, lines in ((logging.INFO, 0), (logging.DEBUG, 1)):
        for target in ("/ojs/manifest", "/nowhere"):
            caplog.clear()
            with caplog.at_level(level, "ojs.http"):
                reply = await api.get(target)
            records = [record for record in caplog.records if record.name == "ojs.http"]
            assert len(records) == lines
            for record in records:
                assert vars(record)["request_id"] == reply.headers["x-request-id"]
                assert record.getMessage() == f"GET {target} {reply.status}"


# --- errors, without a store ---


@pytest.mark.parametrize("cls", list(TABLE))
def test_every_error_has_a_complete_body(cls: type[e.OJSError]) -> None:
    if issubclass(cls, e.NotFound):
        error: e.OJSError = cls("job", "1")
    elif issubclass(cls, e.BackendUnavailable):
        error = cls("gone", outcome="unknown", retry_after_s=0.2)
    elif issubclass(cls, e.MalformedJob):
        error = cls("1", "a field is missing")
    elif issubclass(cls, e.MalformedRecord):
        error = cls("workflow", "1", "a field is missing")
    elif issubclass(cls, MalformedKey):
        error = cls(RedisReplyError("WRONGTYPE secret"), "a key has a wrong type", None)
    else:
        error = cls("secret", field="a.b")
    response = error_response(error, "req_1")
    entry = TABLE[cls]
    assert response.status == entry.status
    body = json.loads(response.body)["error"]
    # The extensions for backpressure and for tenants write these codes in capitals.
    in_capitals: dict[type[e.OJSError], str] = {
        e.QueueFull: "QUEUE_FULL",
        e.TenantLimitExceeded: "TENANT_LIMIT_EXCEEDED",
    }
    code = in_capitals.get(cls, entry.code.lower())
    assert body["code"] == body["type"] == entry.code == code
    assert body["retryable"] is entry.retryable
    # A queue that drains is resumed, or its jobs go elsewhere: the response has a Retry-After.
    repairs_itself = cls is e.QueueDraining or (entry.status >= 500 and cls is not e.MalformedJob)
    assert body["retryable"] is (repairs_itself or entry.status == 429)
    assert body["hint"]
    assert body["details"]["ojs_code"].startswith("OJS-")
    assert body["request_id"] == "req_1"


def test_all_errors_of_the_core_have_a_row() -> None:
    named = {
        value
        for value in vars(e).values()
        if isinstance(value, type) and issubclass(value, e.OJSError) and value is not e.OJSError
    }
    assert {cls for cls in named if not {cls, cls.__base__} & set(TABLE)} == set()


async def test_a_bug_is_logged_and_not_leaked(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_app: object, _request: Request) -> Response:
        raise RuntimeError("the secret reason")

    router = HttpRouter([Route("GET /broken", broken)])
    monkeypatch.setattr("ojs_cluster.http.admission.router_for", lambda _hooks: router)
    reply = await api.get("/broken", headers={"X-Request-Id": "find-me"})
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert reply.headers["content-type"] == OJS_TYPE
    assert b"secret" not in reply.body
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.request_id == "find-me"  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert "the secret reason" in str(record.exc_info[1])


async def test_an_error_from_a_nursery_reaches_the_client(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise e.Conflict("not now")

    async def handler(_app: object, _request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
        raise AssertionError

    router = HttpRouter([Route("GET /grouped", handler)])
    monkeypatch.setattr("ojs_cluster.http.admission.router_for", lambda _hooks: router)
    reply = await api.get("/grouped")
    assert (reply.status, reply.error["message"]) == (409, "not now")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_a_handler_takes_the_parameters_of_its_path(route: Route) -> None:
    handler = inspect.signature(route.handler)
    handler.bind("app", "request", *(["x"] * route.template.count("{")))


def test_the_route_table_has_the_rows_of_every_module() -> None:
    names = [module.name for module in pkgutil.iter_modules(route_tables.__path__)]
    names.remove("all_routes")
    modules = [importlib.import_module(f"{route_tables.__name__}.{name}") for name in names]
    rows = [route for module in modules for route in module.ROUTES]
    joined = {id(route) for route in ROUTES if route is not DOCUMENT_ROUTE}
    assert {id(route) for route in rows} == joined


def test_two_handlers_for_one_route_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes"):
        HttpRouter([ROUTES[0], ROUTES[0]])


def test_only_the_hypercorn_entry_imports_a_framework() -> None:
    package = Path(inspect.getfile(HttpRouter)).parent
    for path in package.rglob("*.py"):
        if path.name in ("quart_app.py", "asgi.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            roots = {name.partition(".")[0] for name in names}
            assert not roots & {"quart", "quart_trio", "hypercorn", "werkzeug"}, path
