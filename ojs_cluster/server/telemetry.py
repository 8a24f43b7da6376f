"""Start the export of traces, and send the last traces within the shutdown time.

Only ``otlp`` imports OpenTelemetry. This module imports ``otlp`` only when traces are switched on,
because OpenTelemetry may not be installed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.server.config.settings import ListenSettings, TelemetrySettings
from ojs_cluster.server.supervision.child_process import ChildProcess, StartRefused

if TYPE_CHECKING:
    from ojs_cluster.http.tracing.request_spans import OtelTracing

log = logging.getLogger("ojs.traces")

_PACKAGES: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto")
_MAX_FLUSH_S: Final = 5.0


def problem(telemetry: TelemetrySettings) -> str | None:
    """Return why traces cannot be sent although they are switched on; None otherwise."""
    if not telemetry.enabled or all(map(_is_installed, _PACKAGES)):
        return None
    return (
        "OJS_OTEL_ENABLED, OJS_OTEL_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and "
        "OpenTelemetry is not installed: run pip install 'ojs-cluster[otel]'"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # the parent package is not installed either
        return False


@asynccontextmanager
async def tracing(child: ChildProcess) -> AsyncIterator[OtelTracing | None]:
    """Yield the object that creates spans, or None if traces are off.

    At the end, send the remaining spans within the shutdown time.

    Raises:
        StartRefused: OpenTelemetry refuses the value of one of its variables.
    """
    telemetry = child.settings.telemetry
    if not telemetry.enabled:
        yield None
        return
    from ojs_cluster.server.otlp import TraceExport

    try:
        trace_export = TraceExport(telemetry, child.settings.listen, instance=child.name)
    except Exception as error:
        raise StartRefused(f"OpenTelemetry cannot be set up: {error}") from error
    shutdown = _ShutdownDeadline(child.settings.listen)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shutdown.start_at, child.stop)
            yield trace_export.tracing
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(shutdown.flush_timeout_s(), shield=True) as flush:
            await trio.to_thread.run_sync(trace_export.close, abandon_on_cancel=True)
        if flush.cancelled_caught:
            log.warning("the last traces could not be sent in time")


class _ShutdownDeadline:
    """The time by which the last traces must be sent."""

    def __init__(self, listen: ListenSettings) -> None:
        # At the end of the shutdown timeout the supervisor kills the process. The last twentieth
        # of the timeout is kept to close the connections to Redis.
        self._allowed_s = listen.shutdown_delay_s + listen.shutdown_timeout_s * 0.95
        self._deadline: float | None = None

    async def start_at(self, stop: trio.Event) -> None:
        """Start the time when ``stop`` is set."""
        await stop.wait()
        self._deadline = trio.current_time() + self._allowed_s

    def flush_timeout_s(self) -> float:
        """Return the maximum time for sending the last traces, in seconds."""
        if self._deadline is None:  # an error, not a stop signal, ends the process
            return 1.0
        return min(max(self._deadline - trio.current_time(), 0.0), _MAX_FLUSH_S)
