"""Whether the bodies of an HTTP/2 connection are as long as their Content-Length says.

A request whose body is longer or shorter is malformed, and so is one with a Content-Length that is
no number, or with two that differ (RFC 9113, section 8.1.1). h2 ends the whole connection for it,
with all the requests that others wait for behind a proxy. So h2 is kept from reading lengths, and
the stream alone is reset for what this class finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import H2Connection
from h2.events import RequestReceived

_MOST_DIGITS: Final = 18
"""Of a length in bytes. Longer ones are refused: no server takes such a body."""


class BodyLengths:
    """What is still to come of each request of one connection that names its length.

    Each is forgotten when its stream ends or is reset, so there are no more than open streams.
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
        """Note what a request says. Return whether that can be true."""
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
    """Return the length that headers name, None when they name none.

    Raises:
        ValueError: it is no length, or there are two that differ.
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
    """Stand in for h2's reading of Content-Length."""
