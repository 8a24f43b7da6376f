"""What one HTTP/2 connection may ask for without getting any work done. No I/O.

A frame costs its sender a few bytes and the server some 50 µs. PING, SETTINGS, WINDOW_UPDATE,
RST_STREAM and empty DATA frames can be sent without end and without a key (CVE-2019-9512, -9514,
-9515, -9518, CVE-2023-44487), so each connection has a budget of them: it fills by time, and by
the work that the frames belong to, as a client that reads large answers sends many frames.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = 9
_DATA, _HEADERS = 0x0, 0x1
_SMALL: Final = 64
"""Bytes of a DATA frame's payload that are not worth a frame."""

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

    def earn_request(self) -> None:
        """A request was admitted: the frames that belong to it are paid."""
        self._left = min(_CAPACITY, self._left + _PER_REQUEST)

    def earn_sent(self, size: int) -> None:
        """``size`` bytes were sent: the client acknowledges them by WINDOW_UPDATE frames."""
        self._left = min(_CAPACITY, self._left + _PER_KIB * size / 1024)

    def spend(self, data: bytes, now: float) -> bool:
        """Count the frames that begin in ``data``, in order; tell whether the budget allows them.

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
            missing = _HEAD - len(self._head)
            self._head += data[start : start + missing]
            start += missing
            if len(self._head) < _HEAD:
                break
            self._skip = int.from_bytes(self._head[:3])
            self._left -= self._cost(self._head[3], self._skip)
            self._head = b""
            if self._left < 0:
                return False
        return True

    @staticmethod
    def _cost(kind: int, size: int) -> float:
        if kind == _DATA and size >= _SMALL:
            return 0.0  # bounded by flow control and by the limits on bodies
        return 1.0
