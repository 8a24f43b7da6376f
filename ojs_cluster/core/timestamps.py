"""Points in time: RFC 3339 in, RFC 3339 UTC with milliseconds out.

Inside the server a point in time is an int: milliseconds since the Unix epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLIS: Final = tuple(b".%03dZ" % ms for ms in range(1000))


@lru_cache(maxsize=4096)
def _format_second(second: int) -> bytes:
    return (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S").encode()


def format_ms(ms: int) -> bytes:
    """``ms`` since the epoch as ``b"2026-01-01T00:00:00.000Z"``.

    The part down to the second is cached: the timestamps of one response, and of the responses
    around it, mostly share it.
    """
    second, rest = divmod(ms, 1000)
    return _format_second(second) + _MILLIS[rest]
