"""One hypercorn connection with limits that hypercorn does not have.

hypercorn builds its protocols itself; ``BoundedServer`` puts a ``_BoundedProtocol`` around what it
builds, which sees all that is received before hypercorn does. What it adds:

* HTTP/2 only where it was negotiated by TLS, or where the operator wants it in clear text
  (``OJS_H2C``). An ``Upgrade: h2c`` is ignored otherwise, as RFC 9110 7.8 lets a server do.
* The list of a request's HTTP/2 headers is bounded while it is unpacked. h2 takes the bound from
  the settings only when the client has acknowledged them, which an attacker leaves out: 57 bytes
  that refer back to a long value became 58 KB each.
* A budget of frames that ask for no work (``frame_budget``), and an end for a connection whose
  requests are refused again and again for want of a key.
* A malformed request ends its own stream, not its connection with all that others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import Any, Final, TypeGuard

import trio
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import Event as H2Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.utilities import HeaderValidationFlags, validate_headers
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hyperframe.exceptions import HyperframeError

from ojs_cluster.http.body_memory import BodyReservation
from ojs_cluster.http.hypercorn.asgi import TLS_SUBJECT
from ojs_cluster.server.http.body_lengths import BodyLengths
from ojs_cluster.server.http.frame_budget import FrameBudget

MOST_HEADERS_BYTES: Final = 16_384
"""Of one HTTP/2 request, counted as HPACK does: names, values and 32 bytes for each."""
MOST_STREAMS: Final = 100
_MOST_REFUSED: Final = 8
"""Requests of one HTTP/2 connection that may be refused for want of a key, until one had a key: a
proxy sends the requests of many clients on one connection, and one of them must not end it."""
_MOST_WITHOUT_KEY: Final = 8
"""Requests that may be under way on an HTTP/2 connection until one had a key: each may hold its
head for as long as its body, or the room for its answer, takes to come."""
_PIECE_WITHOUT_KEY: Final = 1024
_NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
"""The answer to a head that is not complete yet, so that nothing is known of its request."""
Admits = Callable[[bytes, bytes | None, str, bytes | None], bool]
"""Whether a raw path may be asked for with this Authorization header, None for none, this subject
of a certificate, empty for none, and this origin of a preflight, None for other requests. Cheap:
asked before anything else is done for a request.
"""
_AdmitsRequest = Callable[[bytes, bytes | None, bytes | None], bool]
_REQUEST: Final = HeaderValidationFlags(
    is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
)
_SETTINGS: Final = frozenset(SettingCodes)


class BoundedServer(TCPServer):
    """hypercorn's server of one connection, with our protocol in the place of its own."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: Any,
        *,
        h2c: bool,
        admits: Admits,
        reservation: BodyReservation,
        tls_subject: str = "",
    ) -> None:
        """Serve ``app`` on ``stream``.

        Args:
            app: the application.
            config: hypercorn's.
            context: hypercorn's.
            stream: what the connection is read from and written to.
            h2c: speak HTTP/2 in clear text as well.
            admits: see ``Admits``.
            reservation: where bytes of incomplete heads are counted. The caller releases it.
            tls_subject: of the client's verified certificate, empty for none.
        """
        self._tls_subject = tls_subject
        super().__init__(self._counted(app), config, context, ConnectionState({}), stream)
        self._h2c = h2c
        self._admits = admits
        self._reservation = reservation
        self._bounded: _BoundedProtocol | None = None

    @property
    def protocol(self) -> Any:
        """The object that hypercorn passes received bytes to."""
        return self._bounded

    @protocol.setter
    def protocol(self, built: ProtocolWrapper) -> None:
        self._bounded = _BoundedProtocol(
            built, h2c=self._h2c, admits=self._admits_request, reservation=self._reservation
        )

    def _admits_request(
        self, path: bytes, authorization: bytes | None, preflight_origin: bytes | None
    ) -> bool:
        return self._admits(path, authorization, self._tls_subject, preflight_origin)

    @property
    def idle_since(self) -> float:
        """When the last request ended, in seconds of trio's clock; infinity during one."""
        return inf if self._bounded is None else self._bounded.idle_since

    @property
    def head_since(self) -> float:
        """Since when an incomplete HTTP/1 head has been arriving; infinity when none is."""
        return inf if self._bounded is None else self._bounded.head_since

    @property
    def is_http2(self) -> bool:
        """Whether the connection speaks HTTP/2."""
        return self._bounded is not None and self._bounded.is_http2

    def _counted(self, app: AppWrapper) -> AppWrapper:
        async def counted(
            scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            if self._tls_subject:
                scope = {**scope, TLS_SUBJECT: self._tls_subject}
            bounded = self._bounded
            assert bounded is not None  # noqa: S101 - it is what calls the application
            if scope.get("http_version") == "2":
                send = partial(bounded.send, send)
            with bounded.under_way():
                await app(scope, receive, send, sync_spawn, call_soon)

        return counted


class _BoundedProtocol:
    """The protocol of one connection: HTTP/1.1 first, or HTTP/2."""

    def __init__(
        self,
        built: ProtocolWrapper,
        *,
        h2c: bool,
        admits: _AdmitsRequest,
        reservation: BodyReservation,
    ) -> None:
        self._built = built
        self._admits = admits
        self._reservation = reservation
        self._head_bytes = 0
        self._budget = FrameBudget(trio.current_time())
        self._became_idle = trio.current_time()
        self._under_way = 0
        self.head_since = inf
        if isinstance(built.protocol, H2Protocol):
            built.protocol = self._http2()
        elif not h2c:
            # The upgrade is ignored: the request is served as HTTP/1.1.
            built.protocol._check_protocol = _ignore  # type: ignore[assignment,method-assign]

    @property
    def is_http2(self) -> bool:
        return isinstance(self._built.protocol, H2Protocol)

    @property
    def idle_since(self) -> float:
        return self._became_idle if self._is_idle() else inf

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request until its handler has ended.

        That may be after its stream: a write goes on although its client has disconnected.
        """
        self._under_way += 1
        self.head_since = inf
        try:
            yield
        finally:
            self._under_way -= 1
            self._became_idle = trio.current_time()

    async def initiate(self) -> None:
        await self._built.initiate()

    async def handle(self, event: Event) -> None:
        was_idle = self._is_idle()
        if not isinstance(event, RawData) or not event.data:
            await self._built.handle(event)
        elif isinstance(self._built.protocol, H2Protocol):
            await self._handle_http2(event.data)
        else:
            await self._handle_http1(event)
            if isinstance(self._built.protocol, H11Protocol) and self._is_idle():
                self.head_since = min(self.head_since, trio.current_time())
                self._head_bytes += len(event.data)
            else:
                self.head_since = inf
                self._head_bytes = 0
        if isinstance(event, RawData) and event.data:
            await self._count()
        else:
            self._reservation.release()  # the client is done; hypercorn keeps the connection open
        if self._is_idle() and not was_idle:
            self._became_idle = trio.current_time()

    async def _count(self) -> None:
        """Count the bytes of an incomplete head; end the connection when the budget is exceeded."""
        is_http2 = self.is_http2
        size = self._budget.buffered if is_http2 else self._head_bytes
        if self._reservation.reserve(size, complete=not size):
            return
        if isinstance(self._built.protocol, _Http2):
            await self._built.protocol.end(ErrorCodes.ENHANCE_YOUR_CALM)
        else:
            await self._built.send(RawData(_NO_ROOM))
            await self._built.send(Closed())

    async def send(self, send: Callable[[Any], Any], message: Any) -> None:
        """Send a message of the application over HTTP/2; a response earns frames."""
        if message["type"] == "http.response.start" and message["status"] != 401:
            self._budget.earn_request()
        await send(message)

    def _is_idle(self) -> bool:
        if self._under_way:
            return False
        protocol = self._built.protocol
        if isinstance(protocol, H2Protocol):
            return not protocol.streams
        return protocol.stream is None

    async def _handle_http1(self, event: RawData) -> None:
        """Do as hypercorn's wrapper, but with ``_Http2``."""
        try:
            await self._built.protocol.handle(event)
        except H2ProtocolAssumedError as found:
            self._built.protocol = protocol = self._http2()
            await protocol.initiate()
            await self._handle_http2(found.data)
        except H2CProtocolRequiredError as found:
            self._built.protocol = protocol = self._http2()
            try:
                await protocol.initiate(found.headers, found.settings)
            except (HyperframeError, ProtocolError, ValueError):
                await self._built.send(Closed())  # no settings, or no base64
            else:
                await self._handle_http2(found.data)

    async def _handle_http2(self, data: bytes) -> None:
        """Hand over what was received, in small pieces until a request had a key.

        h2 unpacks all requests of a piece before the first of them can be refused.
        """
        protocol = self._built.protocol
        start = 0
        while start < len(data) and isinstance(protocol, _Http2) and not protocol.closed:
            size = len(data) if protocol.has_key else _PIECE_WITHOUT_KEY
            piece = data[start : start + size]
            start += size
            if self._budget.spend(piece, trio.current_time()):
                await self._built.handle(RawData(piece))
            else:
                await protocol.end(ErrorCodes.ENHANCE_YOUR_CALM)

    async def _send_raw(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._budget.earn_sent(len(event.data))
        await self._built.send(event)

    def _http2(self) -> H2Protocol:
        of = self._built
        protocol = _Http2(
            self._admits,
            of.app,
            of.config,
            of.context,
            of.task_group,
            of.state,
            of.ssl,
            of.client,
            of.server,
            self._send_raw,
        )
        protocol.connection.decoder.max_header_list_size = MOST_HEADERS_BYTES
        return protocol


class _Http2(H2Protocol):
    """hypercorn's HTTP/2, in which a malformed request ends its stream alone."""

    def __init__(self, admits: _AdmitsRequest, *args: Any) -> None:
        super().__init__(*args)
        self.has_key = admits(b"*", None, None)  # true when no request needs a key
        self._admits = admits
        self._refused = 0
        # h2 would end the connection for what `_handle_events` refuses the stream for.
        self.connection.config = H2Configuration(
            client_side=False, header_encoding=None, validate_inbound_headers=False
        )
        self._lengths = BodyLengths(self.connection)

    async def end(self, code: ErrorCodes) -> None:
        """Send the error code and close the connection."""
        self.connection.close_connection(error_code=code)
        await self._flush()
        await self.send(Closed())

    async def _handle_events(self, events: list[H2Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived) and self._is_one_too_many(event):
                await self.end(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            if isinstance(event, RequestReceived) and self._is_malformed(event):
                await self._reset(event.stream_id)
            elif isinstance(event, RequestReceived) and not self._has_room():
                await self._reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                # The rest of a body whose request was answered; hypercorn would fail over it.
                self._lengths.end(event.stream_id)
                self._discard(event)
            elif self._has_wrong_length(event):
                if isinstance(event, DataReceived):
                    self._discard(event)
                await self._reset(event.stream_id)
            else:
                if isinstance(event, RemoteSettingsChanged):
                    self._forget_unknown(event)
                await super()._handle_events([event])
        await self._flush()

    def _discard(self, event: DataReceived) -> None:
        """Return its size to the connection's window, which other streams share."""
        with suppress(ProtocolError):
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _is_malformed(self, request: RequestReceived) -> bool:
        return _has_malformed_headers(request) or not self._lengths.begin(request)

    def _has_wrong_length(self, event: H2Event) -> TypeGuard[DataReceived | StreamEnded]:
        """Whether this part of a body, or its end, is not what its Content-Length announced."""
        if isinstance(event, DataReceived):
            return not self._lengths.receive(event.stream_id, len(event.data or b""))
        if isinstance(event, StreamReset):
            self._lengths.end(event.stream_id)
        return isinstance(event, StreamEnded) and not self._lengths.end(event.stream_id)

    def _has_room(self) -> bool:
        """Whether one request more may be under way. A client may repeat one that is refused."""
        return self.has_key or len(self.streams) < _MOST_WITHOUT_KEY

    async def _reset(self, stream_id: int, why: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        """End one stream: what its client sent is malformed, or one request too many."""
        self._lengths.end(stream_id)
        with suppress(ProtocolError):  # the client has reset it
            self.connection.reset_stream(stream_id, why)
        reset = StreamReset(stream_id=stream_id, remote_reset=False)
        await super()._handle_events([reset])  # a handler may be reading the body

    async def _priority_updated(self, _event: PriorityUpdated) -> None:
        """Leave all streams equal: RFC 9113 5.3 has done away with their tree.

        A client can tie it into loops, or make it deeper than Python can follow.
        """

    def _forget_unknown(self, event: RemoteSettingsChanged) -> None:
        """Drop settings that mean nothing here. h2 keeps them, and visits all at each SETTINGS."""
        for code in event.changed_settings:
            if code not in _SETTINGS:
                self.connection.remote_settings.pop(code, None)

    def _is_one_too_many(self, request: RequestReceived) -> bool:
        """Whether the client has sent more requests without a key than are answered."""
        headers = dict(request.headers or [])
        path = bytes(headers.get(b":path", b""))
        authorization = headers.get(b"authorization")
        is_preflight = (
            headers.get(b":method") == b"OPTIONS" and b"access-control-request-method" in headers
        )
        origin = bytes(headers.get(b"origin", b"")) if is_preflight else b""
        if self.has_key:
            return False
        given = None if authorization is None else bytes(authorization)
        if self._admits(path, given, origin or None):
            # For an open path, and for a preflight, any header would do.
            self.has_key = not self._admits(path, None, origin or None)
            return False
        self._refused += 1
        return self._refused > _MOST_REFUSED


def _has_malformed_headers(request: RequestReceived) -> bool:
    """Whether RFC 9113 8.1.1 wants the stream reset, or hypercorn could not serve the request."""
    try:
        headers = list(validate_headers(request.headers or [], _REQUEST))
        pseudo = {name: value for name, value in headers if name[:1] == b":"}
        return not (pseudo[b":method"].isascii() and pseudo[b":path"].isascii())
    except (KeyError, ProtocolError):
        return True


async def _ignore(_event: object) -> None:
    pass
