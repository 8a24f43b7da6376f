"""What is used of hypercorn beyond its documentation: an upgrade that changes it fails here.

Connections are handed to its `TCPServer` by our own accept loop, and the fast lane hands it a
stream of which some bytes have been read.
"""

from __future__ import annotations

import inspect
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from ojs_cluster.server.config.load import load
from ojs_cluster.server.http.resumed_streams import ResumedStream, ResumedTlsStream
from ojs_cluster.server.tls import make_context
from tests.server.test_send_timeouts import requests
from tests.support.certificates import Certificates

USED_OF_A_STREAM = {"socket", "receive_some", "send_all", "send_eof", "aclose"}


def test_signatures() -> None:
    def parameters(function: Any) -> list[str]:
        return [*inspect.signature(function).parameters]

    assert parameters(TCPServer) == ["app", "config", "context", "state", "stream"]
    assert hasattr(TCPServer, "__await__")
    assert parameters(WorkerContext) == ["max_requests"]
    assert parameters(Lifespan)[:3] == ["app", "config", "state"]
    assert parameters(wrap_app) == ["app", "wsgi_max_body_size", "mode"]
    assert ConnectionState({}) == {}


class _Looked(ResumedStream):
    """Notes what it is asked for."""

    def __init__(self, stream: trio.SocketStream, read: bytes) -> None:
        self.asked: set[str] = set()
        super().__init__(stream, read)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "asked":
            self.asked.add(name)
        return super().__getattribute__(name)


async def test_the_stream_is_used_as_we_think() -> None:
    """Also that a stream without `do_handshake` is taken for one without TLS."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (scope["scheme"], scope["path"]) == ("http", "/a")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    context = WorkerContext(None)
    assert not context.terminated.is_set()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        server = await listener.accept()
        request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        stream = _Looked(server, request[:20])
        stream.asked.clear()
        await client.send_all(request[20:])
        with trio.fail_after(60):
            resumed: Any = stream
            await TCPServer(
                wrap_app(app, 0, "asgi"), Config(), context, ConnectionState({}), resumed
            )
            received = b"".join([piece async for piece in client])
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"served" in received
    assert stream.asked - {"do_handshake"} == USED_OF_A_STREAM


async def test_a_stream_with_tls_is_used_as_we_think(certificates: Certificates) -> None:
    """Hypercorn detects TLS by `do_handshake`, and uses only what `ResumedTlsStream` has."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (scope["scheme"], scope["path"]) == ("https", "/a")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    class Looked(ResumedTlsStream):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_"):
                asked.add(name)
            return super().__getattribute__(name)

    asked: set[str] = set()
    request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    tls = make_context(load(certificates.env).listen)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as plain:
        client = trio.SSLStream(
            plain, certificates.client(), server_hostname="127.0.0.1", https_compatible=True
        )
        accepted = trio.SSLStream(
            await listener.accept(), tls, server_side=True, https_compatible=True
        )
        received = b""

        async def converse() -> None:
            nonlocal received
            await client.send_all(request[20:])
            received = b"".join([piece async for piece in client])

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(converse)
                await accepted.do_handshake()
                stream: Any = Looked(accepted, request[:20])
                asked.clear()
                served = wrap_app(app, 0, "asgi")
                context = WorkerContext(None)
                await TCPServer(served, Config(), context, ConnectionState({}), stream)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"served" in received
    # That there is none of these is what it copes with, and does without.
    assert asked - {"send_eof"} == {
        *("do_handshake", "selected_alpn_protocol", "transport_stream"),
        *("receive_some", "send_all", "aclose"),
    }


async def test_terminated_ends_idle_connections() -> None:
    context = WorkerContext(None)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        server: Any = await listener.accept()

        async def never(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError("nothing was asked for")

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    app = wrap_app(never, 0, "asgi")
                    await TCPServer(app, Config(), context, ConnectionState({}), server)

                nursery.start_soon(serve)
                await trio.testing.wait_all_tasks_blocked()
                await context.terminated.set()
                assert await client.receive_some(1) == b""


async def test_a_send_over_http2_waits_for_its_client_and_may_be_given_up() -> None:
    """Permanently: so ``send_timeouts`` cancels it, and closes the stream to end the rest."""
    given_up = trio.CancelScope()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["http_version"] == "2"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with given_up:
            await send({"type": "http.response.body", "body": b"x"})

    config = Config()
    config.keep_alive_timeout = 0.1
    _, opening = requests(window=0, streams=1)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        server: Any = await listener.accept()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    wrapped = wrap_app(app, 0, "asgi")
                    context = WorkerContext(None)
                    await TCPServer(wrapped, config, context, ConnectionState({}), server)

                nursery.start_soon(serve)
                await client.send_all(opening)
                await client.receive_some()
                await trio.sleep(10 * config.keep_alive_timeout)
                assert not given_up.cancelled_caught
                given_up.cancel()
                await trio.aclose_forcefully(server)
    assert given_up.cancelled_caught


async def test_a_resumed_stream_gives_first_what_was_read() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        stream = ResumedStream(await listener.accept(), b"abcde")
        assert await stream.receive_some(2) == b"ab"
        assert await stream.receive_some() == b"cde"
        await client.send_all(b"f")
        assert await stream.receive_some(10) == b"f"
        await stream.aclose()
