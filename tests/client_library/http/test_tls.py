"""The library's own connections over TLS."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from ojs_client.http.connections import NotSent
from tests.client_library.http.served import (
    LIMIT_S,
    REPLY,
    REQUEST,
    SURPLUS,
    HangsUp,
    Served,
    Stream,
    reply,
)
from tests.support.certificates import Certificates


def of_server(certificates: Certificates) -> ssl.SSLContext:
    """TLS settings of a server on 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = certificates.files
    context.load_cert_chain(files / "server.crt", files / "server.key")
    return context


def test_requests_share_a_connection_over_tls(run: Any, certificates: Certificates) -> None:
    async def scenario() -> None:
        served = Served(reply, of_server(certificates))
        async with served.running(certificates.client()) as pool:
            for _ in range(3):
                assert (await pool.exchange(REQUEST, LIMIT_S)).body == b"{}"
            assert (served.connected, len(served.requests)) == (1, 3)

    run(scenario)


def test_bytes_after_a_response_end_a_connection_over_tls(
    run: Any, certificates: Certificates
) -> None:
    sent = anyio.Event()

    async def reply_twice(stream: Stream, number: int) -> None:
        """Send two records at once."""
        stream.extra(TLSAttribute.ssl_object).write(REPLY)  # noqa: S610 - no Django
        await stream.send(SURPLUS)
        sent.set()

    async def scenario() -> None:
        served = Served(reply_twice, of_server(certificates))
        async with served.running(certificates.client()) as pool:
            for _ in range(2):
                assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
                await sent.wait()
            assert served.connected == 2

    run(scenario)


def test_a_handshake_that_the_server_ends_has_sent_nothing(
    run: Any, certificates: Certificates
) -> None:
    async def scenario() -> None:
        async with HangsUp(reply).running(certificates.client()) as pool:
            with pytest.raises(NotSent, match="closed the connection"):
                await pool.exchange(REQUEST, LIMIT_S)

    run(scenario)


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_of_another_server_is_refused(
    run: Any, certificates: Certificates, wrong: str
) -> None:
    async def scenario() -> None:
        served = Served(reply, of_server(certificates))
        client = certificates.client()
        if wrong == "authority":
            client = ssl.create_default_context()
        host = "localhost" if wrong == "name" else "127.0.0.1"
        async with served.running(client, host) as pool:
            with pytest.raises(NotSent, match="certificate verify failed"):
                await pool.exchange(REQUEST, LIMIT_S)
            assert served.requests == []

    run(scenario)
