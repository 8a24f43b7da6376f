"""What spans say of requests that are refused, fail, are cut off, or are about many jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.app import App
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.tracing.request_spans import OtelTracing
from ojs_cluster.http.tracing.traced_jobs import OPERATIONS, STABLE_OPERATIONS
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving, until
from tests.http.test_entry_points import exchange, raw, request

UNKNOWN = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


class Seen(InMemorySpanExporter):
    """The spans that were ended."""

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.get_finished_spans() if span.name == name]

    def one(self, name: str) -> tuple[ReadableSpan, dict[str, Any]]:
        (span,) = self.named(name)
        return span, dict(span.attributes or {})


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def traced(standalone: Embedded, seen: Seen) -> AsyncIterator[Api]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen))
    async with open_app(
        standalone,
        api_keys=("k",),
        bodies=BodyLimits(timeout_s=0.2, linger_s=0.1),
        max_wait_ms=600_000,
    ) as app:
        yield Api(
            App(
                app.store,
                app.settings,
                app.access,
                tracing=OtelTracing(provider.get_tracer("test"), "http", PROXIES, OPERATIONS),
            )
        )


PROXIES = TrustedProxies([ip_network("10.0.0.0/8")])
KEY = {"authorization": "Bearer k"}


def test_every_operation_is_a_route() -> None:
    assert OPERATIONS.keys() <= {(route.method, route.template) for route in ROUTES}


@pytest.mark.parametrize(
    ("peer", "forwarded", "scheme"),
    [
        ("10.1.1.1", "https, http", "https"),
        ("10.1.1.1", "HTTPS", "https"),
        ("10.1.1.1", "ftp", "http"),
        ("192.0.2.1", "https", "http"),
        ("10.1.1.1", None, "http"),
    ],
)
async def test_a_span_has_the_scheme_that_the_client_used(
    traced: Api, seen: Seen, peer: str, forwarded: str | None, scheme: str
) -> None:
    headers = KEY if forwarded is None else {**KEY, "X-Forwarded-Proto": forwarded}
    assert (await traced.call("GET", "/ojs/v1/queues", headers=headers, peer=peer)).status == 200
    assert seen.one("GET /ojs/v1/queues")[1]["url.scheme"] == scheme


def test_an_enqueue_sends_by_the_conventions_of_opentelemetry() -> None:
    changed = {
        by_ojs.type: by_otel.type
        for by_ojs, by_otel in zip(OPERATIONS.values(), STABLE_OPERATIONS.values(), strict=True)
        if by_ojs != by_otel
    }
    assert changed == {"publish": "send"}
    assert OPERATIONS.keys() == STABLE_OPERATIONS.keys()


async def test_a_refused_request_has_a_span_with_its_status(traced: Api, seen: Seen) -> None:
    assert (await traced.get("/ojs/v1/queues")).status == 401
    assert (await traced.call("FROB", "/x?token=1", headers=KEY)).status == 404
    assert (await traced.get("/y" * 1000, headers=KEY)).status == 404

    denied, odd, long = seen.get_finished_spans()
    assert (denied.name, odd.name, long.name) == ("GET", "HTTP", "GET")
    assert dict(denied.attributes or {})["http.response.status_code"] == 401
    assert denied.status.status_code is StatusCode.UNSET
    assert dict(odd.attributes or {})["http.request.method"] == "_OTHER"
    assert dict(odd.attributes or {})["url.path"] == "/x"
    assert len(str(dict(long.attributes or {})["url.path"])) == 500


async def test_a_failed_operation_says_why(traced: Api, seen: Seen) -> None:
    nobodys = {"job_id": UNKNOWN, "worker_id": "w"}
    assert (await traced.post("/ojs/v1/workers/ack", nobodys, headers=KEY)).status == 404
    span, told = seen.one("ack")
    assert span.status.status_code is StatusCode.ERROR
    assert told["ojs.job.id"] == UNKNOWN
    assert (told["error.type"], told["ojs.worker.id"]) == ("not_found", "w")

    mine = {"id": UNKNOWN, "type": "t", "args": [], "options": {"queue": "q"}}
    assert (await traced.post("/ojs/v1/jobs", mine, headers=KEY)).status == 201
    assert (await traced.post("/ojs/v1/jobs", mine, headers=KEY)).status == 409
    first, again = seen.named("q enqueue")
    assert first.status.status_code is StatusCode.OK
    assert again.status.status_code is StatusCode.ERROR

    # What cannot be a queue makes no name, and a body that is none no failure of ours.
    for body in ({**mine, "options": {"queue": "A B"}}, b"{", b"\xff", [1], {"options": 1}):
        assert (await traced.post("/ojs/v1/jobs", body, headers=KEY)).status in (400, 422)
    assert {span.name for span in seen.get_finished_spans() if "enqueue" in span.name} == {
        "q enqueue",
        "enqueue",
        "default enqueue",
    }


async def test_spans_link_to_the_trace_of_the_enqueue_request(traced: Api, seen: Seen) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"type": "t", "args": []}
    await traced.post("/ojs/v1/jobs", body, headers={**KEY, "traceparent": parent})
    fetch = {"queues": ["default"], "worker_id": "w"}
    reply = await traced.post("/ojs/v1/workers/fetch", fetch, headers=KEY)
    assert reply.json["jobs"][0]["meta"] == {"traceparent": parent}

    span, _ = seen.one("default fetch")
    (link,) = span.links
    assert format(link.context.span_id, "016x") == "b7ad6b7169203331"


async def test_many_jobs_are_counted_and_listed(traced: Api, seen: Seen) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    jobs = [
        {"type": "t", "args": [], "meta": {"traceparent": parent}},
        {"type": "t", "args": [], "meta": {"traceparent": 7}},
    ]
    await traced.post("/ojs/v1/jobs/batch", {"jobs": jobs}, headers=KEY)
    body = {"queues": ["default"], "count": 10, "worker_id": "w"}
    reply = await traced.post("/ojs/v1/workers/fetch", body, headers=KEY)
    ids = [job["id"] for job in reply.json["jobs"]]
    acks = {"worker_id": "w", "acks": [{"job_id": job_id} for job_id in (*ids, UNKNOWN)]}
    await traced.post("/ojs/v1/workers/ack/batch", acks, headers=KEY)

    for name in ("default enqueue", "default fetch"):
        span, told = seen.one(name)
        assert told["messaging.batch.message_count"] == 2
        assert {dict(event.attributes or {})["ojs.job.id"] for event in span.events} == set(ids)
        (link,) = span.links
        assert format(link.context.span_id, "016x") == "b7ad6b7169203331"
    span, told = seen.one("ack")
    assert told["messaging.batch.message_count"] == 3
    assert (span.status.status_code, told["error.type"]) == (StatusCode.ERROR, "refused")


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_each_request_has_one_span_that_ends(traced: Api, seen: Seen, lane: bool) -> None:
    key = "Authorization: Bearer k"
    async with serving(traced.app, lane=lane) as port:
        await exchange(port, request("GET", "/live", None, key))
        await exchange(port, request("GET", "/ojs/manifest", None, key))
        late = request("POST", "/ojs/v1/jobs", None, key, "Content-Length: 100")
        assert (await exchange(port, late + b"{"))[0] == 408
        with trio.fail_after(60):
            async with raw(port) as leaving:
                body = {"queues": ["default"], "wait_ms": 600_000}
                await leaving.send(request("POST", "/ojs/v1/workers/fetch", body, key))
                await until(lambda: _waiting(traced, 1))
            await until(lambda: _waiting(traced, 0))
            await until(lambda: _ended(seen, 4))
    spans = {span.name: dict(span.attributes or {}) for span in seen.get_finished_spans()}
    assert len(spans) == len(seen.get_finished_spans())
    assert spans["POST /ojs/v1/jobs"]["http.response.status_code"] == 408
    assert spans["POST /ojs/v1/workers/fetch"]["error.type"] == "cancelled"
    assert spans.keys() >= {"GET /live", "GET /ojs/manifest"}


async def _waiting(api: Api, count: int) -> bool:
    return len(api.app.waiters) == count


async def _ended(seen: Seen, count: int) -> bool:
    return len(seen.get_finished_spans()) >= count


async def test_an_error_of_ours_is_an_error_of_the_span(
    traced: Api, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("ojs_cluster.http.durability.call_handler", broken)
    assert (await traced.get("/live", headers=KEY)).status == 500
    span, told = seen.one("GET /live")
    assert (span.status.status_code, told["error.type"]) == (StatusCode.ERROR, "500")
    assert "secret" not in span.to_json()
