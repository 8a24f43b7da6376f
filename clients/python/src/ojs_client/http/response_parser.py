"""Parse the response to one request. It does no I/O, so it is tested without sockets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Maximum length of a body in bytes, with the sizes of its chunks. The largest responses are those
of fetches: 100 jobs of at most 1 MiB each."""
_MAX_LINE_BYTES: Final = 4096
"""Maximum length of the size line of a chunk in bytes."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
_NO_BODY: Final = (204, 304)


class BadResponse(Exception):
    """The bytes are no response of HTTP/1.1, or they end too early."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response.

    Attributes:
        status: its status.
        headers: its headers by lower-case name. Of repeated headers it has the last one.
        body: its body.
        keep_alive: whether the connection can carry another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


@dataclass(slots=True)
class _Head:
    status: int
    headers: dict[str, str]
    keep_alive: bool
    length: int | None
    """Length of the body in bytes; None if it is chunked, or lasts until the connection ends."""
    chunked: bool


@dataclass(slots=True)
class ResponseParser:
    """Collects the bytes of one response."""

    _bytes: bytearray = field(default_factory=bytearray)
    _head: _Head | None = None
    _at: int = 0
    """Where the unread part of the body begins."""
    _chunks: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> Response | None:
        """Add bytes; return the response if it is complete.

        Raises:
            BadResponse: the bytes are no response.
        """
        self._bytes += data
        while self._head is None:
            if not self._read_head():
                return None
        head = self._head
        if max(len(self._bytes), head.length or 0) > _MAX_BODY_BYTES:
            raise BadResponse("the body of the response is too long")
        if head.chunked:
            return self._read_chunks(head)
        if head.length is None or len(self._bytes) - self._at < head.length:
            return None
        end = self._at + head.length
        return self._response(head, bytes(self._bytes[self._at : end]), end)

    def end(self) -> Response:
        """Return the response if the end of the connection completes it.

        Raises:
            BadResponse: a part of the response is missing.
        """
        head = self._head
        if head is None:
            raise BadResponse(
                "the server closed the connection within a response"
                if self._bytes
                else "the server closed the connection without a response"
            )
        if head.chunked or head.length is not None:
            raise BadResponse("the server closed the connection within a response")
        return Response(head.status, head.headers, bytes(self._bytes[self._at :]), False)

    def _response(self, head: _Head, body: bytes, end: int) -> Response:
        # Bytes after the response belong to no request, so the connection is not used again.
        keep_alive = head.keep_alive and end == len(self._bytes)
        return Response(head.status, head.headers, body, keep_alive)

    def _read_head(self) -> bool:
        """Read a head, if it is complete; skip interim responses."""
        end = self._bytes.find(b"\r\n\r\n", self._at)
        if end - self._at > _MAX_HEAD_BYTES or (end < 0 and len(self._bytes) > _MAX_HEAD_BYTES):
            raise BadResponse("the headers of the response are too long")
        if end < 0:
            return False
        head = _parse_head(bytes(self._bytes[self._at : end]))
        del self._bytes[: end + 4]
        if head.status == 101:
            raise BadResponse("the server switched to another protocol")
        if head.status >= 200:
            self._head = head
        return True

    def _read_chunks(self, head: _Head) -> Response | None:
        while True:
            line_end = self._bytes.find(b"\r\n", self._at)
            if line_end < 0:
                if len(self._bytes) - self._at > _MAX_LINE_BYTES:
                    raise BadResponse("the size of a chunk is too long")
                return None
            found = _CHUNK_SIZE.fullmatch(self._bytes[self._at : line_end])
            if found is None:
                raise BadResponse("the size of a chunk is no number")
            size = int(found[1], 16)
            if size == 0:
                return self._read_trailers(head, line_end)
            start, end = line_end + 2, line_end + 2 + size
            if len(self._bytes) < end + 2:
                return None
            if self._bytes[end : end + 2] != b"\r\n":
                raise BadResponse("a chunk has another length than it says")
            self._chunks.append(bytes(self._bytes[start:end]))
            self._at = end + 2

    def _read_trailers(self, head: _Head, line_end: int) -> Response | None:
        end = self._bytes.find(b"\r\n\r\n", line_end)
        if end < 0:
            if len(self._bytes) - line_end > _MAX_HEAD_BYTES:
                raise BadResponse("the trailers of the response are too long")
            return None
        return self._response(head, b"".join(self._chunks), end + 4)


def _parse_head(text: bytes) -> _Head:
    line, *lines = text.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise BadResponse("the answer is not HTTP/1.1")
    status, headers, lengths = int(found[2]), dict[str, str](), set[bytes]()
    for header in lines:
        name, colon, value = header.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            raise BadResponse("a header of the response is malformed")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            lengths.add(value)
        headers[name.decode("ascii")] = value.decode("latin-1")
    keep_alive = found[1] == b"1" and "close" not in headers.get("connection", "").lower()
    length, chunked = _framing(status, headers, lengths)
    return _Head(status, headers, keep_alive, length, chunked)


def _framing(status: int, headers: dict[str, str], lengths: set[bytes]) -> tuple[int | None, bool]:
    """Return the length of the body if its headers give it, and whether it is chunked."""
    if status < 200 or status in _NO_BODY:
        return 0, False
    coding = headers.get("transfer-encoding")
    if coding is not None:
        # With both headers, two readers could see different ends of the response (RFC 9112, 6.3).
        if coding.lower() != "chunked" or lengths:
            raise BadResponse("the length of the response is ambiguous")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or _LENGTH.fullmatch(length := lengths.pop()) is None:
        raise BadResponse("the length of the response is no number")
    return int(length), False
