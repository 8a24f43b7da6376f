"""Open listening sockets.

A separate module, because the supervisor needs it and must not import any HTTP code.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from ojs_cluster.redis.keepalive import keep_alive

ALL_ADDRESSES = "::"
"""The host that stands for all addresses, IPv6 and IPv4."""
_ALL_IPV4_ADDRESSES = "0.0.0.0"  # noqa: S104 - used only if the host is ALL_ADDRESSES
_NO_ADDRESS_ERRORS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""The kernel does not have the address, for example because it has no IPv6."""


def open_listener(host: str, port: int, backlog: int, write_timeout_s: float) -> socket.socket:
    """Open the listening socket that all API processes share.

    All processes accept from one queue, so an idle process accepts the next connection. One socket
    per process with SO_REUSEPORT is not used, because the kernel then assigns each connection to a
    process by a hash. A connection in the queue of a dead process is reset, and one in the queue of
    a busy process waits. With hashing, each of 4 processes got 9 to 23 of 64 simultaneous
    connections, so it does not balance better.

    Args:
        host: address or name. ``::`` listens on IPv6 and IPv4, or only on IPv4 if the kernel has no
            IPv6. A name with several addresses listens on the first of them that the kernel has.
        port: port number; 0 for any free port.
        backlog: maximum number of connections that wait to be accepted.
        write_timeout_s: after this number of seconds without an acknowledgement from the peer, the
            kernel closes a connection that has unacknowledged data (Linux only).

    Raises:
        OSError: the address cannot be bound.
    """
    hosts = (host, _ALL_IPV4_ADDRESSES) if host == ALL_ADDRESSES else (host,)
    *others, last = (
        (family, address)
        for each in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            each, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    for family, address in others:
        try:
            return _open(family, address, backlog, write_timeout_s)
        except OSError as error:
            if error.errno not in _NO_ADDRESS_ERRORS:
                raise
    return _open(*last, backlog, write_timeout_s)


def _open(
    family: int, address: tuple[Any, ...], backlog: int, write_timeout_s: float
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit these options. TCP keep-alive detects peers that vanish during a
        # long poll. TCP_USER_TIMEOUT disconnects clients that stop reading and so keep a response
        # in memory. Only the kernel sees whether the client acknowledges bytes.
        keep_alive(listener, unacknowledged_s=write_timeout_s)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
