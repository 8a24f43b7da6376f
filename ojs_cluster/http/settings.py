"""The settings of the HTTP layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from ojs_cluster import __version__
from ojs_cluster.core.config.parsers import boolean, host_names, integer, origins
from ojs_cluster.core.config.variable import variable
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.http.request_body.limits import BodyLimits

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of the HTTP layer. Sizes are in bytes, times in the unit of their suffix.

    Attributes:
        test_hooks: whether the hooks of conformance suites exist (``hooks``).
        require_lease: whether acks, nacks and heartbeats must name the lease of each job.
        limits: limits of job envelopes.
        max_head: maximum size of request line and headers together.
        bodies: limits on request bodies.
        health_timeout_s: how long a health check waits for Redis.
        max_wait_ms: maximum time that a fetch waits for jobs.
        max_result_wait_s: maximum time that a request waits for the result of a job.
        max_fetch_count: maximum number of jobs that one fetch returns.
        cors_origins: the origins of the pages whose browsers may use the API (``cors``).
        allowed_hosts: the names by which browsers may reach a server without API keys
            (``access.browsers``).
        push_subscribers: maximum number of event streams of the process.
        push_per_client: maximum number of event streams of one API key or one address.
        push_buffer_events: maximum number of events that wait for one client.
        push_buffer_bytes: maximum size of the events that wait for all clients.
        metrics_open: whether ``/metrics`` needs no API key.
        metrics_queues: maximum number of queues that ``/metrics`` shows.
        metrics_tenants: maximum number of tenants that ``/metrics`` shows.
        trace_inject: whether jobs get the trace context of the request that enqueues them.
        version: the version of the server.
    """

    test_hooks: bool = variable(
        "OJS_TEST_HOOKS",
        boolean,
        "false",
        "Enable endpoints and directives for test suites. One of the endpoints deletes all data.",
    )
    require_lease: bool = variable(
        "OJS_REQUIRE_LEASE",
        boolean,
        "false",
        "Refuse an ack, nack or heartbeat that does not name the lease of each job it is about.",
    )
    limits: PayloadLimits = field(default_factory=PayloadLimits)
    max_head: int = 64 * 1024
    bodies: BodyLimits = field(default_factory=BodyLimits)
    health_timeout_s: float = 2.0
    max_wait_ms: int = 20_000
    max_result_wait_s: float = 60.0
    max_fetch_count: int = 100
    cors_origins: tuple[str, ...] = variable(
        "OJS_CORS_ORIGINS",
        origins,
        "",
        "Origins of web pages whose browsers may use the API, comma separated; empty for none.",
        empty=(),
    )
    allowed_hosts: tuple[str, ...] = variable(
        "OJS_ALLOWED_HOSTS",
        host_names,
        "",
        "Names by which clients may reach a server without API keys, comma separated, such as "
        "jobs.example.com or *.example.com. Addresses, localhost, names without a dot, *.internal, "
        "*.local, *.test and *.svc are always allowed. Servers with API keys allow every name.",
        empty=(),
    )
    push_subscribers: int = variable(
        "OJS_PUSH_SUBSCRIBERS",
        integer(minimum=0, maximum=100_000),
        "2000",
        "Maximum number of event streams of an API process; a further one gets 503.",
    )
    push_per_client: int = variable(
        "OJS_PUSH_SUBSCRIBERS_PER_CLIENT",
        integer(minimum=1, maximum=100_000),
        "100",
        "Maximum number of event streams of an API process that use one API key, or that come from "
        "one address if there are no API keys; a further one gets 429.",
    )
    push_buffer_events: int = variable(
        "OJS_PUSH_BUFFER_EVENTS",
        integer(minimum=1, maximum=100_000),
        "1000",
        "Maximum number of events that wait for one client to read them; the oldest ones beyond it "
        "are dropped, and the client gets system.events_dropped.",
    )
    push_buffer_bytes: int = variable(
        "OJS_PUSH_BUFFER_BYTES",
        integer(minimum=1_048_576, maximum=16 * 1024 * _MIB),
        "67108864",
        "Memory, in bytes, that the events that wait for all clients of an API process may use "
        "together.",
    )
    metrics_open: bool = variable(
        "OJS_METRICS_OPEN",
        boolean,
        "false",
        "Serve /metrics without an API key.",
    )
    metrics_queues: int = variable(
        "OJS_METRICS_QUEUES",
        integer(minimum=0, maximum=10_000),
        "1000",
        "Maximum number of queues for which /metrics has all metrics: the first ones in the order "
        "of their names. Other queues have gauges there while they are paused or their jobs wait.",
    )
    metrics_tenants: int = variable(
        "OJS_METRICS_TENANTS",
        integer(minimum=0, maximum=1000),
        "100",
        "Maximum number of tenants for which /metrics has metrics of their own: the first ones "
        "with settings, in the order of their names.",
    )
    trace_inject: bool = variable(
        "OJS_TRACE_INJECT",
        boolean,
        "true",
        "Store the headers traceparent and tracestate of an enqueue request in the meta of its "
        "jobs, unless a job's meta has its own.",
    )
    version: str = __version__
