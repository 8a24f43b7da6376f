"""A budget for HTTP/2 frames that carry no work. No I/O.

A frame costs its sender a few bytes and the server some 50 µs. PING, SETTINGS, WINDOW_UPDATE,
RST_STREAM and empty DATA frames can be sent without end and without a key (CVE-2019-9512, -9514,
-9515, -9518, CVE-2023-44487). So each connection has a budget of them. It fills with time and with
work: a client that reads large responses sends many frames.

h2 collects a whole frame, and all frames of a header block, before it checks their size. This class
bounds both and needs only the head of a frame to refuse it.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = 9
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0x0, 0x1, 0x4, 0x9
_PADDED: Final = 0x8
_END_HEADERS: Final = 0x4
_SMALL: Final = 64
"""Bytes of a DATA frame's payload that are not worth a frame."""
_MOST_PAYLOAD: Final = 16_384
"""Bytes of one frame: SETTINGS_MAX_FRAME_SIZE as RFC 9113 sets it, which this server keeps."""
_MOST_BLOCK: Final = 32_768
"""Bytes of a header block: more than the largest list of headers takes in any encoding."""
_SETTING: Final = 6

_CAPACITY: Final = 1000.0
_PER_S: Final = 20.0
_PER_REQUEST: Final = 10.0
_PER_KIB: Final = 0.5


class FrameBudget:
    """The budget of one connection. Not thread-safe."""

    def __init__(self, now: float) -> None:
        """Begin with a full budget at ``now``, in seconds of a monotonic clock."""
        self._left = _CAPACITY
        self._at = now
        self._preface = len(PREFACE)
        self._skip = 0
        self._head = b""
        self._block = 0
        self._size = 0
        self._unfinished = 0

    @property
    def buffered(self) -> int:
        """Bytes that h2 keeps because the rest of a frame, or of a header block, is missing."""
        return self._unfinished + (self._size - self._skip if self._skip else 0)

    def earn_request(self) -> None:
        """A request was admitted: the frames that belong to it are paid."""
        self._left = min(_CAPACITY, self._left + _PER_REQUEST)

    def earn_sent(self, size: int) -> None:
        """``size`` bytes were sent: the client acknowledges them by WINDOW_UPDATE frames.

        Call this for each piece that is sent. A large response that is counted at once earns no
        more than the capacity, and its client would be cut off while it reads.
        """
        self._left = min(_CAPACITY, self._left + _PER_KIB * size / 1024)

    def spend(self, data: bytes, now: float) -> bool:
        """Count the frames that begin in ``data``; return whether the budget allows them.

        Args:
            data: what was received next on the connection, cut anywhere.
            now: the moment, in seconds of the same clock.
        """
        self._left = min(_CAPACITY, self._left + (now - self._at) * _PER_S)
        self._at = now
        start = min(self._preface, len(data))
        self._preface -= start
        while start < len(data):
            passed = min(self._skip, len(data) - start)
            self._skip -= passed
            start += passed
            if self._skip or start >= len(data):
                break
            missing = _head_size(self._head + data[start : start + _HEAD]) - len(self._head)
            self._head += data[start : start + missing]
            start += missing
            if len(self._head) < _head_size(self._head):
                break
            head, self._head = self._head, b""
            self._size = size = int.from_bytes(head[:3])
            open_block = head[3] in (_HEADERS, _CONTINUATION) and not head[4] & _END_HEADERS
            self._unfinished = self._unfinished + size if open_block else 0
            self._skip = size - (len(head) - _HEAD)
            self._left -= _cost(head, size)
            if self._left < 0 or size > _MOST_PAYLOAD or not self._fits_block(head[3], size):
                return False
        return True

    def _fits_block(self, kind: int, size: int) -> bool:
        self._block = self._block + size if kind == _CONTINUATION else size
        return kind not in (_HEADERS, _CONTINUATION) or self._block <= _MOST_BLOCK


def _head_size(head: bytes) -> int:
    """Return the number of bytes that determine a frame's cost: its head and padding length."""
    padded = len(head) >= _HEAD and head[3] == _DATA and head[4] & _PADDED and any(head[:3])
    return _HEAD + 1 if padded else _HEAD


def _cost(head: bytes, size: int) -> float:
    if head[3] == _SETTINGS:
        return 1.0 + size // _SETTING
    padding = 1 + head[_HEAD] if len(head) > _HEAD else 0
    if head[3] == _DATA and size - padding >= _SMALL:
        return 0.0  # bounded by flow control and by the limits on bodies
    return 1.0
