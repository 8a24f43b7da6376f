"""The HTTP/2 protocol of one connection, with checks that hypercorn does not have.

h2 closes the whole connection because of one malformed request, together with the requests of other
clients behind a proxy. ``Http2Protocol`` resets only the stream of the malformed request. It also
limits the requests of a connection until one of them has a valid API key.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeGuard

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import Event as H2Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.utilities import HeaderValidationFlags, validate_headers

from ojs_cluster.server.http.body_lengths import BodyLengths
from ojs_cluster.server.http.hypercorn_internals import Closed, HypercornHttp2

MAX_HEADERS_BYTES: Final = 16_384
"""Maximum size of the headers of one HTTP/2 request, in bytes. As in HPACK, each header counts as
the length of its name, the length of its value, and 32 bytes."""
MAX_STREAMS: Final = 100
"""Maximum number of simultaneous streams of one HTTP/2 connection."""
_MAX_REFUSED_REQUESTS: Final = 8
"""Maximum number of requests without a valid API key on one HTTP/2 connection, until its first
request with a valid key. After that there is no maximum: the connection may belong to a proxy, and
one client without a key must not close it for all others."""
_MAX_STREAMS_WITHOUT_KEY: Final = 8
"""Maximum number of simultaneous streams of an HTTP/2 connection before its first request with a
valid API key. Each stream keeps its headers in memory until its body has arrived and its response
is sent, and the client can delay both."""
AdmitsHeaders = Callable[[bytes, bytes | None, bytes | None], bool]
"""A function that returns whether a request passes the check of API keys.

Its arguments are the raw path; the Authorization header, or None; the origin of a CORS preflight,
or None for any other request.
"""
_REQUEST_FLAGS: Final = HeaderValidationFlags(
    is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
)
_KNOWN_SETTINGS: Final = frozenset(SettingCodes)


class Http2Protocol(HypercornHttp2):
    """hypercorn's HTTP/2 protocol, in which a malformed request ends only its own stream."""

    def __init__(self, admits: AdmitsHeaders, *args: Any) -> None:
        """Create the protocol.

        Args:
            admits: the check of API keys.
            *args: the arguments of hypercorn's protocol.
        """
        super().__init__(*args)
        # True from the first request with a valid API key on, or always if no request needs a key.
        self.has_key = admits(b"*", None, None)
        self._admits = admits
        self._refused_requests = 0
        # h2's own checks would close the connection. ``handle_events`` checks instead, and resets
        # only the stream.
        self.connection.config = H2Configuration(
            client_side=False, header_encoding=None, validate_inbound_headers=False
        )
        self._body_lengths = BodyLengths(self.connection)

    async def end(self, code: ErrorCodes) -> None:
        """Send the error code and close the connection."""
        self.connection.close_connection(error_code=code)
        await self.flush()
        await self.send(Closed())

    async def handle_events(self, events: list[H2Event]) -> None:
        """Handle the events; those of malformed or excess requests reset their stream."""
        for event in events:
            if isinstance(event, RequestReceived) and self._exceeds_refused_requests(event):
                await self.end(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            if isinstance(event, RequestReceived) and self._is_malformed(event):
                await self._reset(event.stream_id)
            elif isinstance(event, RequestReceived) and not self._allows_another_stream():
                await self._reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                # The body continues although its request was answered. hypercorn would raise
                # KeyError.
                self._body_lengths.end(event.stream_id)
                self._discard(event)
            elif self._has_wrong_length(event):
                if isinstance(event, DataReceived):
                    self._discard(event)
                await self._reset(event.stream_id)
            else:
                if isinstance(event, RemoteSettingsChanged):
                    self._drop_unknown_settings(event)
                await super().handle_events([event])
        await self.flush()

    def _discard(self, event: DataReceived) -> None:
        """Ignore the data, but return its size to the flow-control window of the connection."""
        with suppress(ProtocolError):
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _is_malformed(self, request: RequestReceived) -> bool:
        return _has_malformed_headers(request) or not self._body_lengths.begin(request)

    def _has_wrong_length(self, event: H2Event) -> TypeGuard[DataReceived | StreamEnded]:
        """Return whether the body is longer than its Content-Length, or ends before it."""
        if isinstance(event, DataReceived):
            return not self._body_lengths.receive(event.stream_id, len(event.data or b""))
        if isinstance(event, StreamReset):
            self._body_lengths.end(event.stream_id)
        return isinstance(event, StreamEnded) and not self._body_lengths.end(event.stream_id)

    def _allows_another_stream(self) -> bool:
        """Return whether the connection may have one more stream.

        If not, the stream is reset with REFUSED_STREAM, after which a client may retry safely.
        """
        return self.has_key or len(self.streams) < _MAX_STREAMS_WITHOUT_KEY

    async def _reset(self, stream_id: int, code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        """End one stream with the error code."""
        self._body_lengths.end(stream_id)
        with suppress(ProtocolError):  # the client has already reset the stream
            self.connection.reset_stream(stream_id, code)
        # With this event hypercorn ends a handler's wait for the rest of the body.
        reset = StreamReset(stream_id=stream_id, remote_reset=False)
        await super().handle_events([reset])

    def _drop_unknown_settings(self, event: RemoteSettingsChanged) -> None:
        """Remove settings whose codes h2 does not know.

        h2 stores them, and reads all of them again at each SETTINGS frame.
        """
        for code in event.changed_settings:
            if code not in _KNOWN_SETTINGS:
                self.connection.remote_settings.pop(code, None)

    def _exceeds_refused_requests(self, request: RequestReceived) -> bool:
        """Check the API key; return whether the connection has too many refused requests."""
        headers = dict(request.headers or [])
        path = bytes(headers.get(b":path", b""))
        authorization = headers.get(b"authorization")
        is_preflight = (
            headers.get(b":method") == b"OPTIONS" and b"access-control-request-method" in headers
        )
        origin = bytes(headers.get(b"origin", b"")) if is_preflight else b""
        if self.has_key:
            return False
        api_key = None if authorization is None else bytes(authorization)
        if self._admits(path, api_key, origin or None):
            # A path that needs no API key, and a preflight, are admitted with any header. Such a
            # request does not prove that the client has a key.
            self.has_key = not self._admits(path, None, origin or None)
            return False
        self._refused_requests += 1
        return self._refused_requests > _MAX_REFUSED_REQUESTS


def _has_malformed_headers(request: RequestReceived) -> bool:
    """Return whether the headers are malformed (RFC 9113, section 8.1.1).

    A method or path that is not ASCII counts as malformed too, because hypercorn cannot decode it.
    """
    try:
        headers = list(validate_headers(request.headers or [], _REQUEST_FLAGS))
        pseudo = {name: value for name, value in headers if name[:1] == b":"}
        return not (pseudo[b":method"].isascii() and pseudo[b":path"].isascii())
    except (KeyError, ProtocolError):
        return True
