"""Each run of a handler is a span, if the application has set up OpenTelemetry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from ojs_client import BlockingJob, Discard, RunningJob, Worker, tracing
from ojs_client.testing import FakeServer

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs an async test in an event loop of each kind."""

    def in_loop(test: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            with anyio.fail_after(60):
                await test()

        anyio.run(limited, backend=request.param)

    return in_loop


@dataclass(frozen=True, slots=True)
class Spans:
    """A tracer of an application, and the spans that have ended."""

    tracer: trace.Tracer
    exporter: InMemorySpanExporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Set up OpenTelemetry for the library. A process can set its global provider only once."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("ojs_client"))
    yield Spans(provider.get_tracer("application"), exporter)
    provider.shutdown()


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def ids(context: trace.SpanContext) -> str:
    """Return trace and span as in a traceparent."""
    return f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"


def test_each_handler_run_has_a_span_that_links_to_its_producer(run: Run, spans: Spans) -> None:
    async def test() -> None:
        server, worker = FakeServer(), Worker(queues=["a"])

        @worker.handler("t.parent")
        async def parent(job: RunningJob) -> None:
            with spans.tracer.start_as_current_span("inner"):
                await job.client.enqueue("t.child", queue="other")

        @worker.handler("t.thread")
        def thread(job: BlockingJob) -> None:
            with spans.tracer.start_as_current_span("in a thread"):
                pass

        async with server.client() as client, server.running(worker):
            with spans.tracer.start_as_current_span("request"):
                job = await client.enqueue("t.parent", queue="a", priority=3)
            await client.enqueue("t.thread", queue="a")
            await server.run_all()
        [request], [inner], [threaded] = map(spans.named, ("request", "inner", "in a thread"))
        by_type: dict[Any, ReadableSpan] = {}
        for span in spans.named("a process"):
            assert span.attributes is not None
            by_type[span.attributes["ojs.job.type"]] = span
        process = by_type["t.parent"]
        assert (process.kind, process.status.status_code) == (SpanKind.CONSUMER, StatusCode.OK)
        assert [ids(link.context) for link in process.links] == [ids(context_of(request))]
        assert process.parent is None
        assert context_of(process).trace_id != context_of(request).trace_id
        assert inner.parent == context_of(process)
        child = server.jobs(type="t.child")[0].meta["traceparent"]
        assert child[3:].rpartition("-")[0] == ids(context_of(inner))
        # This job has no producer with a span.
        assert by_type["t.thread"].links == ()
        assert threaded.parent == context_of(by_type["t.thread"])
        attributes = dict(process.attributes or {})
        assert str(attributes.pop("ojs.worker.id"))
        assert attributes == {
            "messaging.system": "ojs",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": "a",
            "messaging.message.id": job.id,
            "ojs.job.id": job.id,
            "ojs.job.type": "t.parent",
            "ojs.job.queue": "a",
            "ojs.job.attempt": 1,
            "ojs.job.priority": 3,
        }

    run(test)


def test_the_span_of_a_failed_attempt_has_its_error(run: Run, spans: Spans) -> None:
    async def test() -> None:
        server, worker = FakeServer(), Worker(queues=["a"])

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            if job.attempt == 2:
                raise Discard("no more", code="gone")
            raise KeyError("first")

        @worker.handler("t.slow", timeout=0.01)
        async def slow(job: RunningJob) -> None:
            await anyio.sleep_forever()

        @worker.handler("t.object")
        async def returns_an_object(job: RunningJob) -> Any:
            return object()

        async with server.client() as client, server.running(worker):
            await client.enqueue("t.fails", queue="a")
            await server.advance(1)
            await client.enqueue("t.slow", queue="a")
            await server.run_all()
            await client.enqueue("t.object", queue="a")
            await server.run_all()
        first, second, third, fourth = spans.named("a process")
        assert fourth.attributes is not None
        assert fourth.attributes["error.type"] == "invalid_result"
        assert fourth.status.status_code is StatusCode.ERROR
        for span, error_type, message in (
            (first, "KeyError", "'first'"),
            (second, "gone", "no more"),
            (third, "timeout", "the handler did not end within 0.01 s"),
        ):
            assert span.attributes is not None
            assert span.status.status_code is StatusCode.ERROR
            assert span.attributes["error.type"] == error_type
            assert span.attributes["error.message"] == message
            assert span.attributes["ojs.job.error.attempt"] == (2 if span is second else 1)
        [event] = first.events
        assert event.name == "exception"
        assert event.attributes is not None
        assert "in fails" in str(event.attributes["exception.stacktrace"])

    run(test)


def test_each_handler_run_is_in_the_metric_of_the_semantic_conventions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    tracing._duration.cache_clear()
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)

    async def test() -> None:
        server, worker = FakeServer(), Worker(queues=["a"])

        @worker.handler("t.works")
        async def works(job: RunningJob) -> None:
            pass

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            raise Discard("no", code="gone")

        async with server.client() as client, server.running(worker):
            for type in ("t.works", "t.works", "t.fails"):
                await client.enqueue(type, queue="a")
            await server.run_all()

    try:
        run(test)
        data = reader.get_metrics_data()
    finally:
        provider.shutdown()
        tracing._duration.cache_clear()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.unit) == ("messaging.process.duration", "s")
    points: dict[Any, Any] = {}
    for point in metric.data.data_points:
        points[(point.attributes or {}).get("error.type")] = point
    assert {error: point.count for error, point in points.items()} == {None: 2, "gone": 1}
    assert dict(points[None].attributes) == {
        "messaging.system": "ojs",
        "messaging.operation.name": "process",
        "messaging.destination.name": "a",
    }
    assert points[None].explicit_bounds[0] == 0.005


def test_a_handler_that_the_worker_cancels_has_no_error(run: Run, spans: Spans) -> None:
    async def test() -> None:
        server, worker = FakeServer(), Worker(queues=["a"])
        started = anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            started.set()
            await anyio.sleep_forever()

        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.long", queue="a")
            await started.wait()
            await client.cancel(job.id)
        [process] = spans.named("a process")
        assert process.status.status_code is StatusCode.UNSET
        assert process.events == ()

    run(test)


def test_without_an_sdk_the_trace_context_is_passed_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "x=1"}

    async def test() -> None:
        server, worker = FakeServer(), Worker(queues=["a"])

        @worker.handler("t.parent")
        async def parent(job: RunningJob) -> None:
            await job.client.enqueue("t.child", queue="other")

        async with server.client() as client, server.running(worker):
            await client.enqueue("t.parent", queue="a", meta=meta)
            await server.run_all()
        assert [job.meta for job in server.jobs(type="t.child")] == [meta]

    run(test)
    monkeypatch.setattr(tracing, "_opentelemetry", lambda: None)  # not installed
    run(test)
