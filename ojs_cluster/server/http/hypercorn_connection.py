"""One hypercorn connection with limits that hypercorn does not have.

hypercorn creates its protocol objects itself. ``BoundedServer`` wraps each of them in a
``_BoundedProtocol``, which receives all bytes before hypercorn does. It adds:

* HTTP/2 is served only if TLS negotiated it, or if the operator allows it without TLS
  (``OJS_H2C``). Otherwise ``Upgrade: h2c`` is ignored, as RFC 9110, section 7.8, permits.
* The size of a request's HTTP/2 headers is limited while HPACK decodes them. h2 applies its own
  limit only after the client has acknowledged it, and an attacker does not acknowledge it. Without
  a limit, 57 bytes that repeat a long value decode to 58 KB.
* Frames that carry no work have a budget (``frame_budget``). A connection is closed after too many
  requests that were refused because they had no valid API key.
* A malformed request ends only its own stream. Other requests of the connection continue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Final

import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.typing import AppWrapper
from hyperframe.exceptions import HyperframeError

from ojs_cluster.http.hypercorn.asgi import TLS_SUBJECT
from ojs_cluster.http.request_body.memory import BodyReservation
from ojs_cluster.server.http.frame_budget import FrameBudget
from ojs_cluster.server.http.http2_protocol import (
    MAX_HEADERS_BYTES,
    AdmitsHeaders,
    Http2Protocol,
)
from ojs_cluster.server.http.hypercorn_internals import (
    Closed,
    Event,
    H2CProtocolRequiredError,
    H2Protocol,
    H2ProtocolAssumedError,
    H11Protocol,
    HypercornConnection,
    ProtocolWrapper,
    RawData,
    WorkerContext,
    WSStream,
    ignore_upgrades,
)

_CHUNK_BYTES_WITHOUT_KEY: Final = 1024
"""Number of bytes that h2 decodes at a time before the first request with a valid API key."""
_BODY_MEMORY_USED_UP: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
"""The HTTP/1.1 response when the body memory budget has no memory for an incomplete head. It is
fixed, because the path and the headers of the request are not known yet."""
AdmitsRequest = Callable[[bytes, bytes | None, str, bytes | None], bool]
"""A function that returns whether a request passes the check of API keys.

Its arguments are the raw path; the Authorization header, or None; the subject of the client's
certificate, or an empty string; the origin of a CORS preflight, or None for any other request. It
must be cheap, because it runs before all other work for a request.
"""


class _ConnectionContext(WorkerContext):
    """hypercorn's state of the process, with a ``sleep`` that ends with its connection.

    Between two pings of a WebSocket, hypercorn sleeps, and then checks whether the connection still
    exists. A closed connection would count against the limits, and delay a drain, until then.
    """

    def __init__(self, shared: WorkerContext) -> None:
        super().__init__(shared.max_requests)
        self.terminate, self.terminated = shared.terminate, shared.terminated
        self.closed = trio.Event()

    async def sleep(self, wait: float) -> None:  # type: ignore[override]
        if self.closed.is_set():  # the caller does not check, so do not let it run in a loop
            await trio.sleep(wait)
            return
        with trio.move_on_after(wait):
            await self.closed.wait()


class BoundedServer(HypercornConnection):
    """hypercorn's server of one connection, with ``_BoundedProtocol`` around its protocol."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: Any,
        *,
        h2c: bool,
        admits: AdmitsRequest,
        reservation: BodyReservation,
        tls_subject: str = "",
    ) -> None:
        """Serve ``app`` on ``stream``.

        Args:
            app: the application.
            config: the configuration of hypercorn.
            context: hypercorn's state of this process.
            stream: the stream to read requests from and write responses to.
            h2c: whether to allow HTTP/2 without TLS.
            admits: the check of API keys; see ``AdmitsRequest``.
            reservation: the part of the body memory budget that counts the bytes of incomplete
                heads. The caller releases it.
            tls_subject: the subject of the client's verified certificate; empty without one.
        """
        self._tls_subject = tls_subject
        self._context = _ConnectionContext(context)
        super().__init__(self._counting(app), config, self._context, stream)
        self._h2c = h2c
        self._admits = admits
        self._reservation = reservation
        self._bounded: _BoundedProtocol | None = None

    @property
    def protocol(self) -> Any:
        """The object to which hypercorn passes received bytes."""
        return self._bounded

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        self._bounded = _BoundedProtocol(
            wrapper,
            h2c=self._h2c,
            admits=self._admits_headers,
            reservation=self._reservation,
            closed=self._context.closed,
        )

    def _admits_headers(
        self, path: bytes, authorization: bytes | None, preflight_origin: bytes | None
    ) -> bool:
        return self._admits(path, authorization, self._tls_subject, preflight_origin)

    @property
    def idle_since(self) -> float:
        """End of the last request, in seconds of trio's clock; infinity while a request runs."""
        return inf if self._bounded is None else self._bounded.idle_since

    @property
    def head_since(self) -> float:
        """Start of the incomplete HTTP/1 head, in seconds of trio's clock; infinity without one."""
        return inf if self._bounded is None else self._bounded.head_since

    @property
    def is_http2(self) -> bool:
        """Whether the connection speaks HTTP/2."""
        return self._bounded is not None and self._bounded.is_http2

    def _counting(self, app: AppWrapper) -> AppWrapper:
        """Return ``app`` with each of its calls counted as a running request."""

        async def counting_app(
            scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            if self._tls_subject:
                scope = {**scope, TLS_SUBJECT: self._tls_subject}
            bounded = self._bounded
            assert bounded is not None  # noqa: S101 - the protocol calls the application
            if scope.get("http_version") == "2":
                send = partial(bounded.send, send)
            if scope["type"] == "websocket":
                bounded.refuse_compression()
            with bounded.count_request():
                await app(scope, receive, send, sync_spawn, call_soon)

        return counting_app


class _BoundedProtocol:
    """The protocol of one connection: HTTP/2, or HTTP/1.1 that may be upgraded to HTTP/2.

    Args:
        wrapper: hypercorn's object for the connection. Its ``protocol`` is replaced when the
            connection is upgraded to HTTP/2.
        h2c: whether to allow HTTP/2 without TLS.
        admits: the check of API keys.
        reservation: the part of the body memory budget that counts incomplete heads.
        closed: is set when the connection is closed and its streams know it.
    """

    def __init__(
        self,
        wrapper: ProtocolWrapper,
        *,
        h2c: bool,
        admits: AdmitsHeaders,
        reservation: BodyReservation,
        closed: trio.Event,
    ) -> None:
        self._wrapper = wrapper
        self._admits = admits
        self._reservation = reservation
        self._closed = closed
        self._head_bytes = 0
        self._frame_budget = FrameBudget(trio.current_time())
        self._became_idle_at = trio.current_time()
        self._running_requests = 0
        self.head_since = inf
        if isinstance(wrapper.protocol, H2Protocol):
            wrapper.protocol = self._make_http2_protocol()
        elif not h2c:
            ignore_upgrades(wrapper.protocol)

    @property
    def is_http2(self) -> bool:
        return isinstance(self._wrapper.protocol, H2Protocol)

    @property
    def idle_since(self) -> float:
        return self._became_idle_at if self._is_idle() else inf

    @contextmanager
    def count_request(self) -> Iterator[None]:
        """Count a request until its handler has ended.

        A handler may end later than its stream: a write continues after its client disconnects.
        """
        self._running_requests += 1
        self.head_since = inf
        try:
            yield
        finally:
            self._running_requests -= 1
            self._became_idle_at = trio.current_time()

    def refuse_compression(self) -> None:
        """Accept no permessage-deflate for WebSockets whose handshake is not complete.

        hypercorn accepts it from every client. Its state takes 300 KB per connection, and a small
        message may decompress to any size before hypercorn checks its length.
        """
        protocol = self._wrapper.protocol
        streams: list[Any] = []
        if isinstance(protocol, H2Protocol):
            streams += protocol.streams.values()
        else:
            streams.append(protocol.stream)
        for stream in streams:
            if isinstance(stream, WSStream) and not stream.handshake.accepted:
                stream.handshake.extensions = None

    async def initiate(self) -> None:
        await self._wrapper.initiate()

    async def handle(self, event: Event) -> None:
        was_idle = self._is_idle()
        if not isinstance(event, RawData) or not event.data:
            await self._wrapper.handle(event)
            if isinstance(event, Closed):
                self._closed.set()
        elif isinstance(self._wrapper.protocol, H2Protocol):
            await self._handle_http2(event.data)
        else:
            await self._handle_http1(event)
            if isinstance(self._wrapper.protocol, H11Protocol) and self._is_idle():
                self.head_since = min(self.head_since, trio.current_time())
                self._head_bytes += len(event.data)
            else:
                self.head_since = inf
                self._head_bytes = 0
        if isinstance(event, RawData) and event.data:
            await self._reserve_head_memory()
        else:
            # The client sends nothing more. hypercorn may keep the connection open for a response.
            self._reservation.release()
        if self._is_idle() and not was_idle:
            self._became_idle_at = trio.current_time()

    async def _reserve_head_memory(self) -> None:
        """Count the bytes of an incomplete head; close the connection if the budget is exceeded."""
        size = self._frame_budget.buffered if self.is_http2 else self._head_bytes
        if self._reservation.reserve(size, complete=not size):
            return
        if isinstance(self._wrapper.protocol, Http2Protocol):
            await self._wrapper.protocol.end(ErrorCodes.ENHANCE_YOUR_CALM)
        else:
            await self._wrapper.send(RawData(_BODY_MEMORY_USED_UP))
            await self._wrapper.send(Closed())

    async def send(self, send: Callable[[Any], Any], message: Any) -> None:
        """Send a message of the application over HTTP/2.

        A response other than 401 adds to the frame budget, because its request was admitted.
        """
        if message["type"] == "http.response.start" and message["status"] != 401:
            self._frame_budget.earn_request()
        await send(message)

    def _is_idle(self) -> bool:
        if self._running_requests:
            return False
        protocol = self._wrapper.protocol
        if isinstance(protocol, H2Protocol):
            return not protocol.streams
        return protocol.stream is None

    async def _handle_http1(self, event: RawData) -> None:
        """Handle received bytes as hypercorn does, but upgrade to ``Http2Protocol``."""
        try:
            await self._wrapper.protocol.handle(event)
        except H2ProtocolAssumedError as upgrade:
            self._wrapper.protocol = protocol = self._make_http2_protocol()
            await protocol.initiate()
            await self._handle_http2(upgrade.data)
        except H2CProtocolRequiredError as upgrade:
            self._wrapper.protocol = protocol = self._make_http2_protocol()
            try:
                await protocol.initiate(upgrade.headers, upgrade.settings)
            except (HyperframeError, ProtocolError, ValueError):
                # The header HTTP2-Settings is not base64, or does not hold settings.
                await self._wrapper.send(Closed())
            else:
                await self._handle_http2(upgrade.data)

    async def _handle_http2(self, data: bytes) -> None:
        """Pass received bytes to hypercorn, in small chunks before the first valid API key.

        h2 decodes all requests of a chunk before the first of them can be refused.
        """
        protocol = self._wrapper.protocol
        start = 0
        while start < len(data) and isinstance(protocol, Http2Protocol) and not protocol.closed:
            size = len(data) if protocol.has_key else _CHUNK_BYTES_WITHOUT_KEY
            chunk = data[start : start + size]
            start += size
            if self._frame_budget.spend(chunk, trio.current_time()):
                await self._wrapper.handle(RawData(chunk))
            else:
                await protocol.end(ErrorCodes.ENHANCE_YOUR_CALM)

    async def _send_raw(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._frame_budget.earn_sent(len(event.data))
        await self._wrapper.send(event)

    def _make_http2_protocol(self) -> H2Protocol:
        wrapper = self._wrapper
        protocol = Http2Protocol(
            self._admits,
            wrapper.app,
            wrapper.config,
            wrapper.context,
            wrapper.task_group,
            wrapper.state,
            wrapper.ssl,
            wrapper.client,
            wrapper.server,
            self._send_raw,
        )
        protocol.connection.decoder.max_header_list_size = MAX_HEADERS_BYTES
        return protocol
