"""Trace context and durations (spec: ojs-observability), with OpenTelemetry if it is installed.

A producer stores the trace context of its current span in the ``meta`` of the job. A worker runs
each handler in a span of its own that links to that of the producer, and records how long it has
taken in the metric ``messaging.process.duration``. Without OpenTelemetry, jobs
that the handler enqueues get the trace context of its job.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from ojs_client._version import __version__

MEMBERS: Final = ("traceparent", "tracestate")
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Upper bounds of durations in seconds, as the semantic conventions advise."""

_current: ContextVar[Mapping[str, str] | None] = ContextVar("ojs_client_trace", default=None)


@cache
def _opentelemetry() -> tuple[Any, Any] | None:
    """Return the modules ``propagate`` and ``context``; None if they are not installed."""
    try:
        return (
            importlib.import_module("opentelemetry.propagate"),
            importlib.import_module("opentelemetry.context"),
        )
    except ImportError:
        return None


def with_trace(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``meta`` with the current trace context, unless it has one."""
    result = dict(meta or {})
    if any(name in result for name in MEMBERS):
        return result
    carrier: dict[str, str] = {}
    if modules := _opentelemetry():
        modules[0].inject(carrier)
    if "traceparent" not in carrier:
        carrier = dict(_current.get() or {})
    return result | {name: carrier[name] for name in MEMBERS if name in carrier}


class ProcessSpan:
    """The span of a handler run; it records nothing without an SDK of OpenTelemetry.

    Args:
        span: the span of OpenTelemetry; None without one.
    """

    def __init__(self, span: Any | None) -> None:
        self._span = span
        self.error_type: str | None = None

    def set_completed(self) -> None:
        """Record that the attempt has completed."""
        if self._span is not None:
            self._span.set_status(_status().OK)

    def set_failed(self, error: Mapping[str, Any], attempt: int) -> None:
        """Record the error of a failed attempt (spec: ojs-observability 7.3)."""
        type, message = str(error.get("type") or error["code"]), str(error["message"])
        self.error_type = type
        if self._span is None:
            return
        self._span.set_status(_status().ERROR, message)
        self._span.set_attributes(
            {"error.type": type, "error.message": message, "ojs.job.error.attempt": attempt}
        )
        trace = "\n".join(error.get("backtrace") or ())
        self._span.add_event(
            "exception",
            {
                "exception.type": type,
                "exception.message": message,
                "exception.stacktrace": trace,
            },
        )


@contextmanager
def process_span(members: Mapping[str, Any], worker_id: str) -> Iterator[ProcessSpan]:
    """Run the handler of a job in a span (spec: ojs-observability 6.2).

    The span begins a trace of its own, with a link to the span that has enqueued the job: a job may
    run days later. Without an SDK of OpenTelemetry there is no span, and the trace context of the
    job is the current one.

    Args:
        members: the envelope of the job.
        worker_id: the worker.
    """
    meta = members.get("meta") or {}
    carrier = {name: meta[name] for name in MEMBERS if isinstance(meta.get(name), str)}
    token = _current.set(carrier or None)
    modules = _opentelemetry()
    if modules is None:
        try:
            yield ProcessSpan(None)
        finally:
            _current.reset(token)
        return
    propagate, context = modules
    producer = propagate.extract(carrier, context.Context())
    span = _start(members, worker_id, producer, context.Context())
    current = producer if span is None else _trace().set_span_in_context(span, context.Context())
    attached = context.attach(current)
    process, began = ProcessSpan(span), time.perf_counter()
    try:
        yield process
    finally:
        if histogram := _duration():
            histogram.record(time.perf_counter() - began, _labels(members, process))
        context.detach(attached)
        if span is not None:
            span.end()
        _current.reset(token)


def _start(members: Mapping[str, Any], worker_id: str, producer: Any, root: Any) -> Any | None:
    """Return the started span of a handler run; None if no SDK of OpenTelemetry is set up."""
    trace = _trace()
    enqueued_in = trace.get_current_span(producer).get_span_context()
    queue, job_id = members["queue"], members["id"]
    span = _tracer().start_span(
        f"{queue} process",
        context=root,
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(enqueued_in)] if enqueued_in.is_valid else [],
        attributes={
            "messaging.system": "ojs",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": job_id,
            "ojs.job.id": job_id,
            "ojs.job.type": members["type"],
            "ojs.job.queue": queue,
            "ojs.job.attempt": members.get("attempt", 0),
            "ojs.job.priority": members.get("priority", 0),
            "ojs.worker.id": worker_id,
        },
    )
    return span if span.get_span_context().is_valid else None


@cache
def _duration() -> Any | None:
    """Return the histogram of the durations; None if the API has no advice for its buckets."""
    try:
        meter = importlib.import_module("opentelemetry.metrics").get_meter(
            "ojs_client", __version__
        )
        return meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
    except (ImportError, TypeError):
        return None


def _labels(members: Mapping[str, Any], process: ProcessSpan) -> dict[str, str]:
    labels = {
        "messaging.system": "ojs",
        "messaging.operation.name": "process",
        "messaging.destination.name": members["queue"],
    }
    return labels if process.error_type is None else {**labels, "error.type": process.error_type}


@cache
def _trace() -> Any:
    return importlib.import_module("opentelemetry.trace")


@cache
def _tracer() -> Any:
    return _trace().get_tracer("ojs_client", __version__)


def _status() -> Any:
    return _trace().StatusCode
