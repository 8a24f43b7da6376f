"""Spans of OpenTelemetry: one per request, and below it one for what it does to jobs.

Imported only where traces are sent: without them no process loads OpenTelemetry, and the dispatcher
compares with None. Names and attributes are those of the observability specification (6, 7) and of
OpenTelemetry's conventions for HTTP and messaging.

What a span says of jobs is read from the bodies of the request and the answer, not told by the
handlers. Parsing them again costs, but only those who look at traces, and neither the handlers nor
the store have to know.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.router import Route
from ojs_cluster.http.traced_jobs import OPERATIONS, Found, Operation, operate

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LONGEST_PATH: Final = 500
_NONE: Final = Context()  # a request's parent is what its client says, nothing of this process
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """Begins the spans of requests. ``tracer`` decides which are sampled, and where they go."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(self, request: Request, request_id: str, route: Route | None) -> RequestSpan:
        """The span of a request whose head was read; of one that is refused without a route."""
        method = request.method if request.method in _METHODS else "_OTHER"
        name = "HTTP" if method == "_OTHER" else method
        attributes: dict[str, str] = {
            "http.request.method": method,
            "url.path": request.path[:_LONGEST_PATH],
            "ojs.request.id": request_id,
        }
        operation: Operation | None = None
        if route is not None:
            name = f"{name} {route.template}"
            attributes["http.route"] = route.template
            operation = OPERATIONS.get((route.method, route.template))
        parent = _PROPAGATOR.extract(request.headers, context=_NONE)
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return RequestSpan(self._tracer, span, operation)


class RequestSpan:
    """The span of one request. One that is never ended is never sent: nobody was answered."""

    def __init__(self, tracer: trace.Tracer, span: Span, operation: Operation | None) -> None:
        self._tracer = tracer
        self._span = span
        self._operation = operation

    async def answer(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """Do the work, and end the span with what comes of it."""
        began = time.time_ns()
        try:
            response = await work()
        except BaseException:  # cancelled: the client left, or the grace period is over
            self._span.set_attribute("error.type", "cancelled")
            self._span.end()
            raise
        if self._operation is not None and self._span.is_recording():
            self._tell_of_jobs(self._operation, request, response, began)
        self.end(response.status)
        return response

    def end(self, status: int) -> None:
        """The request was answered with this status."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _tell_of_jobs(
        self, operation: Operation, request: Request, response: Response, began: int
    ) -> None:
        found: Found = operate(operation, request, response)
        span = self._tracer.start_span(
            found.name,
            context=trace.set_span_in_context(self._span, _NONE),
            kind=operation.kind,
            attributes=found.attributes,
            links=found.links,
            start_time=began,
        )
        for event in found.events:
            span.add_event("ojs.job", event)
        if found.error is None:
            span.set_status(StatusCode.OK)
        else:
            span.set_status(StatusCode.ERROR, found.error)
        span.end()
