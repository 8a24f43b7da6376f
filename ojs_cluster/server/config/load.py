"""Settings from environment variables: one table, every mistake reported at once.

`VARIABLES` is the only list of what can be set; parsing, `ojs-cluster config`, the documentation
and its test all read it. Nothing below this layer reads the environment: each part of the program
gets the frozen dataclass of its own section.

An empty value counts as unset, because `OJS_API_KEY=${KEY:-}` in a compose file means "none".
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ojs_cluster.redis.url import secrets_in
from ojs_cluster.server.config import env_values as accept
from ojs_cluster.server.config import redis_checks
from ojs_cluster.server.config.settings import (
    AccessSettings,
    ListenSettings,
    LogSettings,
    MetricsSettings,
    RedisSettings,
    RequestLimits,
    TelemetrySettings,
)
from ojs_cluster.server.config.variable import Variable
from ojs_cluster.server.config.variables import VARIABLES
from ojs_cluster.store.settings import StoreSettings
from scheduler.settings import SchedulerSettings

__all__ = ["EXIT_CONFIG", "VARIABLES", "ConfigError", "Settings", "Variable", "load", "report"]

EXIT_CONFIG = 2
"""Exit code of every command that refuses its configuration."""

_BY_NAME = {variable.name: variable for variable in VARIABLES}
_HIDDEN = "(hidden)"
_CALLS_KEPT = 3
"""Calls for whose time an ended job is kept at least: one, the client's pause, and one more."""


class ConfigError(Exception):
    """The environment holds wrong values; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was configured.

    Attributes:
        shards: number of logical shards.
        warnings: lines for the log about variables that look mistyped or have no effect.
    """

    listen: ListenSettings
    access: AccessSettings
    limits: RequestLimits
    redis: RedisSettings
    store: StoreSettings
    scheduler: SchedulerSettings
    log: LogSettings
    metrics: MetricsSettings
    telemetry: TelemetrySettings
    shards: int
    warnings: tuple[str, ...]

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that must not appear in any log line.

        The URL's are among them also where another variable wins over the URL.
        """
        candidates = {*self.access.keys, self.redis.password, *secrets_in(self.redis.url)}
        return frozenset(text for text in candidates if text)


def load(environ: Mapping[str, str]) -> Settings:
    """Read every variable.

    Raises:
        ConfigError: with all problems, not only the first.
    """
    sections: dict[str, dict[str, Any]] = defaultdict(dict)
    problems: list[str] = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        section, _, name = variable.target.partition(".")
        try:
            # A default is parsed like anything else, so a wrong one cannot hide in the table.
            sections[section][name] = _parse(variable, text or variable.default)
        except ValueError as problem:
            shown = _HIDDEN if _is_secret(variable, text) else repr(text)
            problems.append(f"{variable.name}={shown}: expected {problem}")
    if not problems:
        problems += _contradictions(sections)
    if problems:
        raise ConfigError(problems)
    return Settings(
        listen=ListenSettings(**sections["listen"]),
        access=AccessSettings(**sections["access"]),
        limits=RequestLimits(**sections["limits"]),
        redis=RedisSettings(**sections["redis"]),
        store=StoreSettings(**sections["store"]),
        scheduler=SchedulerSettings(**sections["scheduler"]),
        log=LogSettings(**sections["log"]),
        metrics=MetricsSettings(**sections["metrics"]),
        telemetry=TelemetrySettings(**sections["telemetry"]),
        shards=sections["shards"]["count"],
        warnings=tuple(_suspicious(environ)),
    )


def _is_secret(variable: Variable, text: str) -> bool:
    """Whether not to show a value: it is one of the secrets, or a URL that may hold a password."""
    return variable.secret or (variable.parse is accept.http_url and "@" in text)


def _parse(variable: Variable, text: str) -> Any:
    """Give the value; a variable that is not set and has no default is the empty value."""
    if text:
        return variable.parse(text)
    lists = (accept.words, accept.api_keys, accept.networks)
    return () if variable.parse in lists else ""


def _contradictions(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Values that are fine alone and impossible together."""
    problems: list[str] = []
    redis = sections["redis"]
    shards = sections["shards"]["count"]
    if sections["store"]["queue_partitions"] > shards:
        problems.append(f"OJS_QUEUE_PARTITIONS: at most OJS_SHARDS, which is {shards}")
    tls_files = [name for name in ("tls_ca", "tls_cert", "tls_key") if redis[name]]
    if tls_files and not redis["url"].startswith("rediss://"):
        names = ", ".join(f"OJS_REDIS_{name.upper()}" for name in tls_files)
        problems.append(f"{names}: only with a REDIS_URL that begins with rediss://")
    if bool(redis["tls_cert"]) != bool(redis["tls_key"]):
        problems.append("OJS_REDIS_TLS_CERT and OJS_REDIS_TLS_KEY: set both or neither")
    listen = sections["listen"]
    if bool(listen["tls_cert"]) != bool(listen["tls_key"]):
        problems.append("OJS_TLS_CERT and OJS_TLS_KEY: set both or neither")
    elif listen["tls_client_ca"] and not listen["tls_cert"]:
        problems.append("OJS_TLS_CLIENT_CA: only with OJS_TLS_CERT and OJS_TLS_KEY")
    if redis["durability_timeout_s"] > redis["reply_timeout_s"] / 2:
        problems.append("OJS_DURABILITY_TIMEOUT: at most half of OJS_REDIS_REPLY_TIMEOUT")
    problems += _short_retentions(sections["store"], redis["call_timeout_s"])
    return problems + list(redis_checks.problems(RedisSettings(**redis)))


def _short_retentions(store: Mapping[str, Any], call_timeout_s: float) -> Iterator[str]:
    """Retentions that could end before a client has repeated a request whose answer it lost."""
    floor_s = _CALLS_KEPT * call_timeout_s
    for state in ("completed", "discarded", "cancelled"):
        if store[f"retention_{state}_ms"] < floor_s * 1000:
            yield (
                f"OJS_RETENTION_{state.upper()}: at least {floor_s:g}s, which is {_CALLS_KEPT} "
                "times OJS_REDIS_CALL_TIMEOUT: a repeated ack must find its job"
            )


def _suspicious(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables of ours that do not exist, and settings without an effect yet."""
    for name in sorted(environ):
        if not name.startswith("OJS_") or name in _BY_NAME:
            continue
        # Only near misses: SDKs and tools have OJS_ variables of their own (OJS_URL).
        for close in difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.85):
            yield f"{name} is set and means nothing here; did you mean {close}?"


def report(environ: Mapping[str, str]) -> str:
    """Give the table of variables with their present values, secrets hidden."""
    rows = [("VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        value = (_HIDDEN if _is_secret(variable, text) else text) if text else "-"
        rows.append((variable.name, value, variable.default or "-", variable.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows
    )
