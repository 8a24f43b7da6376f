"""The sections of the configuration, each a frozen dataclass for the part that uses it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ojs_cluster.core.access.client_address import Network
from ojs_cluster.core.limits import PayloadLimits
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.settings import ClientSettings, TlsSettings

STRONG_KEY = 32
"""Characters of a key below which it may have been thought up, and can be guessed."""
NEEDS_AUTH = (
    "OJS_API_KEY is not set: set it to the key that clients must send as `Authorization: Bearer "
    "<key>`, or set OJS_ALLOW_INSECURE_NO_AUTH=true to serve everybody who can connect"
)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where and how to listen.

    `workers` is the number of API processes. `scheduler_port` is where a scheduler answers probes
    and scrapes, 0 for nowhere. `trusted_proxies` are those whose X-Forwarded-For is believed.
    `tls_cert` is empty where the API is served without TLS.
    """

    host: str
    port: int
    workers: int
    backlog: int
    read_timeout_s: float
    write_timeout_s: float
    idle_timeout_s: float
    shutdown_timeout_s: float
    shutdown_delay_s: float
    max_header_bytes: int
    scheduler_port: int
    trusted_proxies: tuple[Network, ...]
    fast_lane: bool
    tls_cert: str
    tls_key: str
    tls_client_ca: str
    head_timeout_s: float
    max_connections: int
    max_connections_per_client: int
    h2c: bool
    watchdog_s: float


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may call, what a worker must prove, and what is switched on for tests only."""

    api_key: str = field(repr=False)
    api_keys: tuple[str, ...] = field(repr=False)
    keys_file: str
    allow_insecure: bool
    require_strong_keys: bool
    test_hooks: bool
    require_lease: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that variables name, without duplicates; a file may name more."""
        named = (self.api_key, *self.api_keys) if self.api_key else self.api_keys
        return tuple(dict.fromkeys(named))

    @property
    def weak_keys(self) -> str:
        """Say which keys are short enough to be guessed; empty for none. Never shows a key."""
        places = [("OJS_API_KEY", self.api_key)] if self.api_key else []
        places += [(f"OJS_API_KEYS (key {n})", key) for n, key in enumerate(self.api_keys, 1)]
        return ", ".join(place for place, key in places if len(key) < STRONG_KEY)

    @property
    def problem(self) -> str | None:
        """Why an API process must not start, or None."""
        if self.require_strong_keys and self.weak_keys:
            return (
                f"{self.weak_keys}: shorter than {STRONG_KEY} characters, and "
                "OJS_REQUIRE_STRONG_KEYS is set: `openssl rand -hex 32` makes a good one"
            )
        return None if self.keys or self.keys_file or self.allow_insecure else NEEDS_AUTH


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request may cost. Sizes in bytes; `core()` gives what the domain checks."""

    max_body_bytes: int
    max_batch_body_bytes: int
    max_bodies_bytes: int
    max_job_bytes: int
    max_meta_bytes: int
    max_batch: int
    max_depth: int
    max_fingerprint_bytes: int
    max_number_digits: int

    def core(self) -> PayloadLimits:
        """Limits of envelopes and batches."""
        return PayloadLimits(
            envelope_bytes=self.max_job_bytes,
            meta_bytes=self.max_meta_bytes,
            batch_jobs=self.max_batch,
            depth=self.max_depth,
            fingerprint_bytes=self.max_fingerprint_bytes,
            number_digits=self.max_number_digits,
        )


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach Redis; `client()` gives it in the client's own form."""

    url: str = field(repr=False)
    username: str
    password: str = field(repr=False)
    tls_ca: str
    tls_cert: str
    tls_key: str
    connect_timeout_s: float
    reply_timeout_s: float
    call_timeout_s: float
    max_in_flight: int
    durability: str
    durability_timeout_s: float
    durability_replicas: int

    def client(self) -> ClientSettings:
        """Combine the URL with what the other variables say; the variables win."""
        settings = ClientSettings.from_url(
            self.url,
            connect_timeout_s=self.connect_timeout_s,
            reply_timeout_s=self.reply_timeout_s,
            call_timeout_s=self.call_timeout_s,
            max_in_flight=self.max_in_flight,
            durability=Durability[self.durability.upper()],
            durability_timeout_s=self.durability_timeout_s,
            durability_replicas=self.durability_replicas,
        )
        if self.username:
            settings = replace(settings, username=self.username)
        if self.password:
            settings = replace(settings, password=self.password)
        if self.tls_ca or self.tls_cert:
            tls = settings.tls or TlsSettings()
            tls = replace(
                tls,
                ca_file=self.tls_ca or tls.ca_file,
                cert_file=self.tls_cert or tls.cert_file,
                key_file=self.tls_key or tls.key_file,
            )
            settings = replace(settings, tls=tls)
        return settings


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How much to log and in which form."""

    level: str
    format: Literal["json", "text"]


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Who may read metrics, and the number of queues they show one by one."""

    open: bool
    queues: int


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """OpenTelemetry as the reference server spells it; either form switches it on."""

    enabled_flag: bool
    ojs_endpoint: str
    otlp_endpoint: str
    protocol: str

    @property
    def endpoint(self) -> str:
        """Where traces are to go; empty for what OpenTelemetry takes by default."""
        return self.ojs_endpoint or self.otlp_endpoint

    @property
    def enabled(self) -> bool:
        """Tell whether the operator asked for traces."""
        return self.enabled_flag or bool(self.endpoint)
