"""Parse simple HTTP/1.1 requests, which every parser reads in the same way.

This module does no I/O: it turns bytes into a ``RequestHead``. A request is simple if it has:

* GET or POST, a target that begins with "/", and HTTP/1.1;
* lines of printable ASCII that end in CRLF, none of them folded;
* one Host, and at most one Content-Length, of digits;
* at most one Connection, which is ``keep-alive`` or ``close``;
* no Transfer-Encoding, Expect or Upgrade.

Every other request raises ``UnsupportedRequest``, and hypercorn parses the same bytes. So only
hypercorn rejects requests as malformed. Both parsers agree on where a simple request ends, which
prevents request smuggling.

llhttp (httptools) parses the lines of the head. It gets one head at a time and no body, because its
Python binding does not say at which byte a message ended. The fast lane needs this position to pass
unread bytes on to hypercorn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from ojs_cluster.http.messages import join_headers

if TYPE_CHECKING:
    from ojs_cluster.http.admission import Admission
    from ojs_cluster.http.fast_lane.plain.verb import PlainVerb
    from ojs_cluster.http.pages import FoundPage

MAX_INCOMPLETE_HEAD: Final = 8192
"""Largest incomplete head, in bytes, that the fast lane waits for.

Each piece that arrives causes another check of the whole head, so the size limits what a check
costs. Larger heads are rare.
"""

_SIMPLE: Final = re.compile(
    rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n(?:[!-~][ -~]*\r\n)+\r\n",
)
_SIMPLE_PREFIX: Final = re.compile(rb"(?:[ -~]|\r\n)*\r?")
_BEGINNINGS: Final = (b"GET /", b"POST /")
_LONGEST_BEGINNING: Final = max(map(len, _BEGINNINGS))
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_HEAD_END: Final = b"\r\n\r\n"
_MAX_CACHED_HEADS: Final = 8  # of one connection
_MAX_CACHED_BYTES: Final = 1024  # of one head
_UNSUPPORTED_HEADERS: Final = frozenset({"transfer-encoding", "expect", "upgrade"})
_SINGLE_HEADERS: Final = frozenset({"host", "content-length", "connection"})


class UnsupportedRequest(Exception):
    """The request is not simple, or does not fit: hypercorn has to read its bytes."""


class RequestHead(msgspec.Struct):
    """The head of a simple request.

    Attributes:
        method: GET or POST.
        path: the raw path.
        query: the raw query string.
        headers: the headers, as in ``Request``.
        size: the length of the head in bytes, with its blank line.
        length: the length of the body in bytes.
        closes: whether the client asks the server to close the connection after the response.
        repeats: whether a header occurs more than once, so that ``headers`` has joined values.
        admission: the dispatcher's decision about an earlier request with this head; None if there
            is no decision that can be reused.
        plain: serves plain requests (``plain/verb.py``) with this head, as ``admission`` allows;
            None if none does.
        page: the page at the path, if an earlier request with this head has found one. Only this
            attribute, ``admission`` and ``plain`` change.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    size: int
    length: int
    closes: bool
    repeats: bool = False
    admission: Admission | None = None
    plain: PlainVerb | None = None
    page: FoundPage | None = None


class _HeaderCollector:
    """Collects headers from llhttp, whose binding finds the callbacks by their names."""

    __slots__ = ("ended", "pairs")

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailing spaces are not part of a value (RFC 9112 5.1).
        self.pairs.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" ")))

    def on_headers_complete(self) -> None:
        self.ended = True


def read_head(data: bytes) -> RequestHead | None:
    """Return the head of the request that ``data`` begins with; None while it is incomplete.

    Raises:
        UnsupportedRequest: it is not simple. This may be known before its head is complete.
    """
    match = _SIMPLE.match(data)
    if match is None:
        if _may_become_simple(data):
            return None
        raise UnsupportedRequest
    collector = _HeaderCollector()
    try:
        HttpRequestParser(collector).feed_data(match[0])
    except (HttpParserError, HttpParserUpgrade):
        raise UnsupportedRequest from None
    if not collector.ended:
        raise UnsupportedRequest
    headers = join_headers(collector.pairs)
    repeats = len(headers) != len(collector.pairs)
    if repeats and _repeats(collector.pairs):
        raise UnsupportedRequest
    if "host" not in headers or not _UNSUPPORTED_HEADERS.isdisjoint(headers):
        raise UnsupportedRequest
    path, _, query = match[2].decode("ascii").partition("?")
    return RequestHead(
        match[1].decode("ascii"),
        path,
        query,
        headers,
        match.end(),
        _length(headers.get("content-length")),
        _closes(headers.get("connection")),
        repeats,
    )


class HeadCache:
    """The parsed heads of the last requests of one connection, by their bytes.

    A client on a keep-alive connection repeats the same few heads byte for byte. A lookup costs far
    less than parsing the head.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        self._heads: dict[bytes, RequestHead] = {}

    def read(self, data: bytes) -> RequestHead | None:
        """Return what ``read_head`` returns, from the cache if possible."""
        # A simple head ends at its first empty line. So ``raw`` is the whole head, if it is not too
        # long for the cache.
        raw = data[: data.find(_HEAD_END, 0, _MAX_CACHED_BYTES) + len(_HEAD_END)]
        head = self._heads.get(raw)
        if head is None:
            head = read_head(data)
            if head is not None and head.size == len(raw):
                if len(self._heads) >= _MAX_CACHED_HEADS:
                    self._heads.clear()
                self._heads[raw] = head
        return head


def _may_become_simple(data: bytes) -> bool:
    if len(data) > MAX_INCOMPLETE_HEAD or _HEAD_END in data:
        return False
    start = data[:_LONGEST_BEGINNING]
    if not any(start.startswith(word) or word.startswith(start) for word in _BEGINNINGS):
        return False
    return _SIMPLE_PREFIX.fullmatch(data) is not None


def _repeats(pairs: Iterable[tuple[str, str]]) -> bool:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in _SINGLE_HEADERS:
            if name in seen:
                return True
            seen.add(name)
    return False


def _length(value: str | None) -> int:
    if value is None:
        return 0
    if not _CONTENT_LENGTH.fullmatch(value):
        raise UnsupportedRequest
    return int(value)


def _closes(value: str | None) -> bool:
    if value is None:
        return False
    match value.lower():
        case "keep-alive":
            return False
        case "close":
            return True
        case _:
            raise UnsupportedRequest
