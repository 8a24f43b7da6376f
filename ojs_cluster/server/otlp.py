"""Send traces by OTLP, with OpenTelemetry's SDK and exporters.

Requests put their spans into a bounded queue. A thread of the SDK sends them in batches, so no
request waits for the collector. While the collector is unreachable, spans are lost, and the log
reports the number of lost spans at most once a minute.

The SDK itself reads the other variables of OpenTelemetry (sampling, headers, certificates, batches,
resource attributes).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

# gRPC writes lines to stderr about errors that the exporter also reports. The variable only has an
# effect if it is set before gRPC is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ojs_cluster import __version__
from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.tracing.request_spans import OtelTracing
from ojs_cluster.http.tracing.traced_jobs import OPERATIONS, STABLE_OPERATIONS
from ojs_cluster.server.config.settings import ListenSettings, TelemetrySettings

log = logging.getLogger("ojs.traces")

_WARNING_INTERVAL_S: Final = 60.0
_TRACES_PATH: Final = "/v1/traces"


class TraceExport:
    """The export of traces of one process, with the SDK's thread."""

    def __init__(
        self, telemetry: TelemetrySettings, listen: ListenSettings, *, instance: str
    ) -> None:
        """Start the exporter.

        Args:
            telemetry: endpoint and protocol.
            listen: whether this server serves TLS, and the proxies that it trusts.
            instance: name of this process, such as ``api-0``.

        Raises:
            Exception: the SDK refuses one of its own variables.
        """
        last_warning = _LastWarning()
        library = logging.getLogger("opentelemetry")
        library.addHandler(last_warning)
        # The SDK logs every failed attempt. `_ReportingExporter` logs a summary instead.
        library.propagate = False
        defaults = Resource(
            {
                "service.name": "ojs-cluster",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}/{instance}",
            }
        )
        self._provider = TracerProvider(
            resource=defaults.merge(OTELResourceDetector().detect()),
            # `close` shuts the provider down within a timeout. The SDK's exit handler would wait
            # for an unreachable collector.
            shutdown_on_exit=False,
        )
        exporter = _ReportingExporter(_exporter(telemetry), last_warning)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = self._provider.get_tracer("ojs-cluster", __version__)
        scheme = "https" if listen.tls_cert else "http"
        operations = STABLE_OPERATIONS if telemetry.follows_semconv else OPERATIONS
        proxies = TrustedProxies(listen.trusted_proxies)
        self.tracing = OtelTracing(tracer, scheme, proxies, operations)

    def close(self) -> None:
        """Send the remaining spans and stop the thread.

        Call this in a thread, because a slow collector blocks it.
        """
        self._provider.shutdown()


def _exporter(telemetry: TelemetrySettings) -> SpanExporter:
    if telemetry.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=_with_port(telemetry.endpoint) or None)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    base = telemetry.endpoint.rstrip("/").removesuffix(_TRACES_PATH)
    return HttpExporter(endpoint=f"{base}{_TRACES_PATH}" if telemetry.endpoint else None)


def _with_port(url: str) -> str:
    """Return the URL with a port: 443 for https, 80 for http. gRPC would use 443 for both."""
    parts = urlsplit(url)
    if not url or parts.port is not None:
        return url
    return f"{parts.scheme}://{parts.netloc}:{443 if parts.scheme == 'https' else 80}"


class _LastWarning(logging.Handler):
    """A log handler that keeps only the last warning of the SDK."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = "no reason given"

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


class _ReportingExporter(SpanExporter):
    """An exporter that logs the failures of another exporter at most once a minute."""

    def __init__(self, exporter: SpanExporter, last_warning: _LastWarning) -> None:
        self._exporter = exporter
        self._last_warning = last_warning
        self._lost_spans = 0
        self._next_warning_at = time.monotonic()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            result = SpanExportResult.FAILURE
            self._last_warning.last = repr(error)
        if result is not SpanExportResult.SUCCESS:
            self._lost_spans += len(spans)
            if time.monotonic() >= self._next_warning_at:
                self._next_warning_at = time.monotonic() + _WARNING_INTERVAL_S
                log.warning(
                    "%d spans could not be sent: %s", self._lost_spans, self._last_warning.last
                )
                self._lost_spans = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
