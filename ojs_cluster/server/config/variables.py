"""The table of environment variables: the only list of what can be set."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ojs_cluster.core.limits import MOST_BATCH_JOBS
from ojs_cluster.server.config import env_values as accept
from ojs_cluster.server.config.variable import Variable
from ojs_cluster.server.config.variables_store import REDIS, SCHEDULER, STORE

_MIB = 1024 * 1024
# A job with its result and its errors has to fit into one reply of Redis, 64 MiB at most.
_MOST_JOB = 16 * _MIB

_LISTEN = (
    Variable(
        "OJS_HOST",
        "listen.host",
        accept.host,
        "::",  # the only useful default in a container; `dev` differs
        "Address to listen on. `::` is every address, IPv4 too, and also where there is no IPv6.",
    ),
    Variable(
        "OJS_PORT",
        "listen.port",
        accept.integer(least=1, most=65_535),
        "8080",
        "Port to listen on.",
        reference=True,
    ),
    Variable(
        "OJS_WORKERS",
        "listen.workers",
        accept.workers,
        "auto",
        "API processes; `auto` is one per usable CPU, at most 16 (`dev`: 2).",
    ),
    Variable(
        "OJS_BACKLOG",
        "listen.backlog",
        accept.integer(least=1, most=65_535),
        "4096",
        "Connections that may wait to be accepted; the kernel may lower it (net.core.somaxconn).",
    ),
    Variable(
        "OJS_READ_TIMEOUT",
        "listen.read_timeout_s",
        accept.seconds(least=0.1, most=3600),
        "30s",
        "Time to receive a whole request body; and for the handshake of TLS.",
        reference=True,
    ),
    Variable(
        "OJS_WRITE_TIMEOUT",
        "listen.write_timeout_s",
        accept.seconds(least=0.1, most=3600),
        "30s",
        "A client that takes nothing of its response for this long is disconnected (in the fast "
        "lane: on Linux). Over HTTP/2 it must take all in this time and a second for each 16 KiB.",
        reference=True,
    ),
    Variable(
        "OJS_IDLE_TIMEOUT",
        "listen.idle_timeout_s",
        accept.seconds(least=0.1, most=86_400),
        "120s",
        "Keep-alive connections without a request are closed after it.",
        reference=True,
    ),
    Variable(
        "OJS_HEAD_TIMEOUT",
        "listen.head_timeout_s",
        accept.seconds(least=0.1, most=3600),
        "10s",
        "Time to receive a request's head, from its first byte.",
    ),
    Variable(
        "OJS_MAX_CONNECTIONS",
        "listen.max_connections",
        accept.integer(least=1, most=1_000_000),
        "10000",
        "Connections of a process, if it may open so many files; more wait to be accepted.",
    ),
    Variable(
        "OJS_MAX_CONNECTIONS_PER_CLIENT",
        "listen.max_connections_per_client",
        accept.integer(least=0, most=1_000_000),
        "0",
        "Of these, from one address; more are closed. 0 for no bound, as behind a proxy that is "
        "not among OJS_TRUSTED_PROXIES: those are not bounded.",
    ),
    Variable(
        "OJS_TRUSTED_PROXIES",
        "listen.trusted_proxies",
        accept.networks,
        "",
        "Addresses and networks of proxies whose X-Forwarded-For says who the client is.",
    ),
    Variable(
        "OJS_H2C",
        "listen.h2c",
        accept.boolean,
        "false",
        "Speak HTTP/2 without TLS as well, for a proxy that needs it.",
    ),
    Variable(
        "OJS_WATCHDOG",
        "listen.watchdog_s",
        accept.seconds(least=0, most=3600),
        "10s",
        "A process whose event loop does not turn for so long is replaced; 0 for never.",
    ),
    Variable(
        "OJS_SHUTDOWN_TIMEOUT",
        "listen.shutdown_timeout_s",
        accept.seconds(least=0.1, most=3600),
        "30s",
        "Time for requests in flight to finish after SIGTERM; then everything is killed.",
        reference=True,
    ),
    Variable(
        "OJS_SHUTDOWN_DELAY",
        "listen.shutdown_delay_s",
        accept.seconds(least=0, most=600),
        "0s",
        "After SIGTERM, time to keep accepting while /ready answers 503 (load balancers notice).",
    ),
    Variable(
        "OJS_MAX_HEADER_BYTES",
        "listen.max_header_bytes",
        accept.integer(least=1024, most=_MIB),
        "65536",
        "Request line and headers together.",
    ),
    Variable(
        "OJS_FAST_LANE",
        "listen.fast_lane",
        accept.boolean,
        "1",
        "A second, faster door for what workers and producers send; 0 sends all to hypercorn.",
    ),
    Variable(
        "OJS_TLS_CERT",
        "listen.tls_cert",
        accept.non_empty,
        "",
        "Certificate chain (PEM) of the API, which is then served over TLS alone.",
    ),
    Variable(
        "OJS_TLS_KEY",
        "listen.tls_key",
        accept.non_empty,
        "",
        "Its private key (PEM, without a passphrase).",
    ),
    Variable(
        "OJS_TLS_CLIENT_CA",
        "listen.tls_client_ca",
        accept.non_empty,
        "",
        "CA certificates (PEM); every client, probes too, must then show one that they signed.",
    ),
    Variable(
        "OJS_SCHEDULER_PORT",
        "listen.scheduler_port",
        accept.integer(least=0, most=65_535),
        "0",
        "Port of a scheduler's /health, /ready and /metrics, on OJS_HOST; 0 for none.",
    ),
)

_ACCESS = (
    Variable(
        "OJS_API_KEY",
        "access.api_key",
        accept.api_key,
        "",
        "Key that every client must send as a Bearer token.",
        reference=True,
        secret=True,
    ),
    Variable(
        "OJS_API_KEYS",
        "access.api_keys",
        accept.api_keys,
        "",
        "More accepted keys, comma separated, for changing keys without downtime.",
        secret=True,
    ),
    Variable(
        "OJS_API_KEYS_FILE",
        "access.keys_file",
        accept.non_empty,
        "",
        "File (TOML) of keys with scopes and queues; read again when it changes and at SIGHUP.",
    ),
    Variable(
        "OJS_ALLOW_INSECURE_NO_AUTH",
        "access.allow_insecure",
        accept.boolean,
        "false",
        "Serve without any key.",
        reference=True,
    ),
    Variable(
        "OJS_REQUIRE_STRONG_KEYS",
        "access.require_strong_keys",
        accept.boolean,
        "false",
        "Refuse to start with a key of less than 32 characters; otherwise the log warns of it.",
    ),
    Variable(
        "OJS_TEST_HOOKS",
        "access.test_hooks",
        accept.boolean,
        "false",
        "Endpoints and directives for test suites; one of them deletes all data.",
    ),
    Variable(
        "OJS_REQUIRE_LEASE",
        "access.require_lease",
        accept.boolean,
        "false",
        "Refuse an ack, nack or heartbeat that does not name the lease of each of its jobs.",
    ),
)

_LIMITS = (
    Variable(
        "OJS_MAX_BODY_BYTES",
        "limits.max_body_bytes",
        accept.integer(least=1024, most=256 * _MIB),
        "2097152",
        "Largest request body, other than a batch's; a job's own limit is 1 MiB.",
    ),
    Variable(
        "OJS_MAX_BATCH_BODY_BYTES",
        "limits.max_batch_body_bytes",
        accept.integer(least=1024, most=1024 * _MIB),
        "16777216",
        "Largest body of a batch.",
    ),
    Variable(
        "OJS_MAX_BODIES_BYTES",
        "limits.max_bodies_bytes",
        accept.integer(least=1024, most=16 * 1024 * _MIB),
        "67108864",
        "Large bodies (64 KiB) of a process at once, and again its incomplete requests; then 503.",
    ),
    Variable(
        "OJS_MAX_JOB_BYTES",
        "limits.max_job_bytes",
        accept.integer(least=1024, most=_MOST_JOB),
        "1048576",
        "Largest envelope of one job.",
    ),
    Variable(
        "OJS_MAX_META_BYTES",
        "limits.max_meta_bytes",
        accept.integer(least=1024, most=64 * _MIB),
        "65536",
        "Largest `meta` of one job.",
    ),
    Variable(
        "OJS_MAX_BATCH",
        "limits.max_batch",
        accept.integer(least=1, most=MOST_BATCH_JOBS),
        "1000",
        "Jobs in one batch; 10000 at most.",
    ),
    Variable(
        "OJS_MAX_JSON_DEPTH",
        "limits.max_depth",
        accept.integer(least=4, most=512),
        "64",
        "Nesting of a job's JSON.",
    ),
    Variable(
        "OJS_MAX_NUMBER_DIGITS",
        "limits.max_number_digits",
        accept.integer(least=20, most=4300),
        "1000",
        "Digits of one number in a request; longer ones make a page unreadable for many clients.",
    ),
    Variable(
        "OJS_MAX_FINGERPRINT_BYTES",
        "limits.max_fingerprint_bytes",
        accept.integer(least=1024, most=_MIB),
        "65536",
        "What tells a unique job apart: its args, chosen meta or key.",
    ),
)

_PROCESS = (
    Variable(
        "OJS_LOG_LEVEL",
        "log.level",
        accept.one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "INFO",
        "DEBUG adds one line per request.",
    ),
    Variable(
        "OJS_LOG_FORMAT",
        "log.format",
        accept.one_of("json", "text"),
        "json",
        "One JSON object per line, or text for people (`dev`: text).",
    ),
    Variable(
        "OJS_METRICS_OPEN",
        "metrics.open",
        accept.boolean,
        "false",
        "Serve /metrics without a key.",
    ),
    Variable(
        "OJS_METRICS_QUEUES",
        "metrics.queues",
        accept.integer(least=0, most=10_000),
        "1000",
        "Queues that /metrics shows one by one, the first by name; 0 for none.",
    ),
    Variable(
        "OJS_OTEL_ENABLED",
        "telemetry.enabled_flag",
        accept.boolean,
        "false",
        "Send traces (OpenTelemetry); naming an endpoint switches it on as well.",
        reference=True,
    ),
    Variable(
        "OJS_OTEL_ENDPOINT",
        "telemetry.ojs_endpoint",
        accept.http_url,
        "",
        "Where traces go; wins over OTEL_EXPORTER_OTLP_ENDPOINT.",
        reference=True,
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "telemetry.otlp_endpoint",
        accept.http_url,
        "",
        "Where traces go: `http://collector:4317`.",
        reference=True,
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "telemetry.protocol",
        accept.one_of("grpc", "http/protobuf"),
        "grpc",
        "How they travel; a collector takes http/protobuf at port 4318.",
    ),
)

SECTIONS: Mapping[str, tuple[Variable, ...]] = MappingProxyType(
    {
        "Listening": _LISTEN,
        "Access": _ACCESS,
        "Sizes of requests": _LIMITS,
        "Redis": REDIS,
        "Jobs": STORE,
        "Scheduler": SCHEDULER,
        "Logs, metrics and traces": _PROCESS,
    }
)
"""The variables by their heading in docs/configuration.md."""
VARIABLES: tuple[Variable, ...] = tuple(it for section in SECTIONS.values() for it in section)
