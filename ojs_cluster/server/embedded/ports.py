"""TCP ports that stay reserved while a server is down.

Several test runs start and restart servers at the same time, and a killed node needs the same port
when it restarts. So each port is reserved by a lock on a file, which every process of this project
respects. (Rejected: to let the kernel choose a port. Another process could take the port while the
node is down.) The ports are below Linux's ephemeral range, so no outgoing connection uses them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from ojs_cluster.server.private_files import open_private, private_folder

_MIN_PORT, _MAX_PORT = 10_000, 32_000
_MAX_ATTEMPTS = 500


class PortReservation:
    """A port that no other process of this project uses until ``release``."""

    __slots__ = ("_fd", "port")

    def __init__(self, port: int, fd: int) -> None:
        self.port = port
        self._fd = fd

    def release(self) -> None:
        """Release the port; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def reserve(port: int) -> PortReservation | None:
    """Reserve ``port``; return None if another process uses it.

    Raises:
        NotPrivate: another user owns the folder of the lock files.
    """
    lock = _lock_directory() / f"{port}.lock"
    fd = open_private(str(lock), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not can_bind("127.0.0.1", port):
        os.close(fd)
        return None
    return PortReservation(port, fd)


def reserve_any() -> PortReservation:
    """Reserve a random free port.

    Raises:
        OSError: no free port was found.
    """
    # Not the global generator, which tests may seed. Parallel runs would try the same ports.
    generator = random.SystemRandom()
    for _ in range(_MAX_ATTEMPTS):
        reservation = reserve(generator.randrange(_MIN_PORT, _MAX_PORT))
        if reservation is not None:
            return reservation
    raise OSError(errno.EADDRINUSE, f"no free port between {_MIN_PORT} and {_MAX_PORT}")


def can_bind(host: str, port: int) -> bool:
    """Return whether a process can listen on ``port`` of ``host`` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # SO_REUSEADDR lets two sockets bind, but only one of them may listen.
            probe.listen(1)
        except OSError:
            return False
    return True


def _lock_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"ojs-cluster-ports-{os.getuid()}"
    private_folder(directory)
    return directory
