"""Encode a response as the bytes that the hypercorn entry sends: same headers in the same order.

In the hypercorn entry h11 writes these bytes; here one join does. The test
``tests/http/test_same_answers.py`` compares both, so it fails when an upgrade of h11 changes them.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final
from wsgiref.handlers import format_date_time

from ojs_cluster.http.dispatch import COMMON_HEADERS
from ojs_cluster.http.messages import Response

_COMMON: Final = {(name, value): f"{name.lower()}: {value}\r\n" for name, value in COMMON_HEADERS}
_CLOSE_FOR_DRAIN: Final = "connection: close\r\n"
_CLOSE_AS_ASKED: Final = "Connection: close\r\n"


def encode(response: Response, *, draining: bool, asked_to_close: bool) -> bytes:
    """Return the bytes of a response to a GET or POST request over HTTP/1.1.

    Args:
        response: the response, with the headers that ``dispatch`` adds.
        draining: whether the server closes the connection after it.
        asked_to_close: whether the client has asked for that. Its header has another position and
            spelling than that of a drain, as in the hypercorn entry.
    """
    status, body = response.status, response.body
    lines = [f"HTTP/1.1 {status} \r\n"]
    has_length = status == 204
    for pair in response.headers:
        line = _COMMON.get(pair)
        if line is None:
            name, value = pair
            lower = name.lower()
            has_length = has_length or lower == "content-length"
            line = f"{lower}: {value}\r\n"
        lines.append(line)
    if not has_length:
        lines.append(f"content-length: {len(body)}\r\n")
    if draining and not asked_to_close:
        lines.append(_CLOSE_FOR_DRAIN)
    lines.append(_date(int(time.time())))
    if asked_to_close:
        lines.append(_CLOSE_AS_ASKED)
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    # Cached for a second, because formatting costs as much as the rest of the head.
    return f"date: {format_date_time(second)}\r\n"
