"""One process of an embedded server or cluster."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from ojs_cluster.server.embedded.ports import PortReservation

HOST = "127.0.0.1"


class EmbeddedError(Exception):
    """A server does not run, did not start, or the cluster did not form."""


@dataclass(slots=True)
class EmbeddedNode:
    """One server process.

    Attributes:
        index: position among the nodes of the installation, from 0; masters come before replicas.
        directory: folder with the configuration, log, AOF and cluster state of the node.
        port: port for clients; 0 before the first start.
        bus_port: port of the cluster bus; 0 before the first start, and for a standalone server.
        password: password of the server; empty for none.
        process: the process that was started last, None before the first start. ``Embedded`` sets
            it.
        reservations: what keeps other programs from the two ports, from the choice of the ports to
            the removal of the installation.
    """

    index: int
    directory: Path
    port: int = 0
    bus_port: int = 0
    password: str = field(default="", repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    reservations: list[PortReservation] = field(default_factory=list, repr=False)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the process that was started last; the process may have ended.

        Raises:
            EmbeddedError: the node was never started.
        """
        if self.process is None:
            raise EmbeddedError(f"node {self.index} was never started")
        return self.process.pid

    def is_alive(self) -> bool:
        """Return whether the process exists; it may still refuse commands."""
        return self.process is not None and self.process.poll() is None

    @contextlib.contextmanager
    def client(self, *, timeout_s: float = 5.0) -> Iterator[redis.Redis]:
        """Open a redis-py client of this node alone, which must have been started.

        Raises:
            redis.RedisError: at a command, if the node does not answer it.
        """
        connection = redis.Redis(
            host=HOST,
            port=self.port,
            password=self.password or None,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        try:
            yield connection
        finally:
            connection.close()

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "server.log"

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the server's log."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])
