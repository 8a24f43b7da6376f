"""The settings of the connection to Redis, and the environment variables that fill them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ojs_cluster.core.config.parsers import (
    integer,
    non_empty,
    one_of,
    seconds,
)
from ojs_cluster.core.config.variable import variable
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.settings import ClientSettings, TlsSettings
from ojs_cluster.server.config import parsers

_TIMEOUT = seconds(minimum=0.05, maximum=600)
MAX_CALL_TIMEOUT_S: Final = 30
"""Maximum of ``OJS_REDIS_CALL_TIMEOUT`` in seconds.

What a request claims first, such as the id of a job, is valid for at least this long
(``aliases.CLAIM_MS``). A longer request could wait for a master until its claims have expired, and
would be refused by then."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to connect to Redis. The variables may override parts of the URL (``client``)."""

    url: str = variable(
        "REDIS_URL",
        parsers.redis_url,
        "redis://localhost:6379",
        "Redis or Valkey, standalone or cluster; several start nodes are comma separated.",
        reference=True,
        secret=True,
    )
    username: str = variable(
        "OJS_REDIS_USERNAME",
        non_empty,
        "",
        "ACL user of Redis; has priority over the user in REDIS_URL.",
    )
    password: str = variable(
        "OJS_REDIS_PASSWORD",
        non_empty,
        "",
        "Password of Redis; has priority over the password in REDIS_URL.",
        secret=True,
    )
    tls_ca: str = variable(
        "OJS_REDIS_TLS_CA",
        parsers.readable_file,
        "",
        "File with the certificates of the CAs that sign the certificates of the Redis servers "
        "(rediss:// only).",
    )
    tls_cert: str = variable(
        "OJS_REDIS_TLS_CERT",
        parsers.readable_file,
        "",
        "File with the client certificate for Redis (rediss:// only).",
    )
    tls_key: str = variable(
        "OJS_REDIS_TLS_KEY",
        parsers.readable_file,
        "",
        "File with the private key of the certificate in OJS_REDIS_TLS_CERT.",
    )
    connect_timeout_s: float = variable(
        "OJS_REDIS_CONNECT_TIMEOUT",
        _TIMEOUT,
        "2s",
        "Maximum time to connect to a Redis node, including TLS and handshake.",
    )
    reply_timeout_s: float = variable(
        "OJS_REDIS_REPLY_TIMEOUT",
        _TIMEOUT,
        "5s",
        "A Redis node that has unanswered commands and sends nothing for this long counts as dead.",
    )
    call_timeout_s: float = variable(
        "OJS_REDIS_CALL_TIMEOUT",
        seconds(minimum=0.05, maximum=MAX_CALL_TIMEOUT_S),
        "10s",
        "Maximum time of all Redis calls of one request, including retries; then the client gets "
        "503. At most 30s: what a request claims first, such as the id of a job, expires then.",
    )
    max_in_flight: int = variable(
        "OJS_REDIS_MAX_IN_FLIGHT",
        integer(minimum=1, maximum=1_000_000),
        "1024",
        "Maximum number of unanswered commands per Redis node and process; others wait.",
    )
    durability: str = variable(
        "OJS_DURABILITY",
        one_of("async", "replica", "fsync"),
        "async",
        "What a write waits for before it is acknowledged: `async` for its master alone, "
        "`replica` for replicas, `fsync` for disks. A request may ask for more in "
        "`OJS-Durability`.",
    )
    durability_timeout_s: float = variable(
        "OJS_DURABILITY_TIMEOUT",
        _TIMEOUT,
        "1s",
        "How long a write waits for OJS_DURABILITY; then 503 says that the write is stored, but "
        "unconfirmed. At most half of OJS_REDIS_REPLY_TIMEOUT.",
    )
    durability_replicas: int = variable(
        "OJS_DURABILITY_REPLICAS",
        integer(minimum=0, maximum=5),
        "1",
        "Number of replicas of a master that must have a write; `fsync` on a standalone server "
        "needs none.",
    )

    def client(self) -> ClientSettings:
        """Return the client's settings: the URL, overridden by the other variables."""
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


def redis_problems(redis: RedisSettings) -> Iterator[str]:
    """Yield one line for each value, or combination of values, that cannot work."""
    if redis.durability == "replica" and redis.durability_replicas == 0:
        # WAIT 0 returns at once, so every write would count as replicated.
        yield "OJS_DURABILITY_REPLICAS: at least 1 with OJS_DURABILITY=replica"
    tls = redis.client().tls
    if tls is not None:
        yield from _ca_problems(redis, tls)
        yield from _client_certificate_problems(redis, tls)


def _ca_problems(redis: RedisSettings, tls: TlsSettings) -> Iterator[str]:
    if tls.ca_file is not None:
        name = "OJS_REDIS_TLS_CA" if redis.tls_ca else "REDIS_URL (ssl_ca_certs)"
        try:
            ssl.create_default_context(cafile=tls.ca_file)
        except OSError as error:
            yield f"{name}: expected CA certificates in PEM form ({_reason(error)})"
    if tls.ca_path is not None and not Path(tls.ca_path).is_dir():
        yield "REDIS_URL (ssl_ca_path): expected a folder of CA certificates"


def _client_certificate_problems(redis: RedisSettings, tls: TlsSettings) -> Iterator[str]:
    if tls.cert_file is None:
        return
    names = "REDIS_URL (ssl_certfile, ssl_keyfile)"
    if redis.tls_cert:
        names = "OJS_REDIS_TLS_CERT, OJS_REDIS_TLS_KEY"
    try:
        tls.load_client_certificate(ssl.create_default_context())
    except OSError as error:
        yield f"{names}: expected a certificate and its key in PEM form ({_reason(error)})"


def _reason(error: OSError) -> str:
    """Return the system's message, without the path of the file, which may be part of a URL."""
    return error.strerror or type(error).__name__
