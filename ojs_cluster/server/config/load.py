"""Read the settings from environment variables, and report every mistake at once.

Only this package reads the environment. Each part of the program gets the frozen settings of its
own section. An empty value counts as unset, because ``OJS_API_KEY=${KEY:-}`` in a compose file
means "none".
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.config.variable import ShownVariable, Variable
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.redis.url import secrets_in
from ojs_cluster.server.config import parsers
from ojs_cluster.server.config.all_variables import SECTIONS, VARIABLES
from ojs_cluster.server.config.redis_settings import RedisSettings, redis_problems
from ojs_cluster.server.config.settings import (
    AccessSettings,
    ListenSettings,
    LogSettings,
    ShardSettings,
    TelemetrySettings,
)
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on import oidc_settings, proxy_users
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from ojs_cluster.webhooks.settings import WebhookSettings
from ojs_scheduler.settings import SchedulerSettings

EXIT_CONFIG = 2
"""Exit code of every command that refuses its configuration."""

_NAMES = frozenset(variable.name for variable in VARIABLES)
_OF_SERVICE = re.compile("_SERVICE_|_PORT(_|$)")
"""In names that Kubernetes sets for a Service, such as ``ojs-redis``."""


def _family(name: str) -> str:
    """Return the first two words of the name of a variable, such as ``OJS_REDIS``."""
    return "_".join(name.split("_")[:2])


_FAMILIES = frozenset(
    family for family, count in Counter(map(_family, _NAMES)).items() if count >= 3
)
_HIDDEN = "(hidden)"
_MIN_RETENTION_CALL_TIMEOUTS = 3
"""Minimum retention of an ended job, as a multiple of the call timeout. A client whose ack was not
answered in time pauses and repeats the ack, and the job must still exist then."""


class ConfigError(Exception):
    """The environment holds wrong values.

    Attributes:
        problems: one line for each wrong value.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration: one field for each section of ``SECTIONS``.

    Attributes:
        warnings: log lines about variables that look mistyped.
    """

    listen: ListenSettings
    access: AccessSettings
    http: HttpSettings
    bodies: BodyLimits
    limits: PayloadLimits
    ui: UiSettings
    oidc: OidcSettings
    redis: RedisSettings
    layout: ShardSettings
    store: StoreSettings
    webhooks: WebhookSettings
    scheduler: SchedulerSettings
    log: LogSettings
    telemetry: TelemetrySettings
    warnings: tuple[str, ...]

    @property
    def shards(self) -> int:
        """Number of logical shards."""
        return self.layout.shards

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that must not appear in any log line.

        The secrets of ``REDIS_URL`` are among them, even if other variables have priority.
        """
        candidates = {*self.access.keys, self.redis.password, *secrets_in(self.redis.url)}
        candidates.add(self.oidc.client_secret)
        return frozenset(text for text in candidates if text)


def load(environ: Mapping[str, str]) -> Settings:
    """Read every variable.

    Raises:
        ConfigError: a variable has a wrong value, or values contradict each other. The error lists
            all of them. Contradictions are checked only if every single value is valid.
    """
    values: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for section in SECTIONS:
        fields = values[section.name] = {}
        for name, variable in section.variables.items():
            text = environ.get(variable.name, "").strip()
            try:
                fields[name] = variable.value(text)
            except ValueError as problem:
                shown = _HIDDEN if _is_secret(variable, text) else repr(text)
                problems.append(f"{variable.name}={shown}: expected {problem}")
    if problems:
        raise ConfigError(problems)
    sections = {section.name: section.settings(**values[section.name]) for section in SECTIONS}
    settings = Settings(**sections, warnings=tuple(_mistyped(environ)))
    contradictions = list(_contradictions(settings))
    if contradictions:
        raise ConfigError(contradictions)
    return settings


def _is_secret(variable: Variable, text: str) -> bool:
    """Return whether to hide a value: it is a secret, or a URL that may hold one."""
    return variable.secret or (variable.parse is parsers.http_url and bool({"@", "?"} & set(text)))


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yield a line for each combination of valid values that cannot work."""
    redis, listen = settings.redis, settings.listen
    if settings.store.queue_partitions > settings.shards:
        yield f"OJS_QUEUE_PARTITIONS: at most OJS_SHARDS, which is {settings.shards}"
    files = {
        "OJS_REDIS_TLS_CA": redis.tls_ca,
        "OJS_REDIS_TLS_CERT": redis.tls_cert,
        "OJS_REDIS_TLS_KEY": redis.tls_key,
    }
    named = [name for name, path in files.items() if path]
    if named and not redis.url.startswith("rediss://"):
        yield f"{', '.join(named)}: only with a REDIS_URL that begins with rediss://"
    if bool(redis.tls_cert) != bool(redis.tls_key):
        yield "OJS_REDIS_TLS_CERT and OJS_REDIS_TLS_KEY: set both or neither"
    if bool(listen.tls_cert) != bool(listen.tls_key):
        yield "OJS_TLS_CERT and OJS_TLS_KEY: set both or neither"
    elif listen.tls_client_ca and not listen.tls_cert:
        yield "OJS_TLS_CLIENT_CA: only with OJS_TLS_CERT and OJS_TLS_KEY"
    access = settings.access
    has_keys = bool(access.keys or access.keys_file or not access.allow_insecure)
    yield from proxy_users.contradictions(settings.ui, listen.trusted_proxies, has_keys=has_keys)
    yield from oidc_settings.contradictions(settings.oidc, settings.ui, has_keys=has_keys)
    if redis.durability_timeout_s > redis.reply_timeout_s / 2:
        yield "OJS_DURABILITY_TIMEOUT: at most half of OJS_REDIS_REPLY_TIMEOUT"
    yield from _short_retentions(settings.store, redis.call_timeout_s)
    yield from redis_problems(redis)


def _short_retentions(store: StoreSettings, call_timeout_s: float) -> Iterator[str]:
    """Yield a line for each retention that ends before a client can repeat a lost request."""
    min_s = _MIN_RETENTION_CALL_TIMEOUTS * call_timeout_s
    retentions = {
        "OJS_RETENTION_COMPLETED": store.retention_completed_ms,
        "OJS_RETENTION_DISCARDED": store.retention_discarded_ms,
        "OJS_RETENTION_CANCELLED": store.retention_cancelled_ms,
    }
    for name, retention_ms in retentions.items():
        if retention_ms < min_s * 1000:
            yield (
                f"{name}: at least {min_s:g}s, which is {_MIN_RETENTION_CALL_TIMEOUTS} times "
                "OJS_REDIS_CALL_TIMEOUT: a repeated ack must find its job"
            )


def _mistyped(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each unknown variable that looks like one of the server's.

    Its name is similar to a known one, or begins as several known ones do. Other names are not
    mentioned, because SDKs and tools have ``OJS_`` variables of their own, such as ``OJS_URL``.
    """
    for name in sorted(environ):
        if not name.startswith("OJS_") or name in _NAMES:
            continue
        without_prefix = name.removeprefix("OJS_")
        similar = (
            [without_prefix]
            if without_prefix in _NAMES
            else difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.85)
        )
        if similar:
            yield f"{name} is set, but the server has no such variable; did you mean {similar[0]}?"
        elif _family(name) in _FAMILIES and not _OF_SERVICE.search(name):
            yield (
                f"{name} is set, but the server has no such variable; `ojs-cluster config` lists "
                "all"
            )


def shown_variables(environ: Mapping[str, str]) -> tuple[ShownVariable, ...]:
    """Return all variables with their current values, without secrets."""
    shown = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        value = None if _is_secret(variable, text) else text or variable.default
        shown.append(
            ShownVariable(variable.name, value, variable.default, bool(text), variable.summary)
        )
    return tuple(shown)


def report(environ: Mapping[str, str]) -> str:
    """Return the table of variables with their current values, secrets hidden."""
    rows = [("VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    for shown in shown_variables(environ):
        value = (_HIDDEN if shown.value is None else shown.value) if shown.is_set else "-"
        rows.append((shown.name, value, shown.default or "-", shown.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows
    )
