"""Checks of the Redis settings before the first connection."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from ojs_cluster.redis.settings import TlsSettings
from ojs_cluster.server.config.redis_settings import RedisSettings


def problems(redis: RedisSettings) -> Iterator[str]:
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
