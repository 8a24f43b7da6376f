"""A budget for HTTP/2 frames that carry no work. No I/O.

A frame costs its sender a few bytes and the server some 50 µs. A client can send any number of
PING, SETTINGS, WINDOW_UPDATE, RST_STREAM and empty DATA frames without an API key (CVE-2019-9512,
-9514, -9515, -9518, CVE-2023-44487). So each connection has a budget for such frames. The budget
grows with time and with work: a client that reads large responses sends many frames.

h2 collects a whole frame, and all frames of a header block, before it checks their size. This class
limits the size of both. It needs only the head of a frame to refuse the frame.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_SIZE: Final = 9
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0x0, 0x1, 0x4, 0x9
_PADDED: Final = 0x8
_END_HEADERS: Final = 0x4
_MIN_FREE_DATA: Final = 64
"""A DATA frame with fewer bytes of payload costs as much as an empty one."""
_MAX_PAYLOAD: Final = 16_384
"""Bytes of one frame: SETTINGS_MAX_FRAME_SIZE as RFC 9113 sets it, which this server keeps."""
_MAX_BLOCK: Final = 32_768
"""Bytes of a header block: more than the largest list of headers takes in any encoding."""
_SETTING_SIZE: Final = 6

_CAPACITY: Final = 1000.0
_PER_S: Final = 20.0
_PER_REQUEST: Final = 10.0
_PER_KIB: Final = 0.5


class FrameBudget:
    """The budget of one connection. Not thread-safe."""

    def __init__(self, now: float) -> None:
        """Begin with a full budget at ``now``, in seconds of a monotonic clock."""
        self._budget = _CAPACITY
        self._updated_at = now
        self._preface_left = len(PREFACE)
        self._partial_head = b""
        self._payload_size = 0
        self._payload_left = 0
        self._block_size = 0
        self._in_open_block = False
        self._kept = 0

    @property
    def buffered(self) -> int:
        """Bytes of payload that h2 keeps: of a partial frame, and of an open header block.

        h2 keeps the frames of a header block until the payload of the last one is complete.
        """
        partial = self._payload_size - self._payload_left if self._payload_left else 0
        return self._kept + partial

    def earn_request(self) -> None:
        """Add what the frames of an admitted request cost."""
        self._budget = min(_CAPACITY, self._budget + _PER_REQUEST)

    def earn_sent(self, size: int) -> None:
        """Add what the WINDOW_UPDATE frames cost that acknowledge ``size`` sent bytes.

        Call this for each piece that is sent. One call earns at most the capacity. If a large
        response were counted in one call, its client would run out of budget while it reads.
        """
        self._budget = min(_CAPACITY, self._budget + _PER_KIB * size / 1024)

    def spend(self, data: bytes, now: float) -> bool:
        """Count the frames that begin in ``data``; return whether the budget allows them.

        Args:
            data: the next bytes received on the connection, cut anywhere.
            now: the present time, in seconds of the same clock.
        """
        self._budget = min(_CAPACITY, self._budget + (now - self._updated_at) * _PER_S)
        self._updated_at = now
        start = min(self._preface_left, len(data))
        self._preface_left -= start
        while start < len(data):
            if self._payload_left:
                received = min(self._payload_left, len(data) - start)
                start += received
                self._payload_left -= received
                if not self._payload_left:
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
        self._payload_left = size - (len(head) - _HEAD_SIZE)
        in_block = head[3] in (_HEADERS, _CONTINUATION)
        self._in_open_block = in_block and not head[4] & _END_HEADERS
        self._block_size = self._block_size + size if head[3] == _CONTINUATION else size
        self._budget -= _cost(head, size)
        if self._budget < 0 or size > _MAX_PAYLOAD or (in_block and self._block_size > _MAX_BLOCK):
            return False
        if not self._payload_left:
            self._end_frame()
        return True

    def _end_frame(self) -> None:
        self._kept = self._kept + self._payload_size if self._in_open_block else 0


def _needed_size(head: bytes) -> int:
    """Return the number of bytes that determine a frame's cost: its head and padding length."""
    padded = len(head) >= _HEAD_SIZE and head[3] == _DATA and head[4] & _PADDED and any(head[:3])
    return _HEAD_SIZE + 1 if padded else _HEAD_SIZE


def _cost(head: bytes, size: int) -> float:
    if head[3] == _SETTINGS:
        return 1.0 + size // _SETTING_SIZE
    padding = 1 + head[_HEAD_SIZE] if len(head) > _HEAD_SIZE else 0
    if head[3] == _DATA and size - padding >= _MIN_FREE_DATA:
        return 0.0  # bounded by flow control and by the limits on bodies
    return 1.0
