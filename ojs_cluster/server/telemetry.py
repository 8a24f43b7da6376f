"""Start the sending of traces, and flush them within the shutdown time.

Only ``otlp`` imports OpenTelemetry, and only when traces are switched on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.server.config.settings import ListenSettings, TelemetrySettings
from ojs_cluster.server.processes.child_process import ChildProcess, StartRefused

if TYPE_CHECKING:
    from ojs_cluster.http.tracing import OtelTracing

log = logging.getLogger("ojs.traces")

_PACKAGES: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto")
_LONGEST_FLUSH_S: Final = 5.0


def problem(telemetry: TelemetrySettings) -> str | None:
    """Return why the configured traces cannot be sent, or None."""
    if not telemetry.enabled or all(map(_is_installed, _PACKAGES)):
        return None
    return (
        "OJS_OTEL_ENABLED, OJS_OTEL_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and "
        "OpenTelemetry is not installed: pip install 'ojs-cluster[otel]'"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # its parent is missing too
        return False


@asynccontextmanager
async def tracing(child: ChildProcess) -> AsyncIterator[OtelTracing | None]:
    """Yield what makes spans, None when traces are off; send the remaining spans at the end.

    Raises:
        StartRefused: OpenTelemetry does not accept a variable of its own.
    """
    telemetry = child.settings.telemetry
    if not telemetry.enabled:
        yield None
        return
    from ojs_cluster.server.otlp import Exporting

    try:
        exporting = Exporting(telemetry, instance=child.name)
    except Exception as error:
        raise StartRefused(f"OpenTelemetry cannot be set up: {error}") from error
    ending = _ShutdownTime(child.settings.listen)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.watch, child.stop)
            yield exporting.tracing
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(ending.left_s(), shield=True) as flush:
            close = partial(trio.to_thread.run_sync, exporting.close, abandon_on_cancel=True)
            await close()
        if flush.cancelled_caught:
            log.warning("the last traces could not be sent in time")


class _ShutdownTime:
    """The remaining time of the shutdown."""

    def __init__(self, listen: ListenSettings) -> None:
        # The supervisor kills the process at the end of the timeout; it must close Redis before.
        self._allowed_s = listen.shutdown_delay_s + listen.shutdown_timeout_s * 0.95
        self._by: float | None = None

    async def watch(self, stop: trio.Event) -> None:
        """Note when the end begins."""
        await stop.wait()
        self._by = trio.current_time() + self._allowed_s

    def left_s(self) -> float:
        """Return the seconds that sending may take."""
        if self._by is None:  # no stop signal: an error ends the process
            return 1.0
        return min(max(self._by - trio.current_time(), 0.0), _LONGEST_FLUSH_S)
