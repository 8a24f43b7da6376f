"""The settings of the server itself, and the environment variables that fill them.

``all_variables`` lists all settings classes. Those of other layers are beside their code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.access.client_address import Network, networks
from ojs_cluster.core.config.parsers import (
    boolean,
    integer,
    non_empty,
    one_of,
    seconds,
    words,
)
from ojs_cluster.core.config.variable import variable
from ojs_cluster.server.config import parsers

_MIB = 1024 * 1024

MIN_STRONG_KEY_LENGTH = 32
"""Minimum length of a strong API key, in characters. A shorter API key may be guessed."""
NEEDS_AUTH = (
    "OJS_API_KEY is not set: set it to the key that clients must send as `Authorization: Bearer "
    "<key>`, or set OJS_ALLOW_INSECURE_NO_AUTH=true to serve every client that can connect"
)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where and how to listen.

    Times are in seconds. ``workers`` is the number of API processes. A scheduler answers probes and
    scrapes on ``scheduler_port``, unless it is 0. ``trusted_proxies`` may name the client in
    X-Forwarded-For. Without ``tls_cert`` the API is served without TLS.
    """

    host: str = variable(
        "OJS_HOST",
        parsers.host,
        "::",  # the only useful default in a container; `dev` differs
        "Address to listen on. `::` is every address, IPv6 and IPv4; without IPv6 it is every IPv4 "
        "address.",
    )
    port: int = variable(
        "OJS_PORT",
        integer(minimum=1, maximum=65_535),
        "8080",
        "Port to listen on.",
        reference=True,
    )
    workers: int = variable(
        "OJS_WORKERS",
        parsers.workers,
        "auto",
        "Number of API processes; `auto` is one per usable CPU, at most 16 (`dev`: 2).",
        lazy_default=True,
    )
    backlog: int = variable(
        "OJS_BACKLOG",
        integer(minimum=1, maximum=65_535),
        "4096",
        "Maximum number of connections that wait to be accepted; the kernel may lower it "
        "(net.core.somaxconn).",
    )
    read_timeout_s: float = variable(
        "OJS_READ_TIMEOUT",
        seconds(minimum=0.1, maximum=3600),
        "30s",
        "Maximum time to receive a request body, and maximum time of a TLS handshake.",
        reference=True,
    )
    write_timeout_s: float = variable(
        "OJS_WRITE_TIMEOUT",
        seconds(minimum=0.1, maximum=3600),
        "30s",
        "A client that reads nothing of its response for this long is disconnected (in the fast "
        "lane: only on Linux). Over HTTP/2 it must read each part of a response within this time "
        "plus one second per 16 KiB.",
        reference=True,
    )
    idle_timeout_s: float = variable(
        "OJS_IDLE_TIMEOUT",
        seconds(minimum=0.1, maximum=86_400),
        "120s",
        "Keep-alive connections without a request are closed after this time.",
        reference=True,
    )
    shutdown_timeout_s: float = variable(
        "OJS_SHUTDOWN_TIMEOUT",
        seconds(minimum=0.1, maximum=3600),
        "30s",
        "Time for requests in flight to finish after SIGTERM; then all processes are killed.",
        reference=True,
    )
    shutdown_delay_s: float = variable(
        "OJS_SHUTDOWN_DELAY",
        seconds(minimum=0, maximum=600),
        "0s",
        "Time to accept connections after SIGTERM while /ready answers 503, for load balancers.",
    )
    max_header_bytes: int = variable(
        "OJS_MAX_HEADER_BYTES",
        integer(minimum=1024, maximum=_MIB),
        "65536",
        "Maximum size of request line and headers together, in bytes.",
    )
    scheduler_port: int = variable(
        "OJS_SCHEDULER_PORT",
        integer(minimum=0, maximum=65_535),
        "0",
        "Port of a scheduler's /health, /ready and /metrics, on OJS_HOST; 0 for none.",
    )
    trusted_proxies: tuple[Network, ...] = variable(
        "OJS_TRUSTED_PROXIES",
        networks,
        "",
        "Addresses and networks of the proxies whose header X-Forwarded-For names the client.",
        empty=(),
    )
    fast_lane: bool = variable(
        "OJS_FAST_LANE",
        boolean,
        "1",
        "Serve the requests of workers and producers, and the pages of the dashboard, on the fast "
        "lane; 0 sends all to hypercorn.",
    )
    tls_cert: str = variable(
        "OJS_TLS_CERT",
        non_empty,
        "",
        "File with the certificate chain of the API (PEM). The API is then served only over TLS.",
    )
    tls_key: str = variable(
        "OJS_TLS_KEY",
        non_empty,
        "",
        "File with the private key of the certificate in OJS_TLS_CERT (PEM, without a passphrase).",
    )
    tls_client_ca: str = variable(
        "OJS_TLS_CLIENT_CA",
        non_empty,
        "",
        "File with CA certificates (PEM). Every client, also a probe, must then have a certificate "
        "that one of them signed.",
    )
    head_timeout_s: float = variable(
        "OJS_HEAD_TIMEOUT",
        seconds(minimum=0.1, maximum=3600),
        "10s",
        "Maximum time to receive the head of a request, from its first byte.",
    )
    max_connections: int = variable(
        "OJS_MAX_CONNECTIONS",
        integer(minimum=1, maximum=1_000_000),
        "10000",
        "Maximum number of connections of an API process; others wait to be accepted. The limit on "
        "open files may lower it.",
    )
    max_connections_per_client: int = variable(
        "OJS_MAX_CONNECTIONS_PER_CLIENT",
        integer(minimum=0, maximum=1_000_000),
        "0",
        "Maximum number of connections of an API process from one address; others are closed. 0 "
        "for no maximum. It does not apply to OJS_TRUSTED_PROXIES.",
    )
    h2c: bool = variable(
        "OJS_H2C",
        boolean,
        "false",
        "Speak HTTP/2 without TLS as well, for a proxy that needs it.",
    )
    watchdog_s: float = variable(
        "OJS_WATCHDOG",
        seconds(minimum=0, maximum=3600),
        "10s",
        "An API process whose event loop is blocked for this long is killed and restarted; 0 for "
        "never.",
    )


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """The API keys, and what the server requires of them."""

    api_key: str = variable(
        "OJS_API_KEY",
        parsers.api_key,
        "",
        "API key that every client must send as a Bearer token.",
        reference=True,
        secret=True,
    )
    api_keys: tuple[str, ...] = variable(
        "OJS_API_KEYS",
        parsers.api_keys,
        "",
        "Other accepted API keys, comma separated, to change API keys without downtime.",
        secret=True,
        empty=(),
    )
    keys_file: str = variable(
        "OJS_API_KEYS_FILE",
        non_empty,
        "",
        "File (TOML) of API keys with scopes and queues; read again when it changes and at SIGHUP.",
    )
    allow_insecure: bool = variable(
        "OJS_ALLOW_INSECURE_NO_AUTH",
        boolean,
        "false",
        "Serve every client without an API key.",
        reference=True,
    )
    require_strong_keys: bool = variable(
        "OJS_REQUIRE_STRONG_KEYS",
        boolean,
        "false",
        "Refuse to start with an API key of less than 32 characters; otherwise log a warning.",
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys of variables, without duplicates. ``keys_file`` may define more API keys."""
        keys = (self.api_key, *self.api_keys) if self.api_key else self.api_keys
        return tuple(dict.fromkeys(keys))

    @property
    def weak_keys(self) -> str:
        """The names of variables with an API key that is not strong, for a message; '' for none."""
        named = [("OJS_API_KEY", self.api_key)] if self.api_key else []
        named += [
            (f"OJS_API_KEYS (key {number})", key) for number, key in enumerate(self.api_keys, 1)
        ]
        return ", ".join(name for name, key in named if len(key) < MIN_STRONG_KEY_LENGTH)

    @property
    def problem(self) -> str | None:
        """Why an API process must not start, or None."""
        if self.require_strong_keys and self.weak_keys:
            return (
                f"{self.weak_keys}: shorter than {MIN_STRONG_KEY_LENGTH} characters, and "
                "OJS_REQUIRE_STRONG_KEYS is set: create an API key with `openssl rand -hex 32`"
            )
        return None if self.keys or self.keys_file or self.allow_insecure else NEEDS_AUTH


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Level and format of the logs."""

    level: str = variable(
        "OJS_LOG_LEVEL",
        one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "INFO",
        "Minimum level of log lines; DEBUG adds one line per request.",
    )
    format: Literal["json", "text"] = variable(
        "OJS_LOG_FORMAT",
        one_of("json", "text"),
        "json",
        "One JSON object per line, or text for people (`dev`: text).",
    )


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How the data is split."""

    shards: int = variable(
        "OJS_SHARDS",
        integer(minimum=1, maximum=1024),
        "64",
        "Number of logical shards; it cannot change after the cluster is first used.",
    )


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """The settings of traces. The reference server and OpenTelemetry have the same variables."""

    enabled_flag: bool = variable(
        "OJS_OTEL_ENABLED",
        boolean,
        "false",
        "Send traces with OpenTelemetry. An endpoint also switches traces on.",
        reference=True,
    )
    ojs_endpoint: str = variable(
        "OJS_OTEL_ENDPOINT",
        parsers.http_url,
        "",
        "URL to which traces are sent; has priority over OTEL_EXPORTER_OTLP_ENDPOINT.",
        reference=True,
    )
    otlp_endpoint: str = variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        parsers.http_url,
        "",
        "URL to which traces are sent, such as `http://collector:4317`.",
        reference=True,
    )
    protocol: str = variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        one_of("grpc", "http/protobuf"),
        "grpc",
        "Protocol of the traces. Collectors usually receive grpc on port 4317 and http/protobuf on "
        "port 4318.",
    )
    opted_in: tuple[str, ...] = variable(
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        words,
        "",
        "With `messaging` among its words, spans of enqueues have the operation type `send` of "
        "OpenTelemetry's conventions instead of `publish`, which OpenJobSpec asks for.",
    )

    @property
    def endpoint(self) -> str:
        """URL to which traces are sent; empty for OpenTelemetry's own default."""
        return self.ojs_endpoint or self.otlp_endpoint

    @property
    def follows_semconv(self) -> bool:
        """Whether OpenTelemetry's conventions for messages precede those of OpenJobSpec."""
        return "messaging" in self.opted_in

    @property
    def enabled(self) -> bool:
        """Whether the operator switched traces on."""
        return self.enabled_flag or bool(self.endpoint)
