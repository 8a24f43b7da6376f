"""The settings of the HTTP layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from ojs_cluster import __version__
from ojs_cluster.core.config.parsers import boolean, integer, origins
from ojs_cluster.core.config.variable import variable
from ojs_cluster.core.payload_limits import PayloadLimits

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of the HTTP layer. Sizes are in bytes, times in the unit of their suffix.

    Attributes:
        test_hooks: whether the hooks of conformance suites exist (``hooks``).
        require_lease: whether acks, nacks and heartbeats must name the lease of each job.
        limits: limits of job envelopes.
        max_head: largest request line and headers together.
        max_body: largest body, except of a batch. It exceeds the envelope's limit of 1 MiB, so an
            envelope that is slightly too large is read and refused with the reason.
        max_batch_body: largest body of a batch of jobs.
        max_bodies: the body memory budget (``body_memory``). A single body always fits.
        body_timeout_s: how long a body may take to arrive.
        linger_s: how long the rest of a refused body is read.
        health_timeout_s: how long a health check waits for Redis.
        max_wait_ms: longest wait of a fetch.
        max_result_wait_s: longest wait for a result.
        max_fetch_count: most jobs of one fetch.
        cors_origins: origins of the pages that browsers may let use the API (``cors``).
        metrics_open: whether ``/metrics`` needs no key.
        metrics_queues: most queues that ``/metrics`` shows.
        version: the version of the server.
    """

    test_hooks: bool = variable(
        "OJS_TEST_HOOKS",
        boolean,
        "false",
        "Endpoints and directives for test suites; one of them deletes all data.",
    )
    require_lease: bool = variable(
        "OJS_REQUIRE_LEASE",
        boolean,
        "false",
        "Refuse an ack, nack or heartbeat that does not name the lease of each of its jobs.",
    )
    limits: PayloadLimits = field(default_factory=PayloadLimits)
    max_head: int = 64 * 1024
    max_body: int = variable(
        "OJS_MAX_BODY_BYTES",
        integer(least=1024, most=256 * _MIB),
        "2097152",
        "Largest request body, other than a batch's; a job's own limit is 1 MiB.",
    )
    max_batch_body: int = variable(
        "OJS_MAX_BATCH_BODY_BYTES",
        integer(least=1024, most=1024 * _MIB),
        "16777216",
        "Largest body of a batch.",
    )
    max_bodies: int = variable(
        "OJS_MAX_BODIES_BYTES",
        integer(least=1024, most=16 * 1024 * _MIB),
        "67108864",
        "Memory of a process for large bodies (64 KiB), and again for incomplete requests; "
        "beyond it 503.",
    )
    body_timeout_s: float = 30.0
    linger_s: float = 2.0
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
    metrics_open: bool = variable(
        "OJS_METRICS_OPEN",
        boolean,
        "false",
        "Serve /metrics without a key.",
    )
    metrics_queues: int = variable(
        "OJS_METRICS_QUEUES",
        integer(least=0, most=10_000),
        "1000",
        "Queues that /metrics shows one by one, the first by name; 0 for none.",
    )
    version: str = __version__
