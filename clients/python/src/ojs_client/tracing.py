"""Trace context in ``meta`` (spec: ojs-observability), with OpenTelemetry if it is installed.

A producer stores the trace context of its current span in the ``meta`` of the job. A worker runs
the handler in that context, so jobs that the handler enqueues belong to the same trace. Without
OpenTelemetry the context is passed on unchanged.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

MEMBERS: Final = ("traceparent", "tracestate")

_current: ContextVar[Mapping[str, str] | None] = ContextVar("ojs_client_trace", default=None)


@cache
def _opentelemetry() -> tuple[Any, Any] | None:
    """Return the modules ``propagate`` and ``context``; None if they are not installed."""
    try:
        return (
            importlib.import_module("opentelemetry.propagate"),
            importlib.import_module("opentelemetry.context"),
        )
    except ImportError:
        return None


def with_trace(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``meta`` with the current trace context, unless it has one."""
    result = dict(meta or {})
    if any(name in result for name in MEMBERS):
        return result
    carrier: dict[str, str] = {}
    if modules := _opentelemetry():
        modules[0].inject(carrier)
    if "traceparent" not in carrier:
        carrier = dict(_current.get() or {})
    return result | {name: carrier[name] for name in MEMBERS if name in carrier}


@contextmanager
def trace_of(meta: Mapping[str, Any]) -> Iterator[None]:
    """Make the trace context in ``meta`` the current one."""
    carrier = {name: meta[name] for name in MEMBERS if isinstance(meta.get(name), str)}
    token = _current.set(carrier or None)
    modules = _opentelemetry() if carrier else None
    attached = modules[1].attach(modules[0].extract(carrier)) if modules else None
    try:
        yield
    finally:
        if modules:
            modules[1].detach(attached)
        _current.reset(token)
