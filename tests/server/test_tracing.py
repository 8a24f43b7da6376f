"""Traces as a collector gets them from `ojs-cluster serve`, and one that gets none."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ojs_cluster import __version__
from ojs_cluster.server.embedded.servers import Embedded
from tests.server.programs import clean_environment, free_port, program
from tests.server.test_serve import OPEN, serve
from tests.support.collector import Collector, collector, values

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PRODUCER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}


@pytest.fixture(params=["grpc", "http/protobuf"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Collector]:
    with collector(request.param) as running:
        yield running


@pytest.mark.parametrize(
    ("lane", "opted_in", "enqueues"),
    [("0", "", "publish"), ("1", "http, messaging", "send")],
    ids=["hypercorn", "lane"],
)
def test_a_jobs_way_is_seen_by_a_collector(
    standalone: Embedded, receiver: Collector, lane: str, opted_in: str, enqueues: str
) -> None:
    chosen = {"OJS_FAST_LANE": lane, "OTEL_SEMCONV_STABILITY_OPT_IN": opted_in}
    with serve(standalone.url, **receiver.env, **SOON, **chosen) as (running, port):
        running.wait_line("ready to serve")
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as api:
            new = {"type": "a.b", "args": [], "options": {"queue": "q1", "priority": 5}}
            new["meta"] = {"traceparent": PRODUCER, "other": {"x": [1]}}
            job = api.post("/ojs/v1/jobs?secret=1", json=new).json()["job"]
            body = {"queues": ["q1"], "worker_id": "w"}
            api.post("/ojs/v1/workers/fetch", json=body)
            error = {"message": "no", "type": "E"}
            nacked = {"job_id": job["id"], "worker_id": "w", "requeue": True, "error": error}
            assert api.post("/ojs/v1/workers/nack", json=nacked).status_code == 200
            api.post("/ojs/v1/workers/fetch", json=body)
            assert api.post(f"/ojs/v1/jobs/{job['id']}/ack").status_code == 200
        httpx.get(f"http://127.0.0.1:{port}/live", timeout=60)

        (enqueue,) = receiver.wait_for("q1 enqueue")
        (fetch, again) = receiver.wait_for("q1 fetch", 2)
        (nack,) = receiver.wait_for("q1 nack")
        (ack,) = receiver.wait_for("q1 ack")
        (request,) = receiver.wait_for("POST /ojs/v1/jobs")
        (by_path,) = receiver.wait_for("POST /ojs/v1/jobs/{id}/ack")
        (alone,) = receiver.wait_for("GET /live")

    assert request.kind == Span.SPAN_KIND_SERVER
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert values(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/ojs/v1/jobs",
        "http.response.status_code": 201,
        "url.path": "/ojs/v1/jobs",
        "url.scheme": "http",
        "ojs.request.id": "mine",
    }
    assert values(by_path.attributes)["url.path"] == f"/ojs/v1/jobs/{job['id']}/ack"
    assert alone.parent_span_id == b""
    assert alone.trace_id.hex() != TRACE

    assert (enqueue.trace_id, enqueue.parent_span_id) == (request.trace_id, request.span_id)
    assert ack.parent_span_id == by_path.span_id
    assert [span.kind for span in (enqueue, fetch, nack, ack)] == [
        Span.SPAN_KIND_PRODUCER,
        Span.SPAN_KIND_CONSUMER,
        Span.SPAN_KIND_INTERNAL,
        Span.SPAN_KIND_INTERNAL,
    ]
    told = values(enqueue.attributes)
    assert told.pop("messaging.message.body.size") > 50
    assert told == {
        "messaging.system": "ojs",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": enqueues,
        "messaging.destination.name": "q1",
        "messaging.message.id": job["id"],
        "ojs.job.id": job["id"],
        "ojs.job.type": "a.b",
        "ojs.job.queue": "q1",
        "ojs.job.state": "available",
        "ojs.job.attempt": 0,
        "ojs.job.priority": 5,
    }
    for span, state, attempt in (
        (fetch, "active", 1),
        (nack, "available", 1),
        (again, "active", 2),
        (ack, "completed", 2),
    ):
        told = values(span.attributes)
        assert told["ojs.job.id"] == job["id"]
        assert (told["ojs.job.state"], told["ojs.job.attempt"]) == (state, attempt)
        assert span.status.code == Status.STATUS_CODE_OK
        (link,) = span.links
        assert f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" == PRODUCER
    assert values(fetch.attributes)["ojs.worker.id"] == "w"
    resource = receiver.resources[0]
    assert (resource["service.name"], resource["service.version"]) == ("ojs-cluster", __version__)
    assert resource["service.instance.id"].endswith("/api-0")


def test_variables_of_opentelemetry_itself_hold(standalone: Embedded) -> None:
    with collector("grpc") as receiver:
        env = {"OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
        with serve(standalone.url, **receiver.env, **SOON, **env) as (running, port):
            running.wait_line("ready to serve")
            url = f"http://127.0.0.1:{port}/live"
            httpx.get(url, timeout=60)
            httpx.get(url, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}, timeout=60)
            (span,) = receiver.wait_for("GET /live")
        assert span.trace_id.hex() == TRACE
        assert receiver.resources[0]["service.name"] == "mine"


def test_a_drain_sends_what_is_left(standalone: Embedded, receiver: Collector) -> None:
    # The first batch opens the connection to the collector. A drain has seconds for the last one,
    # which are too few on a busy machine if it has to begin with the connection.
    env = {**NEVER, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    with serve(standalone.url, **receiver.env, **env) as (running, port):
        running.wait_line("ready to serve")
        for _ in range(4):
            httpx.get(f"http://127.0.0.1:{port}/live", timeout=60)
        receiver.wait_for("GET /live", 4)
        for _ in range(3):
            httpx.get(f"http://127.0.0.1:{port}/live", timeout=60)
        assert len(receiver.spans) == 4
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    assert len(receiver.spans) == 7


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@contextlib.contextmanager
def nowhere() -> Iterator[int]:
    """Return a port without a listener."""
    yield free_port()


@pytest.mark.parametrize("away", [nowhere, mute])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_that_is_away_harms_nothing(
    standalone: Embedded, away: contextlib.AbstractContextManager[int], protocol: str
) -> None:
    with away() as port_away:  # type: ignore[operator] # a parameter of pytest
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port_away}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            # Many batches, and a queue that is soon full.
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        }
        with serve(standalone.url, **env) as (running, port):
            running.wait_line("ready to serve")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:
                for _ in range(100):
                    new = {"type": "t", "args": []}
                    assert api.post("/ojs/v1/jobs", json=new).status_code == 201
                running.wait_line("spans could not be sent")
                for _ in range(100):
                    assert api.get("/live").status_code == 200
            running.signal(signal.SIGTERM)
            assert running.wait_exit() == 0
        assert running.output.count("spans could not be sent") == 1
        assert "Traceback" not in running.output
        assert all(line.startswith("{") for line in running.output.splitlines())


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from ojs_cluster.cli import main; "


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_missing_package_is_named(command: str) -> None:
    run = f"{WITHOUT} sys.argv = ['ojs-cluster', {command!r}]; sys.exit(main())"
    with program(["-c", run], env={**OPEN, "OJS_OTEL_ENABLED": "true"}) as running:
        assert running.wait_exit() == 2
        assert "pip install 'ojs-cluster[otel]'" in running.output
        assert "Traceback" not in running.output


def test_a_variable_that_opentelemetry_refuses_ends_the_command(standalone: Embedded) -> None:
    with serve(standalone.url, OJS_OTEL_ENABLED="true", OTEL_EXPORTER_OTLP_TIMEOUT="soon") as (
        running,
        _,
    ):
        assert running.wait_exit() == 2
        assert "OpenTelemetry cannot be set up" in running.output
        assert "Traceback" not in running.output


def test_nothing_that_sends_traces_is_loaded_unless_it_is_asked_for() -> None:
    """redis-py loads parts of OpenTelemetry that are for metrics wherever it is installed."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, ojs_cluster.cli, ojs_cluster.server.processes.api_process, "
            "ojs_cluster.server.processes.scheduler_process; print(*sys.modules)",
        ],
        env=clean_environment({}),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "ojs_cluster.http.dispatch" in loaded
    for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter", "grpc", "google.protobuf"):
        assert name not in loaded
    assert not {"ojs_cluster.http.tracing.request_spans", "ojs_cluster.server.otlp"} & set(loaded)


def test_a_scheduler_takes_the_variables_and_needs_no_package(standalone: Embedded) -> None:
    run = f"{WITHOUT} sys.argv = ['ojs-cluster', 'scheduler']; sys.exit(main())"
    env = {"REDIS_URL": standalone.url, "OJS_OTEL_ENDPOINT": "http://127.0.0.1:1"}
    with program(["-c", run], env=env) as running:
        running.wait_line("leading")
