"""Encode a response as the same bytes that the hypercorn entry sends.

In the hypercorn entry h11 writes these bytes. This module builds them with one join, which is
faster. ``tests/http/test_same_answers.py`` compares the bytes of both entry points, so this test
fails when an upgrade of h11 changes its output.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from wsgiref.handlers import format_date_time

from ojs_cluster.http.common_headers import COMMON_HEADERS
from ojs_cluster.http.messages import WITHOUT_BODY, Response
from ojs_cluster.wall_clock import wall_s

_COMMON: Final = {
    pairs: "".join(f"{name.lower()}: {value}\r\n" for name, value in pairs)
    for pairs in COMMON_HEADERS
}
"""The lines of the first two headers of nearly every response."""
_CLOSE_FOR_DRAIN: Final = "connection: close\r\n"
_CLOSE_AS_ASKED: Final = "Connection: close\r\n"


def encode(response: Response, *, draining: bool, asked_to_close: bool) -> bytes:
    """Return the bytes of a response to a GET or POST request over HTTP/1.1.

    Args:
        response: the response, with the headers that ``dispatch`` adds.
        draining: whether the server closes the connection after the response, because it drains.
        asked_to_close: whether the client has asked the server to close the connection. The
            ``Connection`` header then has another position and spelling, as hypercorn writes it.
    """
    status, headers, body = response.status, response.headers, response.body
    common = _COMMON.get(headers[:2])
    if common is None:
        common = ""
    else:
        headers = headers[2:]
    head = f"HTTP/1.1 {status} \r\n{common}"
    has_length = status in WITHOUT_BODY  # such a response must not have a content-length
    for name, value in headers:
        lower = name.lower()
        if lower == "content-length":
            has_length = True
        # CPython extends a string that nothing else refers to in place.
        head += f"{lower}: {value}\r\n"
    if not has_length:
        head += f"content-length: {len(body)}\r\n"
    if draining and not asked_to_close:
        head += _CLOSE_FOR_DRAIN
    date = date_line()
    end = f"{head}{date}{_CLOSE_AS_ASKED}\r\n" if asked_to_close else f"{head}{date}\r\n"
    return end.encode("latin-1") + body


def date_line() -> str:
    """Return the line of the header ``Date``."""
    return _date(int(wall_s()))


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    # The cache keeps one entry, so the date is formatted once per second. Formatting the date costs
    # as much as encoding the rest of the head.
    return f"date: {format_date_time(second)}\r\n"
