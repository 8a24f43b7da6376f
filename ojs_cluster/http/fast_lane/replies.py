"""A response as the bytes that the first door sends for it: the same headers in the same order.

There hypercorn and h11 put them on the wire, here one join does. `tests/http/test_same_answers.py`
compares the two, so an upgrade that changes what h11 writes is noticed.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final
from wsgiref.handlers import format_date_time

from ojs_cluster.http.dispatch import COMMON_HEADERS
from ojs_cluster.http.messages import Response

_COMMON: Final = {(name, value): f"{name.lower()}: {value}\r\n" for name, value in COMMON_HEADERS}
_DRAINING: Final = "connection: close\r\n"
_ASKED: Final = "Connection: close\r\n"


def encode(response: Response, *, draining: bool, asked_to_close: bool) -> bytes:
    """The whole response to a GET or POST request over HTTP/1.1.

    ``draining``: the server closes the connection after it. ``asked_to_close``: the client wants
    that. Both are written, at the place and in the letters that the first door uses.
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
        lines.append(_DRAINING)
    lines.append(_date(int(time.time())))
    if asked_to_close:
        lines.append(_ASKED)
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    # Once per second: formatting costs as much as the rest of the head.
    return f"date: {format_date_time(second)}\r\n"
