"""TCP keep-alive for connections that may stay idle for minutes.

A NAT gateway or firewall drops an idle connection after some minutes, and informs neither end.
Keep-alive probes prevent that. They also detect a dead peer on connections that only read, such as
those of subscriptions. By default, Linux sends the first probe after two hours.
"""

from __future__ import annotations

import socket
from typing import Protocol

IDLE_S = 15
"""Idle time in seconds before the first probe."""
INTERVAL_S = 5
"""Time in seconds between two probes."""
PROBES = 3
"""Number of unanswered probes after which the connection counts as dead."""


class _SocketOptions(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(sock: _SocketOptions, *, unacknowledged_s: float | None = None) -> None:
    """Probe a TCP connection while it is idle, and close it when the peer is silent.

    A dead peer is detected after ``IDLE_S + PROBES * INTERVAL_S`` seconds, which is 30 seconds.

    Args:
        sock: a socket, or a listening socket, whose accepted sockets inherit the options.
        unacknowledged_s: close the connection when the peer acknowledges no sent byte for this
            long, in seconds (Linux only).

    Raises:
        OSError: the socket is closed.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    times = {"TCP_KEEPIDLE": IDLE_S, "TCP_KEEPINTVL": INTERVAL_S, "TCP_KEEPCNT": PROBES}
    if unacknowledged_s is not None:
        times["TCP_USER_TIMEOUT"] = round(unacknowledged_s * 1000)
    for name, value in times.items():
        option = getattr(socket, name, None)  # some systems lack some of the options
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
