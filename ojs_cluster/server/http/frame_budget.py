"""A budget for HTTP/2 frames that carry no work. No I/O.

A frame costs its sender a few bytes and the server some 50 µs. A client can send any number of
PING, SETTINGS, WINDOW_UPDATE, RST_STREAM and empty DATA frames without an API key (CVE-2019-9512,
-9514, -9515, -9518, CVE-2023-44487). So each connection has a budget for such frames. The budget
grows with time, with admitted requests, and with sent bytes, because a client that reads large
responses has to send many WINDOW_UPDATE frames.

h2 keeps a frame, and all frames of a header block, in memory before it checks their size.
``FrameBudget`` limits the size of both, and refuses a frame as soon as its 9 byte header arrives.
This module calls the header of a frame its head, because a frame may also carry HTTP headers.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_SIZE: Final = 9
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0x0, 0x1, 0x4, 0x9
_PADDED: Final = 0x8
_END_HEADERS: Final = 0x4
_MIN_FREE_DATA_BYTES: Final = 64
"""A DATA frame with at least this many bytes, padding excluded, costs nothing. A smaller DATA frame
costs as much as an empty one."""
_MAX_PAYLOAD_BYTES: Final = 16_384
"""Maximum payload of one frame: the default of SETTINGS_MAX_FRAME_SIZE (RFC 9113, section 6.5.2),
which this server does not change."""
_MAX_BLOCK_BYTES: Final = 32_768
"""Maximum size of an encoded header block: twice ``MAX_HEADERS_BYTES``. No usual encoder makes
headers that much larger."""
_SETTING_SIZE: Final = 6

# The unit of the budget is one frame.
_CAPACITY: Final = 1000.0
_EARNED_PER_S: Final = 20.0
_EARNED_PER_REQUEST: Final = 10.0
_EARNED_PER_SENT_KIB: Final = 0.5


class FrameBudget:
    """The budget of one connection. Not thread-safe."""

    def __init__(self, now: float) -> None:
        """Start with a full budget at ``now``, in seconds of a monotonic clock."""
        self._budget = _CAPACITY
        self._updated_at = now
        self._preface_remaining = len(PREFACE)
        self._partial_head = b""
        self._payload_size = 0
        self._payload_remaining = 0
        self._block_size = 0
        self._in_open_block = False
        self._open_block_bytes = 0

    @property
    def buffered(self) -> int:
        """Bytes of payload that h2 keeps: of a partial frame, and of an open header block.

        h2 keeps the frames of a header block until the payload of the last one is complete.
        """
        partial = self._payload_size - self._payload_remaining if self._payload_remaining else 0
        return self._open_block_bytes + partial

    def earn_request(self) -> None:
        """Add the cost of the frames that an admitted request needs."""
        self._budget = min(_CAPACITY, self._budget + _EARNED_PER_REQUEST)

    def earn_sent(self, size: int) -> None:
        """Add the cost of the WINDOW_UPDATE frames that acknowledge ``size`` sent bytes.

        Call this for each chunk that is sent, not once for a whole response. The budget never
        exceeds its capacity, so one call for a large response would add too little.
        """
        self._budget = min(_CAPACITY, self._budget + _EARNED_PER_SENT_KIB * size / 1024)

    def spend(self, data: bytes, now: float) -> bool:
        """Count the frames that begin in ``data``; return whether the budget allows them.

        Args:
            data: the next bytes received on the connection. They may begin and end inside a frame.
            now: the current time, in seconds of the clock that the constructor got.
        """
        self._budget = min(_CAPACITY, self._budget + (now - self._updated_at) * _EARNED_PER_S)
        self._updated_at = now
        start = min(self._preface_remaining, len(data))
        self._preface_remaining -= start
        while start < len(data):
            if self._payload_remaining:
                received = min(self._payload_remaining, len(data) - start)
                start += received
                self._payload_remaining -= received
                if not self._payload_remaining:
                    self._end_frame()
                continue
            head = self._partial_head + data[start : start + _HEAD_SIZE]
            missing = _needed_size(head) - len(self._partial_head)
            self._partial_head += data[start : start + missing]
            start += missing
            if len(self._partial_head) < _needed_size(self._partial_head):
                break
            head, self._partial_head = self._partial_head, b""
            if not self._begin_frame(head):
                return False
        return True

    def _begin_frame(self, head: bytes) -> bool:
        """Count a frame by its head; return whether it is allowed."""
        self._payload_size = size = int.from_bytes(head[:3])
        # For a padded DATA frame, `head` also contains the first payload byte, the padding length.
        self._payload_remaining = size - (len(head) - _HEAD_SIZE)
        in_block = head[3] in (_HEADERS, _CONTINUATION)
        self._in_open_block = in_block and not head[4] & _END_HEADERS
        self._block_size = self._block_size + size if head[3] == _CONTINUATION else size
        self._budget -= _cost(head, size)
        too_large = size > _MAX_PAYLOAD_BYTES or (in_block and self._block_size > _MAX_BLOCK_BYTES)
        if self._budget < 0 or too_large:
            return False
        if not self._payload_remaining:
            self._end_frame()
        return True

    def _end_frame(self) -> None:
        if self._in_open_block:
            self._open_block_bytes += self._payload_size
        else:
            self._open_block_bytes = 0


def _needed_size(head: bytes) -> int:
    """Return how many bytes determine the cost of a frame: its head, and a padding length."""
    padded = len(head) >= _HEAD_SIZE and head[3] == _DATA and head[4] & _PADDED and any(head[:3])
    return _HEAD_SIZE + 1 if padded else _HEAD_SIZE


def _cost(head: bytes, size: int) -> float:
    if head[3] == _SETTINGS:
        return 1.0 + size // _SETTING_SIZE
    padding = 1 + head[_HEAD_SIZE] if len(head) > _HEAD_SIZE else 0
    if head[3] == _DATA and size - padding >= _MIN_FREE_DATA_BYTES:
        return 0.0  # flow control and the maximum size of bodies limit such frames
    return 1.0
