"""`ojs-cluster serve` with a certificate, as an operator and its clients meet it."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.server.programs import program
from tests.server.test_send_timeouts import requests
from tests.server.test_serve import CLI, OPEN, serve
from tests.support.certificates import Certificates


@pytest.mark.parametrize("lane", ["0", "1"], ids=["hypercorn", "lane"])
def test_a_job_travels_over_tls_through_any_process(
    standalone: Embedded, certificates: Certificates, lane: str
) -> None:
    env = {**certificates.env, "OJS_WORKERS": "2", "OJS_FAST_LANE": lane}
    with serve(standalone.url, **env) as (running, port):
        running.wait_line("ready to serve")
        for http2 in (False, True):
            with client(certificates, port, http2=http2) as api:
                enqueued = api.post("/ojs/v1/jobs", json={"type": "t", "args": [1]})
                assert enqueued.status_code == 201
                assert enqueued.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            # A connection of its own for each: one or the other process answers.
            with client(certificates, port, http2=http2) as api:
                body = {"queues": ["default"], "worker_id": "w"}
                (job,) = api.post("/ojs/v1/workers/fetch", json=body).json()["jobs"]
            with client(certificates, port, http2=http2) as api:
                acked = api.post("/ojs/v1/workers/ack", json={"job_id": job["id"]})
                assert acked.json()["state"] == "completed"
                assert api.get("/ojs/manifest").status_code == 200
        speak_plainly(port)
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
        for word in ("Traceback", '"error"', "unexpected"):
            assert word not in running.output


def client(certificates: Certificates, port: int, *, http2: bool) -> httpx.Client:
    url = f"https://127.0.0.1:{port}"
    return httpx.Client(verify=certificates.client(), http2=http2, base_url=url, timeout=60)


def speak_plainly(port: int) -> None:
    """Send HTTP without TLS: the connection ends, with nothing that looks like HTTP."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            while piece := sock.recv(1000):
                answer += piece
        except ConnectionResetError:
            pass
    assert b"HTTP" not in answer


def test_a_client_that_takes_nothing_is_disconnected_over_tls_too(
    standalone: Embedded, certificates: Certificates
) -> None:
    """Long before the idle timeout, which is two minutes."""
    context = certificates.client()
    context.set_alpn_protocols(["h2"])
    protocol, opening = requests(window=0, streams=1)
    with serve(standalone.url, **certificates.env, OJS_WRITE_TIMEOUT="200ms") as (running, port):
        running.wait_line("ready to serve")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
            # It may be disconnected while it still sends.
            contextlib.suppress(ConnectionError, ssl.SSLError),
        ):
            sock.sendall(opening)
            while data := sock.recv(65_536):
                protocol.receive_data(data)
                sock.sendall(protocol.data_to_send())
        assert get_over_tls(certificates, port, "/live") == 200


def get_over_tls(certificates: Certificates, port: int, path: str) -> int:
    with client(certificates, port, http2=False) as api:
        return api.get(path).status_code


def refused(env: Mapping[str, str]) -> str:
    """What `serve` and `dev` say about it."""
    said = set()
    for command in ("serve", "dev"):
        with program([*CLI, command], env={**OPEN, **env}) as running:
            assert running.wait_exit() == 2
            said.add(running.output)
    (one,) = said
    assert one.count("\n") == 2, "one clear line, and where to read on"
    return one


def test_wrong_certificates_are_refused_at_start_in_one_line(
    certificates: Certificates, tmp_path: Path
) -> None:
    cert, key = certificates.env["OJS_TLS_CERT"], certificates.env["OJS_TLS_KEY"]
    for alone in ({"OJS_TLS_CERT": cert}, {"OJS_TLS_KEY": key}):
        assert "OJS_TLS_CERT and OJS_TLS_KEY: set both or neither" in refused(alone)
    ca = {"OJS_TLS_CLIENT_CA": str(certificates.files / "ca.crt")}
    assert "only with OJS_TLS_CERT and OJS_TLS_KEY" in refused(ca)
    away = str(tmp_path / "away.pem")
    assert f"OJS_TLS_CERT={away!r}: cannot be read" in refused(
        {**certificates.env, "OJS_TLS_CERT": away}
    )
    other = str(certificates.files / "client.key")
    said = refused({**certificates.env, "OJS_TLS_KEY": other})
    assert cert in said
    assert other in said


def test_a_scheduler_needs_no_certificate(standalone: Embedded) -> None:
    """One set of variables may serve all commands, though the files are where the API is."""
    env = {"OJS_TLS_CERT": "/no/such.pem", "OJS_TLS_KEY": "/no/such.key"}
    with program([*CLI, "scheduler"], env={"REDIS_URL": standalone.url, **env}) as running:
        running.wait_line("leading")
