"""Check of HTTP/2 bodies against their Content-Length.

A request is malformed if its body is longer or shorter than its Content-Length. It is also
malformed if its Content-Length is not a number, or if it has two different ones (RFC 9113, section
8.1.1). For such a request h2 would close the whole connection, with the requests of other clients
behind a proxy. So ``BodyLengths`` replaces h2's check, and the caller resets only the stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import H2Connection
from h2.events import RequestReceived

_MAX_DIGITS: Final = 18
"""Maximum number of digits of a Content-Length. A longer number is refused without conversion."""


class BodyLengths:
    """The number of body bytes that the requests of one connection have announced and not sent.

    The entry of a stream is removed when the stream ends or is reset. So there are never more
    entries than streams.
    """

    def __init__(self, connection: H2Connection) -> None:
        """Replace the check of ``connection``."""
        self._remaining: dict[int, int] = {}
        begin = connection._begin_new_stream

        # h2 passes keyword arguments for an upgrade from HTTP/1.1, positional ones otherwise.
        def begin_new_stream(*args: Any, **keywords: Any) -> Any:
            stream = begin(*args, **keywords)
            stream._initialize_content_length = _do_not_check  # type: ignore[assignment,method-assign]
            return stream

        connection._begin_new_stream = begin_new_stream  # type: ignore[method-assign]

    def begin(self, request: RequestReceived) -> bool:
        """Remember the Content-Length of a request; return whether the header is valid."""
        try:
            length = _content_length(request.headers or ())
        except ValueError:
            return False
        if length is None:
            return True
        if request.stream_ended is not None:
            return length == 0
        self._remaining[request.stream_id] = length
        return True

    def receive(self, stream_id: int, size: int) -> bool:
        """Count ``size`` received bytes; return whether the body is within its Content-Length."""
        remaining = self._remaining.get(stream_id)
        if remaining is None:
            return True
        self._remaining[stream_id] = remaining - size
        return remaining >= size

    def end(self, stream_id: int) -> bool:
        """Forget a stream that has ended; return whether its whole body has arrived."""
        return not self._remaining.pop(stream_id, 0)


def _content_length(headers: Iterable[Any]) -> int | None:
    """Return the Content-Length of the headers, or None.

    Raises:
        ValueError: a Content-Length is not a number, or there are two different ones.
    """
    length: int | None = None
    for name, value in headers:
        if name != b"content-length":
            continue
        if not value.isdigit() or len(value) > _MAX_DIGITS:
            raise ValueError(value)
        if length not in (None, int(value)):
            raise ValueError(value)
        length = int(value)
    return length


def _do_not_check(_headers: object) -> None:
    """Replace the h2 function that stores the Content-Length to check the body against."""
