"""TCP keep-alive of connections that may stay idle for long.

A NAT gateway or firewall forgets a connection that carries nothing for some minutes, and tells
neither end. Probes every few seconds keep its entry. They also find a peer that is gone: a
subscription only reads, so nothing else would. Linux's own first probe comes after two hours.
"""

from __future__ import annotations

import socket
from typing import Protocol

IDLE_S = 15
"""Without traffic for this long, the first probe is sent."""
INTERVAL_S = 5
PROBES = 3
"""Probes without an answer, ``INTERVAL_S`` apart, after which the connection is dead."""


class _Options(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(sock: _Options, *, unacknowledged_s: float | None = None) -> None:
    """Send probes on an idle TCP connection, and give a silent peer up.

    A dead peer is found within ``IDLE_S + PROBES * INTERVAL_S`` seconds, 30.

    Args:
        sock: a socket, or a listener, whose accepted sockets inherit the options.
        unacknowledged_s: drop a peer that acknowledges no sent byte for this long (Linux).

    Raises:
        OSError: the socket is closed.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    times = {"TCP_KEEPIDLE": IDLE_S, "TCP_KEEPINTVL": INTERVAL_S, "TCP_KEEPCNT": PROBES}
    if unacknowledged_s is not None:
        times["TCP_USER_TIMEOUT"] = round(unacknowledged_s * 1000)
    for name, value in times.items():
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
