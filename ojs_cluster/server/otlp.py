"""Send traces by OTLP, with OpenTelemetry's SDK and exporters.

Spans wait in a bounded queue for the SDK's thread, which sends them in batches: a request never
waits for the collector. While it is unreachable, spans are lost; the log reports it once a minute.

All further variables of OpenTelemetry (sampling, headers, certificates, batches, the resource) are
read by the SDK itself.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

# gRPC writes its own lines to stderr about errors that the exporter reports too. Must be set before
# its import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ojs_cluster import __version__
from ojs_cluster.http.tracing import OtelTracing
from ojs_cluster.server.config.settings import TelemetrySettings

log = logging.getLogger("ojs.traces")

_QUIET_S: Final = 60.0
_PATH: Final = "/v1/traces"


class Exporting:
    """The exporter of one process, with its thread."""

    def __init__(self, telemetry: TelemetrySettings, *, instance: str) -> None:
        """Start the exporter.

        Args:
            telemetry: where traces go, and how.
            instance: name of this process, such as ``api-0``.

        Raises:
            Exception: the SDK refuses one of its own variables.
        """
        last_warning = _LastWarning()
        library = logging.getLogger("opentelemetry")
        library.addHandler(last_warning)
        library.propagate = False  # a line for each failed attempt, and each for 512 spans at most
        ours = Resource(
            {
                "service.name": "ojs-cluster",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}/{instance}",
            }
        )
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,  # would wait for a collector that is away, at the very end
        )
        exporter = _Reporting(_exporter(telemetry), last_warning)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracing = OtelTracing(self._provider.get_tracer("ojs-cluster", __version__))

    def close(self) -> None:
        """Send the remaining spans and end. Call it in a thread: a slow collector blocks it."""
        self._provider.shutdown()


def _exporter(telemetry: TelemetrySettings) -> SpanExporter:
    if telemetry.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

        return ByGrpc(endpoint=_with_port(telemetry.endpoint) or None)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

    base = telemetry.endpoint.rstrip("/")
    return ByHttp(endpoint=f"{base.removesuffix(_PATH)}{_PATH}" if base else None)


def _with_port(url: str) -> str:
    """Return the URL with its scheme's port if it has none: gRPC would use 443 for http too."""
    parts = urlsplit(url)
    if not url or parts.port is not None:
        return url
    return f"{parts.scheme}://{parts.netloc}:{443 if parts.scheme == 'https' else 80}"


class _LastWarning(logging.Handler):
    """Keeps the last warning of the SDK."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = "no reason given"

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


class _Reporting(SpanExporter):
    """An exporter that logs its failures at most once a minute."""

    def __init__(self, inner: SpanExporter, last_warning: _LastWarning) -> None:
        self._inner = inner
        self._last_warning = last_warning
        self._lost = 0
        self._next_line = time.monotonic()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception as error:
            result = SpanExportResult.FAILURE
            self._last_warning.last = repr(error)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            if time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + _QUIET_S
                log.warning("%d spans could not be sent: %s", self._lost, self._last_warning.last)
                self._lost = 0
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)
