"""The listening socket. A separate module, because a supervisor opens it without any HTTP code."""

from __future__ import annotations

import errno
import socket

from ojs_cluster.redis.keepalive import keep_alive

EVERYWHERE = "::"
"""Every address of both families."""
_EVERYWHERE_IPV4 = "0.0.0.0"  # noqa: S104 - only what `EVERYWHERE` is without IPv6
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def open_listener(host: str, port: int, backlog: int, write_timeout_s: float) -> socket.socket:
    """Open the listening socket that all API processes share.

    One socket with one queue, so an idle process accepts the next connection. With one socket per
    process (SO_REUSEPORT) the kernel hashes each connection to the queue of one process. In the
    queue of a dead or busy process it would be reset or late. Hashing does not balance better: of
    64 connections opened at once, 2 processes got 29 to 35 each in most runs and 22 and 42 in the
    worst, 4 processes 9 to 23.

    Args:
        host: address or name; ``::`` takes IPv4 too, and IPv4 alone on a kernel without IPv6.
        port: 0 for any.
        backlog: connections that wait to be accepted.
        write_timeout_s: a peer that acknowledges nothing for this long is dropped (Linux).

    Raises:
        OSError: the address cannot be bound.
    """
    try:
        return _open(host, port, backlog, write_timeout_s)
    except OSError as error:
        if host != EVERYWHERE or error.errno not in _NO_IPV6:
            raise
        return _open(_EVERYWHERE_IPV4, port, backlog, write_timeout_s)


def _open(host: str, port: int, backlog: int, write_timeout_s: float) -> socket.socket:
    (family, kind, proto, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit these. Keep-alive detects peers that vanished during a long poll.
        # The user timeout ends clients that stop reading and would keep their response in memory:
        # only the kernel sees whether bytes are acknowledged.
        keep_alive(listener, unacknowledged_s=write_timeout_s)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
