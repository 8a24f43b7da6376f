"""OpenTelemetry spans: one per request, and a child span for what the request does to jobs.

Only processes that send traces import this module. In other processes ``App.tracing`` is None, and
OpenTelemetry is not loaded. Names and attributes follow the observability specification (6, 7) and
OpenTelemetry's conventions for HTTP and messaging.

The attributes of jobs are read from the bodies of request and response. The alternative, handlers
that report what they did, was refused: it would make handlers and store depend on tracing. Parsing
the bodies a second time costs time only when traces are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.tracing.traced_jobs import Operation, describe_jobs
from ojs_cluster.wall_clock import wall_ns

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SCHEMES: Final = frozenset({"http", "https"})
_MAX_PATH: Final = 500  # characters
_NO_CONTEXT: Final = Context()  # the parent of a request comes from its client alone
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtelTracing:
    """Begins the spans of requests; see ``app.Tracing``."""

    def __init__(
        self,
        tracer: trace.Tracer,
        scheme: str,
        proxies: TrustedProxies,
        operations: Mapping[tuple[str, str], Operation],
    ) -> None:
        """Create spans.

        Args:
            tracer: decides which spans are sampled and where they are sent.
            scheme: ``https`` if this server serves TLS, otherwise ``http``.
            proxies: the proxies whose ``X-Forwarded-Proto`` names the scheme that clients use.
            operations: the operations on jobs by method and template of their route.
        """
        self._operations = operations
        self._tracer = tracer
        self._scheme = scheme
        self._proxies = proxies

    def begin(self, request: Request, request_id: str, route: Route | None) -> OtelRequestSpan:
        """Begin the span of a request whose head was read.

        ``route`` is None if the request was refused before a route was found.
        """
        method = request.method if request.method in _METHODS else "_OTHER"
        name = "HTTP" if method == "_OTHER" else method
        proto = request.headers.get("x-forwarded-proto")
        forwarded = self._proxies.forwarded(request.peer, proto).lower()
        attributes: dict[str, str] = {
            "http.request.method": method,
            "url.path": request.path[:_MAX_PATH],
            "url.scheme": forwarded if forwarded in _SCHEMES else self._scheme,
            "ojs.request.id": request_id,
        }
        operation: Operation | None = None
        if route is not None:
            name = f"{name} {route.template}"
            attributes["http.route"] = route.template
            operation = self._operations.get((route.method, route.template))
        parent = _PROPAGATOR.extract(request.headers, context=_NO_CONTEXT)
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return OtelRequestSpan(self._tracer, span, operation)


class OtelRequestSpan:
    """The span of one request; see ``app.RequestSpan``.

    If the client disconnects before its request is complete, the span is never ended. OpenTelemetry
    does not send such a span.
    """

    def __init__(self, tracer: trace.Tracer, span: Span, operation: Operation | None) -> None:
        """Wrap ``span``; ``operation`` is what the route does to jobs, None for nothing."""
        self._tracer = tracer
        self._span = span
        self._operation = operation
        self._work_began_ns = 0

    def start_work(self) -> None:
        """Remember when the handler began, for the child span."""
        self._work_began_ns = wall_ns()

    def record_jobs(self, request: Request, response: Response) -> None:
        """Write the child span about the jobs of the request, if its route is about jobs."""
        if self._operation is None or not self._span.is_recording():
            return
        described = describe_jobs(self._operation, request, response)
        child = self._tracer.start_span(
            described.name,
            context=trace.set_span_in_context(self._span, _NO_CONTEXT),
            kind=self._operation.kind,
            attributes=described.attributes,
            links=described.links,
            start_time=self._work_began_ns,
        )
        for event in described.events:
            child.add_event("ojs.job", event)
        if described.error is None:
            child.set_status(StatusCode.OK)
        else:
            child.set_status(StatusCode.ERROR, described.error)
        child.end()

    def interrupt(self) -> None:
        """End the span of a cancelled request: its client left, or the grace period is over."""
        self._span.set_attribute("error.type", "cancelled")
        self._span.end()

    def end(self, status: int) -> None:
        """End the span of a request that got a response with ``status``."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
