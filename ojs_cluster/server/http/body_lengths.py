"""Check of HTTP/2 bodies against their Content-Length.

A request whose body is longer or shorter is malformed, and so is one with a Content-Length that is
no number, or with two that differ (RFC 9113, section 8.1.1). h2 would end the whole connection,
with the requests of other clients behind a proxy. So h2 does not check lengths, and only the stream
is reset for a problem that this class finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import H2Connection
from h2.events import RequestReceived

_MOST_DIGITS: Final = 18
"""Of a length in bytes. Longer ones are refused: no server takes such a body."""


class BodyLengths:
    """The remaining body lengths of the requests of one connection.

    An entry is removed when its stream ends or is reset, so there are at most as many as streams.
    """

    def __init__(self, connection: H2Connection) -> None:
        """Take the check over from ``connection``."""
        self._left: dict[int, int] = {}
        begin = connection._begin_new_stream

        def begin_new_stream(*args: Any, **named: Any) -> Any:  # named by an upgrade
            stream = begin(*args, **named)
            stream._initialize_content_length = _leave_alone  # type: ignore[assignment,method-assign]
            return stream

        connection._begin_new_stream = begin_new_stream  # type: ignore[method-assign]

    def begin(self, request: RequestReceived) -> bool:
        """Note the length of a request. Return whether it can be true."""
        try:
            length = _content_length(request.headers or ())
        except ValueError:
            return False
        if length is None:
            return True
        if request.stream_ended is not None:
            return length == 0
        self._left[request.stream_id] = length
        return True

    def receive(self, stream_id: int, size: int) -> bool:
        """Count ``size`` bytes of a body. Return whether it may be so long."""
        left = self._left.get(stream_id)
        if left is None:
            return True
        self._left[stream_id] = left - size
        return left >= size

    def end(self, stream_id: int) -> bool:
        """Forget a request whose body has ended. Return whether it was as long as announced."""
        return not self._left.pop(stream_id, 0)


def _content_length(headers: Iterable[Any]) -> int | None:
    """Return the Content-Length of the headers, or None.

    Raises:
        ValueError: it is not a number, or two differ.
    """
    found: int | None = None
    for name, value in headers:
        if name != b"content-length":
            continue
        if not value.isdigit() or len(value) > _MOST_DIGITS:
            raise ValueError(value)
        length = int(value)
        if found not in (None, length):
            raise ValueError(value)
        found = length
    return found


def _leave_alone(_headers: object) -> None:
    """Replace h2's check of Content-Length."""
