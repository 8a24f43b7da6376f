"""What the fast lane can read: the plain part of HTTP/1.1, and nothing that can be read two ways.

Pure: bytes in, a `Head` out. A request is plain when every server and proxy agrees on where it
ends and what it asks for: GET or POST, a target that begins with "/", HTTP/1.1, lines that end in
CRLF and hold printable ASCII, no folded lines, one Host, at most one Content-Length of digits, no
Transfer-Encoding, Expect or Upgrade. Everything else is `Odd`: not wrong, but hypercorn's to judge.
So the lane refuses nothing, two parsers never have to agree on what is an error, and a request that
one of them would end at another byte than the other never reaches the lane's.

llhttp (httptools) reads the lines. It is given one head at a time and no body: its Python binding
does not tell where in its input a message ended, which has to be known for handing over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from ojs_cluster.http.messages import joined

if TYPE_CHECKING:
    from ojs_cluster.http.dispatch import Admission

PATIENCE: Final = 8192
"""Bytes of an unfinished head that are waited with. Heads that large are rare, and looking again at
all of it with each piece must stay cheap."""

_PLAIN: Final = re.compile(
    rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n(?:[!-~][ -~]*\r\n)+\r\n",
)
_SO_FAR: Final = re.compile(rb"(?:[ -~]|\r\n)*\r?")
_BEGINNINGS: Final = (b"GET /", b"POST /")
_LONGEST: Final = max(map(len, _BEGINNINGS))
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_END: Final = b"\r\n\r\n"
_REMEMBERED: Final = 8
_REMEMBERED_BYTES: Final = 1024
_NOT_OURS: Final = frozenset({"transfer-encoding", "expect", "upgrade"})
_ONCE: Final = frozenset({"host", "content-length", "connection"})


class Odd(Exception):
    """Not plain: the bytes are to be read by hypercorn."""


class Head(msgspec.Struct):
    """A plain request without its body.

    ``admission`` is what the dispatcher made of it, for the next request with this head. Nothing
    else of a head changes.

    ``size`` is the length of the head in bytes, the blank line included, and ``length`` that of
    the body which follows it. ``closes`` says that the client wants the connection to end.
    ``headers`` as in `Request`.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    size: int
    length: int
    closes: bool
    admission: Admission | None = None


class _Lines:
    """What llhttp reports, through the callbacks that its binding looks for by name."""

    __slots__ = ("ended", "pairs")

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # Blanks at the end are no part of a value (RFC 9112 5.1).
        self.pairs.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" ")))

    def on_headers_complete(self) -> None:
        self.ended = True


def read_head(data: bytes) -> Head | None:
    """The head of the request that ``data`` begins with; None when more has to come.

    Raises Odd as soon as it is seen that the request is not plain.
    """
    match = _PLAIN.match(data)
    if match is None:
        if _may_become_plain(data):
            return None
        raise Odd
    lines = _Lines()
    try:
        HttpRequestParser(lines).feed_data(match[0])
    except (HttpParserError, HttpParserUpgrade):
        raise Odd from None
    if not lines.ended:
        raise Odd
    headers = joined(lines.pairs)
    if len(headers) != len(lines.pairs) and _repeats(lines.pairs):
        raise Odd
    if "host" not in headers or not _NOT_OURS.isdisjoint(headers):
        raise Odd
    path, _, query = match[2].decode("ascii").partition("?")
    return Head(
        match[1].decode("ascii"),
        path,
        query,
        headers,
        match.end(),
        _length(headers.get("content-length")),
        _closes(headers.get("connection")),
    )


class Heads:
    """The heads of one connection.

    A client on a keep-alive connection sends the same few heads again and again, byte for byte, so
    the last ones are remembered: finding one is far cheaper than reading it.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head | None:
        """As `read_head`."""
        # A plain head ends at its first empty line, so its bytes say all of it.
        raw = data[: data.find(_END, 0, _REMEMBERED_BYTES) + len(_END)]
        head = self._seen.get(raw)
        if head is None:
            head = read_head(data)
            if head is not None and head.size == len(raw):
                if len(self._seen) >= _REMEMBERED:
                    self._seen.clear()
                self._seen[raw] = head
        return head


def _may_become_plain(data: bytes) -> bool:
    if len(data) > PATIENCE or _END in data:
        return False
    begun = data[:_LONGEST]
    if not any(begun.startswith(word) or word.startswith(begun) for word in _BEGINNINGS):
        return False
    return _SO_FAR.fullmatch(data) is not None


def _repeats(pairs: Iterable[tuple[str, str]]) -> bool:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in _ONCE:
            if name in seen:
                return True
            seen.add(name)
    return False


def _length(value: str | None) -> int:
    if value is None:
        return 0
    if not _LENGTH.fullmatch(value):
        raise Odd
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
            raise Odd
