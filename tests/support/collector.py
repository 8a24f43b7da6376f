"""A trace collector on loopback that receives OTLP over gRPC or HTTP and keeps the spans."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.servers import wait_until


@dataclass(slots=True)
class Collector:
    """The received spans. ``env`` has the variables of a server that exports to this collector."""

    env: dict[str, str]
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for group in request.resource_spans:
                self.resources.append(values(group.resource.attributes))
                for scope in group.scope_spans:
                    self.spans.extend(scope.spans)

    def wait_for(self, name: str, count: int = 1) -> list[Span]:
        """Wait until this many spans of a name have arrived."""

        def found() -> list[Span]:
            with self._lock:
                return [span for span in self.spans if span.name == name]

        wait_until(lambda: len(found()) >= count, timeout_s=60, what=f"{count} spans {name!r}")
        return found()


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def collector(protocol: str) -> Iterator[Collector]:
    """Run a collector until the block ends; ``protocol`` as in OTEL_EXPORTER_OTLP_PROTOCOL."""
    with (_by_grpc if protocol == "grpc" else _by_http)() as running:
        yield running


@contextlib.contextmanager
def _by_grpc() -> Iterator[Collector]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        found = Collector({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})

        class Service(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(
                self, request: ExportTraceServiceRequest, context: Any
            ) -> ExportTraceServiceResponse:
                found.take(request)
                return ExportTraceServiceResponse()

        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(Service(), server)
        server.start()
        try:
            yield found
        finally:
            server.stop(None).wait()


@contextlib.contextmanager
def _by_http() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            found.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(
            {
                "OJS_OTEL_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            }
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
